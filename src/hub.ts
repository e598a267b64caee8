/**
 * The core: takes messages, gives them to the engine; takes links, gives them their mail. All of it in three legs:
 *
 *     store     send → engine.append ──(durable)──▶ 201
 *     deliver   engine → mailbox.deliver → receiver → link.send
 *     ack       acknowledge → mailbox → attachment.settle ──(durable)──▶ gone
 * @module
 */
import { randomUUID } from "node:crypto";
import type { Accepted } from "./answers.ts";
import { requireReceiver, requireUnexpired, sourceOf } from "./auth.ts";
import { OpenChannel } from "./channel.ts";
import type { Addressed, Appended, Engine, MessageState, Recipient } from "./engine.ts";
import { asHandoverError, HandoverError } from "./errors.ts";
import { isLive, Mailbox } from "./mailbox.ts";
import { type AcceptanceRules, prepareMessage } from "./message.ts";
import type { Census, Metrics } from "./metrics.ts";
import {
  type Identity,
  type MessageId,
  type MessageRequest,
  PROTOCOL,
  parse,
  type ReceiverId,
  SCHEMAS,
  type SessionId,
  type UserId,
  type UserIdentity,
} from "./protocol.ts";
import type { Receiver } from "./receiver.ts";
import { Sessions, type SessionWatch } from "./sessions.ts";
import type { Acknowledgement, Channel, Gateway, Link, Resume } from "./transport.ts";

/** How often receivers that went away are looked at. */
const HOUSEKEEPING_MS = 5_000;

export interface HubOptions {
  readonly engine: Engine;
  /** @throws HandoverError token-invalid | token-expired */
  readonly authenticate: (credential: string | undefined) => Identity | Promise<Identity>;
  readonly maxMessageBytes: number;
  readonly maxTtlSeconds: number;
  /** Most receivers of one user with a connection or poll at the same time. */
  readonly maxReceiversPerUser: number;
  /** Whether a user exists. Where the server does not know its users, everybody does. */
  readonly isKnown: (user: UserId) => boolean;
  /** What went wrong inside, for the log. */
  readonly onError?: (error: HandoverError) => void;
  /** Counts what happens here. */
  readonly metrics?: Metrics;
  /** The time of day, ms since the Unix epoch: when a message was accepted. Whatever lasts is measured by `performance.now()`. */
  readonly now?: () => number;
}

export class Hub implements Gateway {
  readonly requireReceiver = requireReceiver;
  readonly sessions: Sessions;
  readonly #engine: Engine;
  readonly #options: HubOptions;
  readonly #now: () => number;
  readonly #rules: Omit<AcceptanceRules, "usersOfSession">;
  readonly #mailboxes = new Map<UserId, Promise<Mailbox>>();
  /** The same mailboxes, once they are attached: for what cannot wait. */
  readonly #attached = new Map<UserId, Mailbox>();
  readonly #housekeeping: NodeJS.Timeout;
  /** While it is about to stop: the time over which everybody is to come back, ms. */
  #returnMs: number | undefined;
  #storeFullUntilMs = 0;

