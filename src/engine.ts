/**
 * Where messages live until they are settled. An engine implements {@link Engine} and passes `testing/engine-suite.ts`.
 *
 * The division of work: an engine makes messages durable, numbers them per mailbox, and gives each exactly one ending per
 * recipient. It knows nothing of connections, windows or tokens. The hub knows who is connected and what each was handed.
 * @module
 */
import type { Accepted } from "./answers.ts";
import type { HandoverError } from "./errors.ts";
import type { Epoch, MessageId, ReceiverId, Seq, SessionId, UserId } from "./protocol.ts";

/** How a message ends, once per recipient (PROTOCOL.md, promise 2). */
export type Ending = "acked" | "expired" | "replaced" | "evicted" | "dead";

/** What an engine can do; the published suite reads it, and a request for what is `false` is refused with `unsupported`. */
export interface EngineSupports {
  /** What an accepted message survives: a power cut, the end of the process, or nothing. */
  readonly durable: "power" | "process" | "no";
  /** Whether several nodes may share it. */
  readonly manyNodes: boolean;
  /** `Topic`: a new message replaces the unsettled one of the same source, address and topic. */
  readonly topic: boolean;
  /** {@link Engine.evict}. */
  readonly takeBack: boolean;
  /** {@link Engine.find}, until 24 h after a message's last ending. */
  readonly state: boolean;
  /** Receipts written with the ending. */
  readonly receipts: boolean;
}

/** One mailbox that a message goes to; with `session`, for the receivers of that session only. */
export interface Recipient {
  readonly user: UserId;
  readonly session?: SessionId;
}

/** A message with its recipients resolved, ready to be stored. */
export interface Addressed {
  readonly id: MessageId;
  /** `/users/{user}` or `/services/{name}`: who sent it. */
  readonly source: string;
  /** The whole CloudEvent as JSON text: written once, stored and passed on as it is. */
  readonly event: string;
  /** Acceptance, ms since the Unix epoch. */
  readonly acceptedAtMs: number;
  /** End of its time to live, ms since the Unix epoch. At or before `acceptedAtMs`: it is stored as `expired` and delivered to nobody. */
  readonly expiresAtMs: number;
  /** At least one; no user twice. */
  readonly recipients: readonly Recipient[];
  /** What {@link Accepted.ttl} shall say; the two times do not say it for TTL 0. */
  readonly ttlSeconds: number;
  /** RFC 8030's Topic; only where `supports.topic`. */
  readonly topic?: string;
  /** Key and hash of the content; kept for 24 h in the same commit as the message, per source. */
  readonly idempotency?: { readonly key: string; readonly hash: string };
}

/** What became of one {@link Addressed}. */
export type Appended =
  | { readonly outcome: "stored"; readonly accepted: Accepted }
  /** The key was there with the same hash: the first answer; nothing new was stored. */
  | { readonly outcome: "repeated"; readonly accepted: Accepted }
  /** The key was there with another hash. */
  | { readonly outcome: "conflict" }
  /** The first request with this key is not committed yet. */
  | { readonly outcome: "in-progress" }
  /** The mailboxes of all recipients are full. */
  | { readonly outcome: "full" }
  /** It is addressed to a session that has ended. */
  | { readonly outcome: "session-ended" }
  /** It would have been stored, but another item of the same call was not. */
  | { readonly outcome: "not-stored" };

/** One unsettled message in one mailbox. */
export interface Entry {
  readonly seq: Seq;
  readonly id: MessageId;
  /** 1, and one more for each nack. */
  readonly deliveryCount: number;
  /** The CloudEvent's JSON text. */
  readonly event: string;
  readonly session?: SessionId;
}

/** The ending of one entry. */
export interface Ended {
  readonly seq: Seq;
  readonly id: MessageId;
  readonly ending: Ending;
}

/** Numbers `from`..`to` (both included) in which something ended unacknowledged and nothing unsettled lies. */
export interface Gap {
  readonly from: Seq;
  readonly to: Seq;
  readonly reason: Exclude<Ending, "acked"> | "unknown";
}

