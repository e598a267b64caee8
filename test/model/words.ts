/**
 * What the reference model keeps: plain data, so that a state can be copied.
 * @module
 */

export type Ending = "acked" | "expired" | "replaced" | "evicted" | "dead";

/** A message as it is asked for. */
export interface Sending {
  readonly to: readonly string[];
  /** For the receivers of this session only. */
  readonly session?: string | undefined;
  readonly data: number;
  /** Seconds. */
  readonly ttl?: number | undefined;
  readonly topic?: string | undefined;
  readonly key?: string | undefined;
}

/** An acknowledgement's forms. */
export interface Forms {
  readonly upto?: number;
  readonly seqs?: number[];
  readonly nack?: { readonly seq: number; readonly retryAfter?: number }[];
  readonly reject?: { readonly seq: number }[];
  readonly hold?: number[];
}

export interface Delivery {
  readonly seq: number;
  readonly deliveryCount: number;
  readonly id: string;
  readonly data: unknown;
}

export interface Gap {
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

/** What the server must have answered to a message. */
export type Outcome = { readonly message: Message } | { readonly code: "key-reuse" | "mailbox-full" | "unknown" | "invalid" };

export interface Message {
  /** The server's, once it has said it. */
  id: string;
  readonly source: string;
  readonly sending: Sending;
  readonly ttl: number;
  readonly expiresAtMs: number;
  readonly copies: Copy[];
  readonly refused: readonly string[];
}

/** One message for one recipient: what gets exactly one ending. */
export interface Copy {
  readonly message: Message;
  readonly box: Box;
  /** Its number; none while a nack delays it. */
  seq: number | undefined;
  count: number;
  /** When it comes again. */
  backAtMs: number;
  ending: Ending | undefined;
  /** The step in which it ended, and the receiver that did it. */
  endedIn: number;
  endedBy: string | undefined;
  /** TTL 0: for these receivers only. */
  only: ReadonlySet<string> | undefined;
  /** The receivers that hold it. */
  readonly heldBy: Set<string>;
}

/** A mailbox: `numbers[n]` is what was given the number n, now perhaps under another. */
export interface Box {
  readonly user: string;
  readonly numbers: (Copy | undefined)[];
}

/** A receiver, as long as the server remembers it. */
export interface Reader {
  readonly key: string;
  readonly session: string;
  readonly box: Box;
  /** Most deliveries in flight; undefined when nobody is connected. */
  window: number | undefined;
  polls: boolean;
  /** When its last connection or poll ended, or when it was first heard of. */
  seenAtMs: number;
  /** The number up to which its connection or poll has been given its mail, and what the client says it has received. */
  position: number;
  claimed: number;
  /** A new receiver is told of no gaps from before it came. */
  gapsFrom: number;
  readonly given: Set<number>;
  readonly inFlight: Set<number>;
  /** Numbers that ended by somebody else while it had them: it must be told `settled`. */
  readonly owed: Set<number>;
}

/** Everything. */
export interface State {
  nowMs: number;
  step: number;
  readonly boxes: Map<string, Box>;
  readonly messages: Message[];
  readonly keys: Map<string, Message>;
  readonly readers: Map<string, Reader>;
  readonly endedSessions: Set<string>;
}