  constructor(options: HubOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.sessions = new Sessions(options.engine);
    this.#now = options.now ?? Date.now;
    this.#rules = {
      maxMessageBytes: options.maxMessageBytes,
      maxTtlSeconds: options.maxTtlSeconds,
      supports: options.engine.supports,
      now: this.#now,
      isKnown: options.isKnown,
      isLive: ({ user, session }: Recipient) => this.#attached.get(user)?.isLive(session) ?? false,
    };
    this.#housekeeping = setInterval(() => this.#forgetAbsent(), HOUSEKEEPING_MS);
    this.#housekeeping.unref();
  }

  /** Whether the store had no room for the last messages, a moment ago. */
  get isStoreFull(): boolean {
    return performance.now() < this.#storeFullUntilMs;
  }

  get isDraining(): boolean {
    return this.#returnMs !== undefined;
  }

  authenticate(credential: string | undefined): Identity | Promise<Identity> {
    const identity = this.#options.authenticate(credential);
    const isAtHand = !(identity instanceof Promise) && (identity.kind === "service" || this.sessions.isAdmitted(identity));
    return isAtHand ? identity : this.#admitted(identity);
  }

  async #admitted(authenticated: Identity | Promise<Identity>): Promise<Identity> {
    const identity = await authenticated;
    if (identity.kind === "user") await this.sessions.admit(identity);
    return identity;
  }

  async watch(identity: UserIdentity, close: (reason: HandoverError) => void): Promise<() => void> {
    const watch = this.sessions.watch(identity.session, close);
    try {
      await this.sessions.admit(identity);
      watch.requireGoing();
    } catch (thrown) {
      watch.stop();
      throw thrown;
    }
    return () => watch.stop();
  }

  usersOfSession(session: SessionId): Promise<readonly UserId[]> {
    return this.sessions.usersOf(session, PROTOCOL.maxRecipients + 1);
  }

  /**
   * Ends a session for ever: durable when it resolves, its connections and polls are let go by then.
   * @throws HandoverError store-unavailable | store-full (perhaps it has ended; ask again)
   */
  async endSession(session: SessionId): Promise<void> {
    for (const user of await this.sessions.end(session)) this.#attached.get(user)?.forgetSession(session);
  }

  async send(identity: Identity, request: unknown): Promise<Accepted | HandoverError> {
    const [result] = await this.sendAll(identity, [request]);
    return result ?? new HandoverError("internal", "The message got no answer.");
  }

  /**
   * Sends messages in one commit, all or none. Never throws: what goes wrong is in the results.
   * @param requests  as received: they are validated here
   * @returns one result per message, in order; if one is an error, none was stored
   */
  async sendAll(identity: Identity, requests: readonly unknown[]): Promise<readonly (Accepted | HandoverError)[]> {
    const startedAtMs = performance.now();
    try {
      const prepared = await this.#prepare(identity, requests);
      if (!prepared.every(isPrepared)) return prepared.map((each) => this.#counted(isPrepared(each) ? notStored() : each));
      await this.#announce(prepared);
      const outcomes = await this.#engine.append(prepared);
      this.#options.metrics?.accepted(performance.now() - startedAtMs);
      return outcomes.map((appended) => this.#counted(resultOf(appended), appended.outcome === "repeated"));
    } catch (thrown) {
      const error = this.#reported(thrown);
      return requests.map(() => this.#counted(error));
    }
  }

  async sendEach(identity: Identity, requests: readonly unknown[]): Promise<readonly (Accepted | HandoverError)[]> {
    const startedAtMs = performance.now();
    try {
      const prepared = await this.#prepare(identity, requests, SCHEMAS.framedMessage);
      const good = prepared.filter(isPrepared);
      await this.#announce(good);
      const outcomes = good.length === 0 ? [] : await this.#engine.appendEach(good);
      const durationMs = performance.now() - startedAtMs;
      let next = 0;
      return prepared.map((each) => {
        if (!isPrepared(each)) return this.#counted(each);
        const outcome = outcomes[next++] ?? notStored();
        if (outcome instanceof HandoverError) return this.#counted(this.#reported(outcome));
        this.#options.metrics?.accepted(durationMs);
        return this.#counted(resultOf(outcome), outcome.outcome === "repeated");
      });
    } catch (thrown) {
      const error = this.#reported(thrown);
      return requests.map(() => this.#counted(error));
    }
  }

  /** Who may, to whom: each request as the engine takes it, or why not. @throws HandoverError what refuses all of them */
  async #prepare(
    identity: Identity,
    requests: readonly unknown[],
    schema: typeof SCHEMAS.message | typeof SCHEMAS.framedMessage = SCHEMAS.message,
  ): Promise<readonly (Addressed | HandoverError)[]> {
    if (this.isDraining) throw this.draining();
    requireUnexpired(identity);
    // The body may have taken its time.
    if (identity.kind === "user" && !this.sessions.isAdmitted(identity)) await this.sessions.admit(identity);
    const orError = <T, U>(make: (each: T) => U) => {
      return (each: T | HandoverError): U | HandoverError => {
        try {
          return each instanceof HandoverError ? each : make(each);
        } catch (thrown) {
          return this.#reported(thrown);
        }
      };
    };
    const parsed = requests.map(orError((request: unknown) => parse(schema, request, "The message")));
    // Most name users, and nobody has to be asked for those.
    const users = identity.kind === "service" ? await this.#usersOfSessions(parsed) : undefined;
    const rules = { ...this.#rules, usersOfSession: (session: SessionId) => users?.get(session) ?? [] };
    return parsed.map(orError((request: MessageRequest) => prepareMessage(identity, request, rules)));
  }

  #counted(result: Accepted | HandoverError, isRepeat = false): Accepted | HandoverError {
    this.#options.metrics?.sent(result instanceof HandoverError ? result.code : isRepeat ? "repeated" : "accepted");
    // What was taken had room.
    if (!(result instanceof HandoverError)) this.#storeFullUntilMs = 0;
    return result;
  }

  /**
   * The state of a message, for its sender and for services.
   * @throws HandoverError unknown (also when it is somebody else's) | unsupported | store-unavailable
   */
  async state(identity: Identity, id: MessageId): Promise<MessageState> {
    if (!this.#engine.supports.state) throw new HandoverError("unsupported", "The store of this server does not keep the state of messages.");
    const state = await this.#engine.find(id);
    if (!state || (identity.kind === "user" && state.source !== sourceOf(identity))) {
      throw new HandoverError("unknown", "No message of yours has this id, or its last ending is more than 24 hours ago.");
    }
    return state;
  }

  /**
   * Takes a message back from everyone who has not settled it; for its sender and for services.
   * @returns from how many
   * @throws HandoverError as {@link state}
   */
  async takeBack(identity: Identity, id: MessageId): Promise<number> {
    if (!this.#engine.supports.takeBack) throw new HandoverError("unsupported", "The store of this server cannot take messages back.");
    await this.state(identity, id);
    return this.#engine.evict(id);
  }

  async open(identity: UserIdentity, link: Link, resume: Resume): Promise<Channel> {
    if (this.isDraining) throw this.draining();
    requireUnexpired(identity);
    const watch = this.sessions.watch(identity.session, (reason) => link.close(reason));
    try {
      const mailbox = this.#mailboxAtHand(identity) ?? (await this.#mailboxOf(identity));
      watch.requireGoing();
      // It may have begun to drain meanwhile, and have let go of every link it knew.
      if (this.isDraining) throw this.draining();
      const channel = this.#channel(mailbox, identity.session, link, resume, watch);
      await channel.open(resume);
      watch.requireGoing();
      return channel;
    } catch (thrown) {
      watch.stop();
      throw thrown;
    }
  }

  #channel(mailbox: Mailbox, session: SessionId, bare: Link, resume: Resume, watch: SessionWatch): OpenChannel {
    const id = resume.receiver ?? (randomUUID() as ReceiverId);
    const known = mailbox.receiver(id, session);
    const presentSinceMs = known && isLive(known) ? 0 : this.#now();
    const link = this.#options.metrics?.counted(bare, presentSinceMs, this.#now) ?? bare;
    return new OpenChannel(mailbox, this.#receiver(mailbox, id, session), link, watch, resume);
  }

  async acknowledge(identity: UserIdentity, { receiver: id, epoch, cursor, ...forms }: Acknowledgement): Promise<number> {
    const startedAtMs = performance.now();
    requireUnexpired(identity);
    const mailbox = this.#mailboxAtHand(identity) ?? (await this.#mailboxOf(identity));
    if (epoch !== mailbox.epoch) return 0;
    const acked = await mailbox.acknowledge(this.#receiver(mailbox, id, identity.session), forms, cursor);
    this.#options.metrics?.settled(performance.now() - startedAtMs);
    return acked;
  }

  /** The mailbox of a session that is known here, with nothing to wait for: the case of every request but a session's first. */
  #mailboxAtHand(identity: UserIdentity): Mailbox | undefined {
    return this.sessions.isAdmitted(identity) ? this.#attached.get(identity.user) : undefined;
  }

  /** @throws HandoverError token-invalid, when the session has ended, meanwhile too | store-unavailable | store-full */
  async #mailboxOf(identity: UserIdentity): Promise<Mailbox> {
    const watch = this.sessions.watch(identity.session);
    try {
      await this.sessions.admit(identity);
      const mailbox = await this.#mailbox(identity.user);
      watch.requireGoing();
      return mailbox;
    } finally {
      watch.stop();
    }
  }

  /** Who is there, for the metrics. */
  census(): Census {
    const live = { websocket: 0, sse: 0, poll: 0 };
    const links = { websocket: 0, sse: 0, poll: 0 };
    for (const mailbox of this.#attached.values()) {
      for (const receiver of mailbox.receivers()) {
        if (!receiver.transport || !isLive(receiver)) continue;
        live[receiver.transport] += 1;
        if (receiver.isConnected) links[receiver.transport] += 1;
      }
    }
    return { mailboxes: this.#attached.size, live, links };
  }

  /** Whether a receiver of this user is live on this node. */
  isLive(user: UserId): boolean {
    return this.#attached.get(user)?.isLive(undefined) ?? false;
  }

  /**
   * No new messages and links from now on; those that are connected are told to come back, spread over `delayMs`, and let go.
   * What was asked before is still answered.
   */
  drain(delayMs: number): void {
    this.#returnMs = delayMs;
    clearInterval(this.#housekeeping);
    for (const mailbox of this.#attached.values()) {
      for (const receiver of mailbox.receivers()) {
        receiver.drain(delayMs / 1000);
        receiver.disconnect(this.draining());
      }
    }
  }

  /** The refusal of a server that is about to stop. Each names another moment to come back, so that not all come at once. */
  draining(): HandoverError {
    const retryAfterMs = Math.max(1, Math.random() * (this.#returnMs ?? 0));
    return new HandoverError("draining", "The server is about to stop; come back in a moment.", { retryAfterMs });
  }

  /** Whose the sessions are that a service addresses. */
  async #usersOfSessions(requests: readonly (MessageRequest | HandoverError)[]): Promise<ReadonlyMap<SessionId, readonly UserId[]>> {
    const users = new Map<SessionId, readonly UserId[]>();
    const sessions = new Set(requests.flatMap((each) => (each instanceof HandoverError ? [] : (each.to.session as SessionId | undefined)) ?? []));
    // One more than a message may have: too many shall be seen.
    const look = async (session: SessionId) => users.set(session, await this.usersOfSession(session));
    await Promise.all([...sessions].map(look));
    return users;
  }

  /** TTL 0 is for the receivers that are live at acceptance: the mailboxes are told which messages those are, also where nobody is live. */
  async #announce(messages: readonly Addressed[]): Promise<void> {
    for (const { id, ttlSeconds, acceptedAtMs, expiresAtMs, recipients } of messages) {
      if (ttlSeconds > 0 || expiresAtMs <= acceptedAtMs) continue;
      for (const { user } of recipients) (this.#attached.get(user) ?? (await this.#mailbox(user))).announce(id);
    }
  }

  #mailbox(user: UserId): Promise<Mailbox> {
    let mailbox = this.#mailboxes.get(user);
    if (!mailbox) {
      const attaching = Mailbox.attach(this.#engine, user, (lost, cause) => this.#lost(lost, cause));
      mailbox = attaching;
      this.#mailboxes.set(user, attaching);
      attaching.then(
        (attached) => {
          // It may be lost already.
          if (this.#mailboxes.get(user) === attaching) this.#attached.set(user, attached);
        },
        // Whoever asked for it is told; here it only must not stay.
        () => this.#mailboxes.delete(user),
      );
    }
    return mailbox;
  }

  #lost(mailbox: Mailbox, cause: HandoverError): void {
    this.#mailboxes.delete(mailbox.user);
    this.#attached.delete(mailbox.user);
    for (const receiver of mailbox.receivers()) receiver.disconnect(cause);
  }

  /** @throws HandoverError rate-limited, when the user has as many connected receivers as allowed */
  #receiver(mailbox: Mailbox, id: ReceiverId, session: SessionId): Receiver {
    const known = mailbox.receiver(id, session);
    if (known) return known;
    if (mailbox.size >= this.#options.maxReceiversPerUser && !mailbox.forgetOldestAbsent()) {
      throw new HandoverError("rate-limited", `This user has ${mailbox.size} receivers connected, the most that are allowed here; close one.`);
    }
    return mailbox.addReceiver(id, session);
  }

  #forgetAbsent(): void {
    for (const [user, mailbox] of this.#attached) {
      mailbox.forgetAbsent();
      if (mailbox.size > 0 || mailbox.isReserving) continue;
      this.#attached.delete(user);
      this.#mailboxes.delete(user);
      mailbox.detach().catch((thrown: unknown) => this.#reported(thrown));
    }
  }

  #reported(thrown: unknown): HandoverError {
    const error = asHandoverError(thrown);
    if (error.code === "internal") this.#options.onError?.(error);
    if (error.code === "store-full") this.#storeFullUntilMs = performance.now() + (error.retryAfterMs ?? 0);
    return error;
  }
}

function isPrepared(each: Addressed | HandoverError): each is Addressed {
  return !(each instanceof HandoverError);
}

function resultOf(appended: Appended): Accepted | HandoverError {
  switch (appended.outcome) {
    case "stored":
    case "repeated":
      return appended.accepted;
    case "conflict":
      return new HandoverError("key-reuse", "This idempotency key was used for a message with other content; use a new key.");
    case "in-progress":
      return new HandoverError("in-progress", "The first request with this key is not finished; ask again in a moment.");
    case "full":
      return new HandoverError("mailbox-full", "The mailbox of every recipient is full. Nothing was stored; try again when they have read.");
    case "session-ended":
      return new HandoverError("unknown", "The session that the message is addressed to has ended. Nothing was stored.");
    case "not-stored":
      return notStored();
  }
}

function notStored(): HandoverError {
  return new HandoverError("invalid", "Not stored, because another message of the same array was refused; all or none.");
}