/** A change that a receiver asks for. Sequence numbers that are not (or no longer) in the mailbox are passed over. */
export type Settlement =
  | { readonly kind: "acked"; readonly seqs: readonly Seq[] }
  /** Everything up to `upto` that is for `session` or for the whole mailbox, except `except`. */
  | { readonly kind: "acked-upto"; readonly upto: Seq; readonly except: readonly Seq[] }
  /** To the dead letters. */
  | { readonly kind: "rejected"; readonly seq: Seq; readonly reason: string }
  /** Again under a new number at the end, after `retryAfterMs`; `dead` when it was delivered `maxAttempts` times. */
  | { readonly kind: "nacked"; readonly seq: Seq; readonly retryAfterMs: number }
  /** Seen by this receiver of the session and left unsettled on purpose: remembered until it ends or gets another number. No ending. */
  | { readonly kind: "held"; readonly receiver: ReceiverId; readonly seqs: readonly Seq[] }
  /** What this receiver holds above a number it holds no longer. No ending. */
  | { readonly kind: "released"; readonly receiver: ReceiverId; readonly above: Seq };

/**
 * What a mailbox remembers of holds at most: receivers, and numbers of all of them together. Beyond that, the receiver that held something
 * longest ago is forgotten.
 */
export const HOLD_BOUNDS = { receivers: 1_000, holds: 50_000 } as const;

/** What one read of a mailbox found, in the order of the numbers. */
export interface Page {
  readonly entries: readonly Entry[];
  readonly gaps: readonly Gap[];
  /** The number up to which this read has looked: `head` at that moment; the last entry, when the limit cut it short; less, when there were very many gaps. */
  readonly upto: Seq;
}

/** State of a message for one of its recipients. */
export interface RecipientState {
  readonly user: UserId;
  readonly state: "waiting" | Ending;
  /** When it ended, ms since the Unix epoch. */
  readonly endedAtMs?: number;
}

export interface MessageState {
  readonly source: string;
  readonly recipients: readonly RecipientState[];
}

/** What the end of a session brought with it. */
export interface SessionEnd {
  /** Whose it was, as far as it was known. */
  readonly users: readonly UserId[];
  /** What was addressed to it and is `evicted` by this. */
  readonly evicted: readonly { readonly id: MessageId; readonly user: UserId }[];
}

/** The live tail of a mailbox: called by the engine, in the order of the numbers, after the commit. Must not throw. */
export interface MailboxEvents {
  /** New entries at the end; `read` would find them too. */
  deliver(entries: readonly Entry[]): void;
  /** Endings that no `settle` of this attachment caused. */
  ended(endings: readonly Ended[]): void;
  /** This attachment is over; attach again, perhaps under a new epoch. */
  lost(cause: HandoverError): void;
}

/** One mailbox, held open by one node while the user has receivers there. */
export interface Attachment {
  readonly epoch: Epoch;
  /** The last number given when this was attached; 0 in an empty mailbox. */
  readonly head: Seq;
  /**
   * Unsettled entries above `after` that are for `session` or for the whole mailbox, at most `limit` entries and about `maxBytes`
   * of events (at least one entry), and the gaps among them. Expired and delayed ones are left out.
   */
  read(request: { readonly after: Seq; readonly limit: number; readonly maxBytes: number; readonly session: SessionId }): Promise<Page>;
  /**
   * Settles on behalf of a receiver of `session`: one commit, durable when it resolves. What is addressed to another session is
   * passed over.
   * @returns what newly ended, in order; holds and releases are not endings, and nacks are not unless the message is `dead` by them
   * @throws HandoverError store-unavailable: nothing was changed, or it is not known to be safe everywhere yet; in that case the attachment
   *   is `lost`, what was settled is delivered no more, and a repeat after attaching again is answered when it is safe
   */
  settle(changes: readonly Settlement[], session: SessionId): Promise<readonly Ended[]>;
  /** What a receiver of this session holds, ascending. */
  held(receiver: ReceiverId, session: SessionId): Promise<readonly Seq[]>;
  detach(): Promise<void>;
}

