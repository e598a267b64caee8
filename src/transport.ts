/**
 * The wire's side of the core: a transport turns a connection or a poll into a {@link Link} and gives it to the hub through
 * {@link Gateway}; it knows nothing else of the core, and the core knows nothing of sockets.
 * @module
 */
import type { Accepted } from "./answers.ts";
import type { HandoverError } from "./errors.ts";
import type { AckForms, Epoch, Identity, ReceiverId, Seq, ServerFrame, SessionId, UserId, UserIdentity } from "./protocol.ts";

/** One live way to reach one receiver: a connection, or one held poll. */
export interface Link {
  readonly kind: "websocket" | "sse" | "poll";
  /**
   * Takes one frame. Called in order; must not throw.
   * @returns whether more may follow now; after false, the transport says {@link Channel.drained} when it may
   */
  send(frame: ServerFrame): boolean;
  /** The hub is done with this link, and why; the transport closes the connection or answers the poll. */
  close(reason: HandoverError): void;
}

/** Where a receiver goes on. */
export interface Resume {
  /** None: the hub makes one. */
  readonly receiver: ReceiverId | undefined;
  /** None: a new receiver, from the start. */
  readonly epoch: string | undefined;
  /** What the client has received. */
  readonly cursor: Seq;
  /** Most deliveries in flight; on long polling, most deliveries in this answer. */
  readonly window: number;
}

/** A link as the hub sees it. */
export interface Channel {
  readonly receiver: ReceiverId;
  readonly epoch: Epoch;
  /** The last number given in this mailbox. */
  head(): Seq;
  /** Whether epoch and cursor were taken up. If not, everything unsettled comes again. */
  readonly resumed: boolean;
  /** How far its mailbox has been handed to this link: what a client may use as its next cursor. Undefined once a newer link took over. */
  position(): Seq | undefined;
  /** The link may take frames again. */
  drained(): void;
  /**
   * The connection or poll is over. Nothing is settled by that; safe to call more than once.
   * @param isReturning  its client comes back at once, by itself, and counts as live meanwhile
   */
  closed(isReturning?: boolean): void;
}

/** Acknowledgements of one receiver. */
export interface Acknowledgement extends AckForms {
  readonly receiver: ReceiverId;
  readonly epoch: string | undefined;
  /** What the client says it has received; on a connection, undefined: the connection knows. */
  readonly cursor: Seq | undefined;
}

/** All that a transport is given of the core. */
export interface Gateway {
  /**
   * Who this is: at once, where nobody has to be asked.
   * @param credential  a token or a service key, without `Bearer`
   * @throws HandoverError token-invalid | token-expired
   */
  authenticate(credential: string | undefined): Identity | Promise<Identity>;
  /** @throws HandoverError forbidden, when it is a service or has no scope `receive` */
  requireReceiver(identity: Identity): UserIdentity;
  /**
   * Whose a session is, ended or not; nobody's, when it is not known here.
   * @throws HandoverError store-unavailable
   */
  usersOfSession(session: SessionId): Promise<readonly UserId[]>;
  /**
   * Watches a session for a connection that has no receiver; one with a receiver is a link, and is closed with its session anyway.
   * @param close  called once, when the session ends
   * @returns what ends the watch
   * @throws HandoverError token-invalid, when it has ended already | store-unavailable
   */
  watch(identity: UserIdentity, close: (reason: HandoverError) => void): Promise<() => void>;
  /**
   * Attaches a link to its receiver, which may have had others before. The end of the session closes it, with `session-ended`. Resolves when everything that was waiting, or as much as
   * the window takes, has been sent to the link.
   * @throws HandoverError token-invalid, when the session has ended | rate-limited | store-unavailable | draining
   */
  open(identity: UserIdentity, link: Link, resume: Resume): Promise<Channel>;
  /**
   * Settles, durably when it resolves.
   * @returns how many messages it newly settled
   * @throws HandoverError token-invalid, when the session has ended | store-unavailable (nothing was settled)
   */
  acknowledge(identity: UserIdentity, acknowledgement: Acknowledgement): Promise<number>;
  /**
   * Sends one message. Never throws: what goes wrong, bad input too, is the result. Calls made in one turn share a commit, never a fate.
   * @param message  as received: it is validated here
   */
  send(identity: Identity, message: unknown): Promise<Accepted | HandoverError>;
  /** Sends the messages of a `send` frame, each with its `ref`, which have nothing to do with one another: {@link send} of each, for less. */
  sendEach(identity: Identity, messages: readonly unknown[]): Promise<readonly (Accepted | HandoverError)[]>;
}
