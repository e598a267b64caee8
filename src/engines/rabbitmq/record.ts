/**
 * What stands in the journal: one AMQP message is one record, and a record carries whatever was waiting when it was published.
 * @module
 */
import type { Addressed } from "../../engine.ts";

/** One call of `append`, all or none. `n` rises with every call of a journal, whoever owns it. */
export interface JournalCall {
  readonly n: number;
  readonly items: readonly Addressed[];
}

/** A message that needs no keeping any more for one user, or for nobody: settled, taken back or never stored there. */
export type Gone = readonly [id: string, user?: string];

export interface JournalRecord {
  /** All calls up to this number had their outcome when the record was written; what is not known of them was not stored. */
  readonly done: number;
  /** Deliveries that the index had accepted then, at least: an index with fewer is an old copy. */
  readonly accepted: number;
  readonly calls: readonly JournalCall[];
  readonly gone: readonly Gone[];
  /** Calls that were not stored, though they stand in the journal. */
  readonly void: readonly number[];
}

/** A record is closed when it has grown to about this many bytes; a single call may be larger. RabbitMQ 4 takes no message over 16 MiB. */
export const RECORD_BYTES = 1_048_576;

/** About how many bytes messages take in a record. Checks nothing: what cannot be stored is for the index to refuse (E15). */
export function sizeOf(items: readonly Addressed[]): number {
  return items.reduce((sum, { event, recipients }) => sum + (typeof event === "string" ? event.length : 0) + 200 + 60 * recipients.length, 0);
}

export function writeRecord(record: JournalRecord): Buffer {
  return Buffer.from(JSON.stringify({ v: 1, ...record }), "utf8");
}

/** Writes calls that stand in other records again, in as few records as hold them; each is written when it is asked for. */
export function* writeCalls(calls: readonly JournalCall[], { done, accepted }: Pick<JournalRecord, "done" | "accepted">): Iterable<Buffer> {
  let some: JournalCall[] = [];
  let bytes = 0;
  for (const call of calls) {
    const size = sizeOf(call.items);
    if (some.length > 0 && bytes + size > RECORD_BYTES) {
      yield writeRecord({ done, accepted, calls: some, gone: [], void: [] });
      some = [];
      bytes = 0;
    }
    some.push(call);
    bytes += size;
  }
  if (some.length > 0) yield writeRecord({ done, accepted, calls: some, gone: [], void: [] });
}

/** @returns undefined for what this version did not write */
export function readRecord(body: unknown): JournalRecord | undefined {
  if (!Buffer.isBuffer(body)) return undefined;
  try {
    const record = JSON.parse(body.toString("utf8")) as JournalRecord & { readonly v: number };
    return record.v === 1 && Array.isArray(record.calls) && Array.isArray(record.gone) && Array.isArray(record.void) ? record : undefined;
  } catch {
    return undefined;
  }
}

/** How much a record holds: deliveries, and words about them. What the cleaner weighs against what is unsettled. */
export function weightOf(record: JournalRecord): number {
  return record.gone.length + record.void.length + countDeliveries(record.calls);
}

/** Who owns a journal, and whose index belongs to it. */
export interface Owner {
  /** The index's epoch. */
  readonly index: string;
  /** A name that each opening makes anew. */
  readonly instance: string;
  /** Whether everything of the journal is in the index. */
  readonly isClean: boolean;
  /** The last number given, and the journal's weight; as of a clean end. */
  readonly n: number;
  readonly weight: number;
  /** How many records the journal held, at least, and how many deliveries the index had accepted; as of a clean end. */
  readonly records: number;
  readonly accepted: number;
}

/** What a whole journal says, put together; the order of its records does not matter. */
export class Replay {
  done = 0;
  accepted = 0;
  lastN = 0;
  weight = 0;
  unreadable = 0;
  readonly #calls = new Map<number, Map<string, Addressed>>();
  readonly #gone = new Set<string>();
  readonly #void = new Set<number>();

  add(body: unknown): void {
    const record = readRecord(body);
    if (!record) {
      this.unreadable += 1;
      return;
    }
    this.weight += weightOf(record);
    this.done = Math.max(this.done, record.done);
    this.accepted = Math.max(this.accepted, record.accepted);
    for (const n of record.void) this.#void.add(n);
    for (const [id, user] of record.gone) this.#gone.add(goneName(id, user));
    for (const { n, items } of record.calls) {
      this.lastN = Math.max(this.lastN, n);
      const known = this.#calls.get(n) ?? new Map<string, Addressed>();
      this.#calls.set(n, known);
      // A crash in the midst of cleaning leaves a call twice: whole, and what was left of it.
      for (const item of items) {
        const first = known.get(item.id);
        if (!first || first.recipients.length < item.recipients.length) known.set(item.id, item);
      }
    }
  }

  /** Calls that nothing speaks against, in the order of their acceptance, with the recipients that still wait. */
  *calls(): Iterable<JournalCall> {
    for (const n of [...this.#calls.keys()].sort((one, other) => one - other)) {
      if (this.#void.has(n)) continue;
      const items: Addressed[] = [];
      for (const item of this.#calls.get(n)?.values() ?? []) {
        if (this.#gone.has(goneName(item.id))) continue;
        const recipients = item.recipients.filter(({ user }) => !this.#gone.has(goneName(item.id, user)));
        if (recipients.length > 0) items.push({ ...item, recipients });
      }
      if (items.length > 0) yield { n, items };
    }
  }
}

/** How many deliveries some calls hold. */
export function countDeliveries(calls: Iterable<JournalCall>): number {
  let count = 0;
  for (const { items } of calls) for (const { recipients } of items) count += recipients.length;
  return count;
}

function goneName(id: string, user?: string): string {
  return user === undefined ? id : `${id} ${user}`;
}