/** Told once, when the store can no longer be trusted (a failed or hanging commit). The process must stop; nothing was lost. */
export type EngineFailed = (cause: HandoverError) => void;

/** One commit of an engine, for its metrics. */
export interface CommitDone {
  /** Messages that it stored or settled. */
  readonly messages: number;
  readonly durationMs: number;
}

/** Deliveries (a message for one recipient) since the store was made: `accepted` is the sum of all the others. */
export type Totals = Readonly<Record<"accepted" | "unsettled" | Ending, number>>;

/** A backup, to be read to its end or destroyed. */
export interface BackupFile {
  readonly bytes: number;
  readonly content: NodeJS.ReadableStream;
}

export interface Engine {
  readonly name: string;
  readonly supports: EngineSupports;
  /** @throws HandoverError store-unavailable, with a sentence for the operator, when the store is in use, damaged or of a newer version */
  open(failed: EngineFailed): Promise<void>;
  /**
   * Stores messages: one commit, all or none. Resolves once they survive what `supports.durable` says. Calls made while a commit
   * is under way share the next one, without sharing a fate.
   * @returns one outcome per item, in order; unless every item is stored or repeated, nothing of the call is stored
   * @throws HandoverError store-full (nothing was stored) | store-unavailable: it counts as not stored, and is delivered to nobody while this
   *   engine lives; when the commit's outcome is not known (a disk that hangs, a broker that does not confirm) and the process ends before the
   *   engine has struck it out, the next start may find it stored. An idempotency key makes sending it again safe
   */
  append(batch: readonly Addressed[]): Promise<readonly Appended[]>;
  /**
   * Stores messages that have nothing to do with one another: each as if it were appended by itself, where possible in one commit. Never throws.
   * @returns per item, in order, its outcome, or what {@link append} would have thrown
   */
  appendEach(batch: readonly Addressed[]): Promise<readonly (Appended | HandoverError)[]>;
  /** Opens the live tail of a mailbox; a mailbox nobody has written to is empty. At most one attachment per user and engine object. */
  attach(user: UserId, events: MailboxEvents): Promise<Attachment>;
  /** State of a message, or undefined when it is not (or no longer) known. Only where `supports.state`. */
  find(id: MessageId): Promise<MessageState | undefined>;
  /** Takes a message back from those who have not settled it. Only where `supports.takeBack`. @returns how many that were */
  evict(id: MessageId): Promise<number>;
  /**
   * Makes it known, durably when it resolves, that a session is this user's, until `untilMs` (ms since the Unix epoch) at least. Two users with a
   * session of the same name have two sessions. Costs no commit when it says nothing new.
   * @returns false when the session has ended; nothing is changed then
   */
  admitSession(session: SessionId, user: UserId, untilMs: number): Promise<boolean>;
  /** Whose a session is, in the order of their names, at most `limit`; also after its end, as long as it is known. {@link append} says whether it has ended. */
  usersOfSession(session: SessionId, limit: number): Promise<readonly UserId[]>;
  /**
   * Ends a session, for every user who has one of that name, seen before or not: in one commit, everything unsettled that is addressed to it is
   * `evicted`, and nothing more is accepted for it. It stays ended for 366 days, and as long as it was known. Ending it again does no harm.
   * @throws HandoverError store-full | store-unavailable (perhaps it has ended; ask again)
   */
  endSession(session: SessionId): Promise<SessionEnd>;
  /** The exact accounting of promise 2: what was accepted, how it ended, and what has not. Each number is as durable as the change it counts. */
  totals(): Promise<Totals>;
  /**
   * A copy of the store as it is at one moment, made while it goes on; only where an engine can. One at a time.
   * @returns the copy; nothing of it stays here
   * @throws HandoverError store-full | rate-limited | store-unavailable
   */
  backup?(): Promise<BackupFile>;
  /** Commits what was asked, then closes. Later calls are refused with store-unavailable. */
  close(): Promise<void>;
}
