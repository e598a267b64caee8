/**
 * The engine that forgets: everything in this process's memory, gone with it. For tests, and for trying things out where nothing may be
 * written. It keeps every other rule, so that what works on it works on the others.
 * @module
 */
import type { Accepted } from "../answers.ts";
import type {
  Addressed,
  Appended,
  Attachment,
  Ended,
  Ending,
  Engine,
  EngineFailed,
  MailboxEvents,
  MessageState,
  Page,
  SessionEnd,
  Settlement,
  Totals,
} from "../engine.ts";
import { asHandoverError, HandoverError } from "../errors.ts";
import type { Epoch, MessageId, Seq, SessionId, UserId } from "../protocol.ts";
import { SetBack } from "../set-back.ts";
import { type Tail, tell } from "../tail.ts";
import {
  type Box,
  type Delivery,
  type Key,
  keyName,
  type Message,
  number,
  type ReadRequest,
  readBox,
  stroke,
  toEntry,
  topicName,
  unnumber,
  wrong,
} from "./memory/box.ts";
import { DueQueue } from "./memory/due.ts";
import { HoldBook } from "./memory/hold.ts";
import { SessionBook } from "./memory/session.ts";

export interface MemoryOptions {
  /** Most unsettled messages in a mailbox. */
  readonly mailboxMaxMessages?: number;
  /** Most bytes of unsettled events in a mailbox. */
  readonly mailboxMaxBytes?: number;
  /** How often a message is handed out before a nack makes it a dead letter. */
  readonly maxAttempts?: number;
  /** The clock, ms since the Unix epoch. */
  readonly now?: () => number;
}

export interface MemoryEngine extends Engine {
  /** Does now what time has made due: expiry, return of nacked mail, purge. It happens by itself; for tests with a clock of their own. */
  sweep(): Promise<void>;
}

const DAY_MS = 24 * 3600_000;
/** How long it is remembered that a session has ended. */
const REMEMBER_ENDED_MS = 366 * DAY_MS;
const MAX_SLEEP_MS = 60_000;
const MIN_SLEEP_MS = 10;

/** Makes an engine in memory. */
export function memoryEngine(options: MemoryOptions = {}): MemoryEngine {
  return new Memory(options);
}

class Memory implements MemoryEngine {
  readonly name = "memory";
  readonly supports = { durable: "no", manyNodes: false, topic: true, takeBack: true, state: true, receipts: false } as const;

  readonly #maxMessages: number;
  readonly #maxBytes: number;
  readonly #maxAttempts: number;
  readonly #now: () => number;
  readonly #setBack: SetBack;
  readonly #epoch = crypto.randomUUID() as string as Epoch;
  readonly #messages = new Map<MessageId, Message>();
  readonly #boxes = new Map<UserId, Box>();
  readonly #keys = new Map<string, Key>();
  readonly #tails = new Map<UserId, Tail>();
  readonly #withNews = new Set<Tail>();
  readonly #due = new DueQueue<Delivery | Key>();
  readonly #sessions = new SessionBook();
  /** What is unsettled and addressed to one session. */
  readonly #bySession = new Map<SessionId, Set<Delivery>>();
  readonly #totals: Record<keyof Totals, number> = { accepted: 0, unsettled: 0, acked: 0, expired: 0, replaced: 0, evicted: 0, dead: 0 };
  #state: "new" | "open" | "closed" = "new";
  #timer: NodeJS.Timeout | undefined;
  #timerMs = Number.POSITIVE_INFINITY;

  constructor(options: MemoryOptions) {
    this.#maxMessages = options.mailboxMaxMessages ?? 10_000;
    this.#maxBytes = options.mailboxMaxBytes ?? 64 * 1024 * 1024;
    this.#maxAttempts = options.maxAttempts ?? 10;
    this.#now = options.now ?? Date.now;
    this.#setBack = new SetBack(this.#now);
  }

