/**
 * What the two threads of the SQLite engine say to each other. Plain arrays of plain values: they are copied between the threads, and
 * a copy of few strings in flat arrays costs a fraction of one of nested objects.
 * @module
 */
import type { Totals } from "../../engine.ts";
import type { ErrorCode } from "../../errors.ts";

/** Endings travel and are counted by their place in this list. */
export const ENDINGS = ["acked", "expired", "replaced", "evicted", "dead"] as const;
export const [ACKED, EXPIRED, REPLACED, EVICTED, DEAD] = [0, 1, 2, 3, 4] as const;

/** Where, in the data folder, a copy is while it is made: one at a time. */
export const COPY = "backup.part";

/** One message to append: `sessions` has one element per user, or is null when no recipient names one. */
export type AppendItem = readonly [
  id: string,
  source: string,
  event: string,
  bytes: number,
  acceptedAtMs: number,
  expiresAtMs: number,
  ttlSeconds: number,
  users: readonly string[],
  sessions: readonly (string | null)[] | null,
  topic: string | null,
  key: string | null,
  hash: string | null,
];
export type Change =
  | readonly ["acked", readonly number[]]
  | readonly ["acked-upto", number, readonly number[]]
  | readonly ["rejected", number, string]
  | readonly ["nacked", number, number]
  | readonly ["held", receiver: string, readonly number[]]
  | readonly ["released", receiver: string, above: number];

export type Op =
  | readonly ["append", readonly AppendItem[]]
  | readonly ["each", readonly AppendItem[]]
  | readonly ["attach", user: string]
  | readonly ["detach", user: string]
  | readonly ["read", user: string, session: string, after: number, limit: number, maxBytes: number]
  | readonly ["settle", user: string, session: string, readonly Change[]]
  | readonly ["held", user: string, session: string, receiver: string]
  | readonly ["find", id: string]
  | readonly ["evict", id: string]
  | readonly ["admit", session: string, user: string, untilMs: number]
  | readonly ["users", session: string, limit: number]
  | readonly ["end", session: string]
  | readonly ["unsettled", afterMessage: string, afterMailbox: number]
  | readonly ["totals"]
  /** By how much the time of day was set back; 0 when nobody knows, null when it was not. */
  | readonly ["sweep", setBackMs: number | null];

/** Per item: the numbers given, in the order of the recipients, 0 for a full mailbox; or the first answer as JSON; or why not. */
export type AppendResult = readonly number[] | string | typeof CONFLICT | typeof FULL | typeof NOT_STORED | typeof SESSION_ENDED;
export const [CONFLICT, FULL, NOT_STORED, SESSION_ENDED] = [-1, -2, -3, -4] as const;

/** `ending`: its place in ENDINGS. */
export type EndedRow = readonly [seq: number, id: string, ending: number];
export type EntryRow = readonly [seq: number, id: string, deliveryCount: number, event: string, session: string | null];
/** What one step of a read found up to `lookedAt`; `more`: it stopped for its own length, not for the limit. */
export interface ReadResult {
  readonly entries: readonly EntryRow[];
  /** Flat triples: from, to, place of the reason in ENDINGS or -1 for unknown. */
  readonly gaps: readonly number[];
  readonly lookedAt: number;
  readonly more: boolean;
}
export interface FindResult {
  readonly source: string;
  /** Per recipient: user, ending or null, when it ended. */
  readonly recipients: readonly (readonly [string, string | null, number | null])[];
}

export interface EndResult {
  readonly users: readonly string[];
  readonly evicted: readonly (readonly [id: string, user: string])[];
}

/** One delivery that waits; `place` orders messages by acceptance. */
export type UnsettledRow = readonly [
  place: number,
  id: string,
  source: string,
  event: string,
  expiresAtMs: number,
  topic: string | null,
  user: string,
  session: string | null,
];
/** One step of a walk through all deliveries; `after`: where the next one begins, null at the end. */
export interface UnsettledResult {
  readonly rows: readonly UnsettledRow[];
  readonly after: readonly [message: string, mailbox: number] | null;
}

export interface ResultOf {
  append: readonly AppendResult[];
  each: readonly (AppendResult | Refusal)[];
  attach: number;
  detach: null;
  read: ReadResult;
  settle: readonly EndedRow[];
  held: readonly number[];
  find: FindResult | null;
  evict: number;
  admit: boolean;
  users: readonly string[];
  end: EndResult;
  unsettled: UnsettledResult;
  totals: Totals;
  /** Whether there is more to sweep at once. */
  sweep: boolean;
}
/** An op whose input could not be carried out, or for which there was no room. */
export interface Refusal {
  readonly refused: ErrorCode;
  readonly message: string;
}
export type Result = ResultOf[keyof ResultOf] | Refusal;

/** What an op did to mailboxes besides its result, for the live tails. */
export type Happening =
  | readonly [op: number, kind: "ended", user: string, row: EndedRow]
  | readonly [op: number, kind: "again", user: string, entry: EntryRow];

/**
 * Most that one batch adds to the file, except when it is one call that is larger: its commit stays far below the commit's timeout, and far below
 * the room that is kept for a full disk.
 */
export const MAX_BATCH_BYTES = 3_000_000;

export interface Batch {
  readonly nowMs: number;
  readonly ops: readonly Op[];
  /** About what it adds to the file, or as much work as adding that. */
  readonly bytes: number;
}

export type ToWorker =
  | { readonly kind: "batch"; readonly batch: Batch }
  | { readonly kind: "rest" }
  | { readonly kind: "copy" }
  | { readonly kind: "close" };
export type FromWorker =
  | { readonly kind: "open"; readonly epoch: string; readonly log: readonly string[] }
  | { readonly kind: "refused"; readonly message: string }
  | {
      readonly kind: "done";
      readonly results: readonly Result[];
      readonly happenings: readonly Happening[];
      /** The earliest time, ms since the Unix epoch, at which a sweep is known to have something to do; null: not known to have changed. */
      readonly dueMs: number | null;
      readonly wrote: boolean;
      /** From the transaction's beginning to its end on the disk. */
      readonly durationMs: number;
      /** Damaged messages found since the store was opened. */
      readonly damages: number;
      readonly log: readonly string[];
    }
  /** Upkeep of the file was done as far as one step goes. */
  | { readonly kind: "rested"; readonly more: boolean; readonly log: readonly string[] }
  | { readonly kind: "failed"; readonly message: string; readonly isDamaged: boolean; readonly log: readonly string[] }
  /** A copy of the store was made, or why not. */
  | { readonly kind: "copied"; readonly refusal: Refusal | null }
  | { readonly kind: "closed" };

export interface WorkerOptions {
  readonly dir: string;
  readonly mailboxMaxMessages: number;
  readonly mailboxMaxBytes: number;
  readonly maxAttempts: number;
  readonly reserveBytes: number;
}

export interface WorkerData extends WorkerOptions {
  /** How many batches were posted, as one number that both threads see: so the worker knows whether another one waits. */
  readonly batches: Int32Array<SharedArrayBuffer>;
}