  async open(_failed: EngineFailed): Promise<void> {
    if (this.#state !== "new") throw new HandoverError("store-unavailable", "The store was opened before; make a new engine to open it again.");
    this.#state = "open";
  }

  async close(): Promise<void> {
    this.#state = "closed";
    this.#tails.clear();
    clearTimeout(this.#timer);
  }

  async append(batch: readonly Addressed[]): Promise<readonly Appended[]> {
    this.#mustBeOpen();
    const plans = this.#plan(batch);
    const isWhole = plans.every((plan) => plan === "repeated" || Array.isArray(plan));
    const ids = new Set(batch.map(({ id }) => id));
    const results = batch.map((message, place): Appended => {
      const plan = plans[place];
      if (plan === "conflict" || plan === "full" || plan === "session-ended") return { outcome: plan };
      if (!Array.isArray(plan)) {
        const key = this.#keys.get(keyName(message));
        return key && (isWhole || !ids.has(key.accepted.id)) ? { outcome: "repeated", accepted: key.accepted } : { outcome: "not-stored" };
      }
      return isWhole ? { outcome: "stored", accepted: this.#store(message, plan) } : { outcome: "not-stored" };
    });
    this.#wake();
    return results;
  }

  appendEach(batch: readonly Addressed[]): Promise<readonly (Appended | HandoverError)[]> {
    return Promise.all(
      batch.map((message) => this.append([message]).then(([outcome]) => outcome ?? wrong("a message got no outcome"), asHandoverError)),
    );
  }

  /** What would become of each item, given the ones before it: which recipients have room, or why it is not stored. Changes nothing. */
  #plan(batch: readonly Addressed[]): ("repeated" | "conflict" | "full" | "session-ended" | boolean[])[] {
    const nowMs = this.#now();
    const keys = new Map<string, string>();
    const room = new Map<UserId, { count: number; bytes: number; readonly byTopic: Map<string, number | undefined> }>();
    const ids = new Set<MessageId>();
    return batch.map((message) => {
      const { id, recipients, idempotency } = message;
      if (recipients.length === 0) throw wrong("a message needs at least one recipient");
      if (new Set(recipients.map(({ user }) => user)).size < recipients.length) throw wrong("a message names a recipient twice");
      if (typeof message.event !== "string") throw wrong("the event is not text");
      if (!Number.isSafeInteger(message.acceptedAtMs) || !Number.isSafeInteger(message.expiresAtMs)) throw wrong("a time is not a whole number");
      if (idempotency) {
        const known = this.#keys.get(keyName(message));
        const hash = keys.get(keyName(message)) ?? (known && known.untilMs > nowMs ? known.hash : undefined);
        if (hash !== undefined) return hash === idempotency.hash ? "repeated" : "conflict";
      }
      if (this.#messages.has(id) || ids.has(id)) throw wrong(`message ${id} is there already`);
      if (recipients.some(({ session }) => session !== undefined && this.#sessions.hasEnded(session, nowMs))) return "session-ended";
      const bytes = Buffer.byteLength(message.event);
      const isExpired = message.expiresAtMs <= message.acceptedAtMs;
      const hasRoom = recipients.map(({ user, session }) => {
        const box = this.#boxes.get(user);
        const here = room.get(user) ?? { count: box?.count ?? 0, bytes: box?.bytes ?? 0, byTopic: new Map() };
        const topic = topicName(message, session);
        const replaced = topic === undefined ? undefined : here.byTopic.has(topic) ? here.byTopic.get(topic) : box?.byTopic.get(topic)?.message.bytes;
        const count = here.count - (replaced === undefined ? 0 : 1) + (isExpired ? 0 : 1);
        const sum = here.bytes - (replaced ?? 0) + (isExpired ? 0 : bytes);
        if (!isExpired && (count > this.#maxMessages || sum > this.#maxBytes)) return false;
        here.count = count;
        here.bytes = sum;
        if (topic !== undefined) here.byTopic.set(topic, isExpired ? undefined : bytes);
        room.set(user, here);
        return true;
      });
      if (!hasRoom.includes(true)) return "full";
      ids.add(id);
      if (idempotency) keys.set(keyName(message), idempotency.hash);
      return hasRoom;
    });
  }

  #store(addressed: Addressed, hasRoom: readonly boolean[]): Accepted {
    const { id, source, event, acceptedAtMs, expiresAtMs, recipients, idempotency } = addressed;
    const nowMs = this.#now();
    const isExpired = expiresAtMs <= acceptedAtMs;
    const taken = recipients.filter((_recipient, place) => hasRoom[place]);
    const message: Message = { id, source, event, bytes: Buffer.byteLength(event), expiresAtMs, deliveries: [], unsettled: taken.length };
    this.#messages.set(id, message);
    for (const { user, session } of taken) {
      const box = this.#boxOf(user);
      const topic = topicName(addressed, session);
      const replaced = topic === undefined ? undefined : box.byTopic.get(topic);
      if (replaced) this.#endAndTell(replaced, replaced.message.expiresAtMs <= nowMs ? "expired" : "replaced");
      const delivery: Delivery = {
        order: `${id} ${String(box.place).padStart(12)}`,
        message,
        box,
        session,
        topic,
        slot: undefined,
        attempts: 1,
        ending: undefined,
        endedAtMs: 0,
        dueMs: undefined,
      };
      message.deliveries.push(delivery);
      box.count += 1;
      box.bytes += message.bytes;
      this.#totals.accepted += 1;
      this.#totals.unsettled += 1;
      if (topic !== undefined) box.byTopic.set(topic, delivery);
      if (session !== undefined) this.#bySession.set(session, (this.#bySession.get(session) ?? new Set()).add(delivery));
      number(delivery);
      if (isExpired) this.#endAndTell(delivery, "expired");
      else {
        this.#due.set(delivery, expiresAtMs);
        this.#tellDelivery(delivery);
      }
    }
    const refused = recipients.filter((_recipient, place) => !hasRoom[place]).map(({ user }) => user);
    const accepted: Accepted = {
      id,
      time: new Date(acceptedAtMs).toISOString(),
      ttl: addressed.ttlSeconds,
      recipients: taken.map(({ user }) => user),
      ...(refused.length === 0 ? {} : { refused }),
    };
    if (idempotency) {
      const untilMs = stroke(nowMs + DAY_MS);
      const key: Key = { order: keyName(addressed), hash: idempotency.hash, accepted, untilMs, dueMs: undefined };
      this.#keys.set(key.order, key);
      this.#due.set(key, untilMs);
    }
    return accepted;
  }

  async attach(user: UserId, events: MailboxEvents): Promise<Attachment> {
    this.#mustBeOpen();
    if (this.#tails.has(user)) throw new HandoverError("internal", `The mailbox of ${user} is attached already; detach first.`);
    const tail: Tail = { user, events, entries: [], ended: [] };
    this.#tails.set(user, tail);
    return {
      epoch: this.#epoch,
      head: this.#boxes.get(user)?.head ?? 0,
      read: async (request) => this.#read(user, request),
      settle: async (changes, session) => this.#settle(user, changes, session),
      held: async (receiver, session) => {
        this.#mustBeOpen();
        return this.#boxes.get(user)?.holds.heldBy(session, receiver) ?? [];
      },
      detach: async () => {
        if (this.#tails.get(user) === tail) this.#tails.delete(user);
      },
    };
  }

  #read(user: UserId, request: ReadRequest): Page {
    this.#mustBeOpen();
    const box = this.#boxes.get(user);
    return box ? readBox(box, request, this.#now()) : { entries: [], gaps: [], upto: 0 };
  }

  #settle(user: UserId, changes: readonly Settlement[], session: SessionId): readonly Ended[] {
    this.#mustBeOpen();
    const nowMs = this.#now();
    const box = this.#boxes.get(user);
    if (!box) return [];
    this.#comeEarlier();
    const settled: Ended[] = [];
    const open = (seq: Seq): Delivery | undefined => {
      const delivery = box.bySeq.get(seq)?.delivery;
      if (!delivery || delivery.ending !== undefined || (delivery.session !== undefined && delivery.session !== session)) return undefined;
      if (delivery.message.expiresAtMs > nowMs) return delivery;
      this.#endAndTell(delivery, "expired");
      return undefined;
    };
    const end = (seq: Seq, ending: Ending) => {
      const delivery = open(seq);
      if (delivery) settled.push({ seq: this.#end(delivery, ending), id: delivery.message.id, ending });
    };
    for (const change of changes) {
      if (change.kind === "acked") for (const seq of change.seqs) end(seq, "acked");
      else if (change.kind === "rejected") end(change.seq, "dead");
      else if (change.kind === "acked-upto") {
        const except = new Set(change.except);
        const seqs = box.slots.filter((slot) => slot.seq <= change.upto && slot.delivery && !except.has(slot.seq)).map((slot) => slot.seq);
        for (const seq of seqs) end(seq, "acked");
      } else if (change.kind === "held") {
        const seqs = change.seqs.filter((seq) => open(seq));
        box.holds.hold(session, change.receiver, seqs, nowMs);
      } else if (change.kind === "released") box.holds.releaseAbove(session, change.receiver, change.above);
      else {
        const delivery = open(change.seq);
        if (!delivery) continue;
        if (delivery.attempts >= this.#maxAttempts) {
          end(change.seq, "dead");
          continue;
        }
        delivery.attempts += 1;
        unnumber(delivery);
        if (change.retryAfterMs > 0) this.#due.set(delivery, Math.min(nowMs + Math.ceil(change.retryAfterMs), delivery.message.expiresAtMs));
        else {
          number(delivery);
          this.#tellDelivery(delivery);
        }
      }
    }
    this.#wake();
    return settled;
  }

  async find(id: MessageId): Promise<MessageState | undefined> {
    this.#mustBeOpen();
    const message = this.#messages.get(id);
    if (!message) return undefined;
    const recipients = message.deliveries.map(({ box, ending, endedAtMs }) =>
      ending === undefined ? { user: box.user, state: "waiting" as const } : { user: box.user, state: ending, endedAtMs },
    );
    return { source: message.source, recipients };
  }

  async evict(id: MessageId): Promise<number> {
    this.#mustBeOpen();
    const open = this.#messages.get(id)?.deliveries.filter(({ ending }) => ending === undefined) ?? [];
    const hasExpired = (this.#messages.get(id)?.expiresAtMs ?? 0) <= this.#now();
    for (const delivery of open) this.#endAndTell(delivery, hasExpired ? "expired" : "evicted");
    this.#wake();
    return hasExpired ? 0 : open.length;
  }

  async admitSession(session: SessionId, user: UserId, untilMs: number): Promise<boolean> {
    this.#mustBeOpen();
    if (this.#sessions.hasEnded(session, this.#now())) return false;
    this.#sessions.admit(session, user, stroke(untilMs));
    this.#wake();
    return true;
  }

  async usersOfSession(session: SessionId, limit: number): Promise<readonly UserId[]> {
    this.#mustBeOpen();
    return this.#sessions.usersOf(session, this.#now()).slice(0, limit);
  }

  async endSession(session: SessionId): Promise<SessionEnd> {
    this.#mustBeOpen();
    const nowMs = this.#now();
    const users = this.#sessions.usersOf(session, nowMs);
    this.#sessions.end(session, stroke(nowMs + REMEMBER_ENDED_MS));
    for (const box of this.#boxes.values()) box.holds.endSession(session);
    const open = [...(this.#bySession.get(session) ?? [])].sort((one, other) => (one.order < other.order ? -1 : 1));
    const evicted: { id: MessageId; user: UserId }[] = [];
    for (const delivery of open) {
      const { message, box } = delivery;
      const hasExpired = message.expiresAtMs <= nowMs;
      this.#endAndTell(delivery, hasExpired ? "expired" : "evicted");
      if (!hasExpired) evicted.push({ id: message.id, user: box.user });
    }
    this.#wake();
    return { users, evicted };
  }

  async totals(): Promise<Totals> {
    this.#mustBeOpen();
    return { ...this.#totals };
  }

  async sweep(): Promise<void> {
    this.#mustBeOpen();
    const nowMs = this.#now();
    this.#sessions.forget(nowMs);
    this.#comeEarlier();
    for (let thing = this.#due.take(nowMs); thing; thing = this.#due.take(nowMs)) {
      if ("hash" in thing) {
        if (this.#keys.get(thing.order) === thing) this.#keys.delete(thing.order);
      } else if (thing.ending !== undefined) this.#purge(thing);
      else if (thing.message.expiresAtMs <= nowMs) this.#endAndTell(thing, "expired");
      else {
        this.#due.set(thing, thing.message.expiresAtMs);
        number(thing);
        this.#tellDelivery(thing);
      }
    }
    this.#wake();
  }

  /** A nack's delay lasts as long as it was to, although its end is kept as a date, when the time of day was set back. */
  #comeEarlier(): void {
    const byMs = this.#setBack.take();
    if (byMs === 0) return;
    for (const { deliveries } of this.#messages.values())
      for (const each of deliveries) if (each.ending === undefined && !each.slot && each.dueMs !== undefined) this.#due.set(each, each.dueMs - byMs);
  }

  /** Gives one delivery its ending. What waits without a number gets one, so that a resumer is told of the gap. */
  #end(delivery: Delivery, ending: Ending): Seq {
    const { box, message } = delivery;
    const slot = delivery.slot ?? number(delivery);
    delivery.ending = ending;
    delivery.endedAtMs = this.#now();
    box.count -= 1;
    box.bytes -= message.bytes;
    if (delivery.topic !== undefined && box.byTopic.get(delivery.topic) === delivery) box.byTopic.delete(delivery.topic);
    if (ending === "acked") unnumber(delivery);
    else box.holds.drop(slot.seq);
    if (delivery.session !== undefined) {
      const others = this.#bySession.get(delivery.session);
      others?.delete(delivery);
      if (others?.size === 0) this.#bySession.delete(delivery.session);
    }
    this.#totals.unsettled -= 1;
    this.#totals[ending] += 1;
    this.#due.set(delivery, undefined);
    message.unsettled -= 1;
    if (message.unsettled === 0) {
      // Known until a while after the last ending; a dead letter longer.
      for (const each of message.deliveries) this.#due.set(each, stroke(delivery.endedAtMs + (each.ending === "dead" ? 7 : 1) * DAY_MS));
      if (message.deliveries.every((each) => each.ending !== "dead")) message.event = "";
    }
    return slot.seq;
  }

  #endAndTell(delivery: Delivery, ending: Ending): void {
    const seq = this.#end(delivery, ending);
    const tail = this.#tailOf(delivery);
    tail?.ended.push({ seq, id: delivery.message.id, ending });
  }

  #purge(delivery: Delivery): void {
    const { message, box } = delivery;
    if (delivery.ending !== "acked" && delivery.slot && delivery.slot.seq > box.forgotten) box.forgotten = delivery.slot.seq;
    unnumber(delivery);
    message.deliveries.splice(message.deliveries.indexOf(delivery), 1);
    if (message.deliveries.length === 0) this.#messages.delete(message.id);
  }

  #boxOf(user: UserId): Box {
    const known = this.#boxes.get(user);
    if (known) return known;
    const box: Box = {
      user,
      place: this.#boxes.size,
      head: 0,
      count: 0,
      bytes: 0,
      forgotten: 0,
      slots: [],
      gone: 0,
      bySeq: new Map(),
      byTopic: new Map(),
      holds: new HoldBook(),
    };
    this.#boxes.set(user, box);
    return box;
  }

  #tellDelivery(delivery: Delivery): void {
    if (delivery.slot) this.#tailOf(delivery)?.entries.push(toEntry(delivery, delivery.slot.seq));
  }

  /** The tail that is to hear of a delivery; it is told soon. */
  #tailOf(delivery: Delivery): Tail | undefined {
    const tail = this.#tails.get(delivery.box.user);
    if (!tail) return undefined;
    // Not from within the call that caused it: a caller must not be called back before it has its answer.
    if (this.#withNews.size === 0) queueMicrotask(() => this.#tellAll());
    this.#withNews.add(tail);
    return tail;
  }

  #tellAll(): void {
    const tails = [...this.#withNews];
    this.#withNews.clear();
    for (const tail of tails) tell(tail, () => this.#tails.get(tail.user) === tail, console.error);
  }

  /** Aims the timer at what is due next. */
  #wake(): void {
    const dueMs = Math.min(this.#due.nextMs() ?? Number.POSITIVE_INFINITY, this.#sessions.nextMs() ?? Number.POSITIVE_INFINITY);
    if (dueMs === this.#timerMs || this.#state !== "open") return;
    clearTimeout(this.#timer);
    this.#timerMs = dueMs;
    if (dueMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(
      () => {
        this.#timerMs = Number.POSITIVE_INFINITY;
        this.sweep().catch((thrown: unknown) => console.error(`What was due could not be done: ${String(thrown)}`));
      },
      Math.min(Math.max(dueMs - this.#now(), MIN_SLEEP_MS), MAX_SLEEP_MS),
    ).unref();
  }

  #mustBeOpen(): void {
    if (this.#state === "open") return;
    throw new HandoverError("store-unavailable", `The store is ${this.#state === "new" ? "not open yet" : "closed"}. Nothing was stored.`);
  }
}
