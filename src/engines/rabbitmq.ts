/**
 * The RabbitMQ engine, experimental: a quorum queue as journal, an embedded store as index.
 *
 * Everything accepted is first published to the journal and confirmed there, then stored in the index, which numbers it, finds it and
 * settles it; what was settled is told to the journal before the answer. So an accepted message is in both: on the disk of this node, and
 * on the disks of the broker's majority. The index is the truth as long as it is there; without it, mail is rebuilt from the journal under
 * a new epoch. A journal has one owner; it is cleaned by going through it once and publishing again what still waits.
 * @see docs/decisions/0001-rabbitmq.md
 * @module
 */
import { randomBytes } from "node:crypto";
import type {
  Addressed,
  Appended,
  Attachment,
  Ended,
  Engine,
  EngineFailed,
  EngineSupports,
  MailboxEvents,
  MessageState,
  SessionEnd,
  Settlement,
  Totals,
} from "../engine.ts";
import { asHandoverError, HandoverError } from "../errors.ts";
import type { MessageId, SessionId, UserId } from "../protocol.ts";
import { unavailable } from "./rabbitmq/failure.ts";
import { Journal } from "./rabbitmq/journal.ts";
import { bringTogether, type JournalIndex } from "./rabbitmq/opening.ts";
import { Outbox } from "./rabbitmq/outbox.ts";
import { countDeliveries, type JournalCall, type Owner, readRecord, weightOf, writeCalls } from "./rabbitmq/record.ts";

export interface RabbitmqOptions {
  /** `amqp://user:password@host:port/vhost`, or `amqps:`. */
  readonly url: string;
  /** Numbers, finds and settles; durable, and used by nothing else. Opened and closed by this engine. */
  readonly index: JournalIndex;
  /** Which journal, in the names of its queues: letters, digits, `-` and `_`. */
  readonly journal?: string;
  /** For one start after the journal was lost: what waits in the index is written into it, which is refused otherwise. */
  readonly refill?: boolean;
  /** How long a request waits for the broker. */
  readonly answerWithinMs?: number;
  /** How long opening waits for the broker and for another owner's end. */
  readonly openWithinMs?: number;
  /** How long queues that were just made are left alone before they are trusted; the default is for RabbitMQ 3.10. */
  readonly newQueueRestMs?: number;
  /** Takes one line for the operator. */
  readonly log?: (line: string) => void;
}

/** The RabbitMQ engine, with what only it has. */
export interface RabbitmqEngine extends Engine {
  /** Goes through the journal once, so that only what is unsettled stays in it. It happens by itself. */
  clean(): Promise<void>;
  /** Deliveries, and words about them, that stand in the journal. */
  readonly journalWeight: number;
}

/** The journal is gone through when it weighs this more than twice what is unsettled. */
const CLEAN_ABOVE = 2_000;
const LOOK_EVERY = 500;

/** Makes an engine; nothing is opened before `open`. @throws HandoverError internal, when the index cannot be one */
export function rabbitmqEngine(options: RabbitmqOptions): RabbitmqEngine {
  const { durable, state, takeBack } = options.index.supports;
  if (durable !== "power" || !state || !takeBack)
    throw new HandoverError("internal", "The index of the RabbitMQ engine must survive a power cut, know the state of messages and take them back.");
  return new Rabbitmq(options);
}

class Rabbitmq implements RabbitmqEngine {
  readonly name = "rabbitmq";
  readonly supports: EngineSupports;
  readonly #index: JournalIndex;
  readonly #mayRefill: boolean;
  readonly #journal: Journal;
  readonly #outbox: Outbox;
  readonly #log: (line: string) => void;
  readonly #instance = randomBytes(9).toString("base64url");
  readonly #settling = new Set<Promise<unknown>>();
  #lookedAt = 0;
  #indexName = "";
  #weight = 0;
  #state: "new" | "open" | "closing" | "closed" | "failed" = "new";
  #failed: EngineFailed = () => {};
  #cleaning: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: RabbitmqOptions) {
    const answerWithinMs = options.answerWithinMs ?? 5_000;
    this.#index = options.index;
    this.#mayRefill = options.refill ?? false;
    this.#log = options.log ?? ((line) => console.error(line));
    this.supports = { ...options.index.supports, manyNodes: false };
    this.#journal = new Journal({
      url: options.url,
      name: options.journal ?? "main",
      openWithinMs: options.openWithinMs ?? 15_000,
      newQueueRestMs: options.newQueueRestMs ?? 3_000,
      log: this.#log,
      regained: (owner) => this.#mustBeOurs(owner),
      changed: (isUp) => (isUp ? this.#outbox.flush() : this.#outbox.refuse(this.#journal.whyDown)),
      failed: (cause) => this.#fail(cause),
    });
    this.#outbox = new Outbox({
      answerWithinMs,
      publish: (body) => this.#journal.publish(body),
      isUp: () => this.#journal.isUp,
      store: (items) => this.#index.append(items),
      written: (weight) => this.#written(weight),
    });
  }

  get journalWeight(): number {
    return this.#weight;
  }

  async open(failed: EngineFailed): Promise<void> {
    if (this.#state !== "new") throw unavailable("The store was opened before; make a new engine to open it again.");
    this.#failed = failed;
    await this.#index.open((cause) => this.#fail(cause));
    try {
      this.#indexName = await this.#nameOfIndex();
      await this.#journal.open();
      try {
        const parties = { index: this.#index, indexName: this.#indexName, journal: this.#journal, mayRefill: this.#mayRefill, log: this.#log };
        const { n, weight, accepted } = await bringTogether(parties);
        this.#weight = weight;
        this.#outbox.begin(n, accepted);
        await this.#journal.writeOwner(this.#owner());
      } catch (thrown) {
        await this.#journal.close();
        throw thrown;
      }
    } catch (thrown) {
      this.#state = "closed";
      await this.#index.close();
      throw thrown;
    }
    this.#state = "open";
  }

  /** An epoch names a store: it is made with it. */
  async #nameOfIndex(): Promise<string> {
    const nobody = { deliver: () => {}, ended: () => {}, lost: () => {} };
    const attachment = await this.#index.attach("" as UserId, nobody);
    await attachment.detach();
    return attachment.epoch;
  }

  async append(batch: readonly Addressed[]): Promise<readonly Appended[]> {
    this.#mustBeUp();
    return batch.length === 0 ? [] : this.#outbox.append(batch);
  }

  /** Those of one turn share their confirmation. */
  appendEach(batch: readonly Addressed[]): Promise<readonly (Appended | HandoverError)[]> {
    return Promise.all(
      batch.map((message) =>
        this.append([message]).then(([outcome]) => outcome ?? new HandoverError("internal", "The message got no outcome."), asHandoverError),
      ),
    );
  }

  async attach(user: UserId, events: MailboxEvents): Promise<Attachment> {
    this.#mustBeOpen();
    const inner = await this.#index.attach(user, events);
    let isOver = false;
    return {
      epoch: inner.epoch,
      head: inner.head,
      read: (request) => inner.read(request),
      held: (receiver, session) => inner.held(receiver, session),
      settle: async (changes, session) => {
        if (isOver) throw unavailable("This mailbox was let go when RabbitMQ did not answer; open it again.");
        // What ends nothing is no affair of the journal's.
        if (changes.every(({ kind }) => kind === "held" || kind === "released")) return inner.settle(changes, session);
        try {
          return await this.#settle(user, inner, changes, session);
        } catch (thrown) {
          const error = asHandoverError(thrown);
          if (error.cause !== UNCONFIRMED || isOver) throw error;
          // It is settled here and perhaps not there. Whoever asks again is answered when the journal has it.
          isOver = true;
          await inner.detach();
          events.lost(error);
          throw error;
        }
      },
      detach: () => inner.detach(),
    };
  }

  async #settle(user: UserId, inner: Attachment, changes: readonly Settlement[], session: SessionId): Promise<readonly Ended[]> {
    this.#mustBeUp();
    const ended = await this.#untilTold(
      inner.settle(changes, session).then((each) => {
        this.#outbox.tellGone(each.map(({ id }) => [id, user]));
        return each;
      }),
    );
    await this.#confirmed();
    return ended;
  }

  async find(id: MessageId): Promise<MessageState | undefined> {
    return this.#index.find(id);
  }

  async evict(id: MessageId): Promise<number> {
    this.#mustBeUp();
    const count = await this.#untilTold(
      this.#index.evict(id).then((each) => {
        if (each > 0) this.#outbox.tellGone([[id]]);
        return each;
      }),
    );
    await this.#confirmed();
    return count;
  }

  async admitSession(session: SessionId, user: UserId, untilMs: number): Promise<boolean> {
    this.#mustBeOpen();
    return this.#index.admitSession(session, user, untilMs);
  }

  async usersOfSession(session: SessionId, limit: number): Promise<readonly UserId[]> {
    return this.#index.usersOfSession(session, limit);
  }

  async endSession(session: SessionId): Promise<SessionEnd> {
    this.#mustBeUp();
    const end = await this.#untilTold(
      this.#index.endSession(session).then((each) => {
        this.#outbox.tellGone(each.evicted.map(({ id, user }) => [id, user]));
        return each;
      }),
    );
    await this.#confirmed();
    return end;
  }

  /** Closing waits for it. */
  #untilTold<T>(work: Promise<T>): Promise<T> {
    this.#settling.add(work);
    return work.finally(() => this.#settling.delete(work));
  }

  async totals(): Promise<Totals> {
    return this.#index.totals();
  }

  async #confirmed(): Promise<void> {
    if (!(await this.#outbox.confirmed()))
      throw unavailable("RabbitMQ did not confirm this in time. Ask again: a repeat is answered when it has.", UNCONFIRMED);
  }

  #written(weight: number): void {
    this.#weight += weight;
    if (this.#weight - this.#lookedAt < LOOK_EVERY || this.#cleaning || this.#state !== "open") return;
    this.#lookedAt = this.#weight;
    this.#index
      .totals()
      .then(({ unsettled }) => (this.#weight > CLEAN_ABOVE + 2 * unsettled ? this.clean() : undefined))
      .catch((thrown: unknown) => this.#log(`The journal could not be cleaned now: ${asHandoverError(thrown).message}`));
  }

  clean(): Promise<void> {
    this.#cleaning ??= this.#clean().finally(() => {
      this.#cleaning = undefined;
      this.#lookedAt = this.#weight;
    });
    return this.#cleaning;
  }

  async #clean(): Promise<void> {
    this.#mustBeUp();
    // Calls above this number may not be in the index yet.
    const upto = this.#outbox.done;
    // What the records in hand will make lighter: they are gone when the next ones come.
    let lighter = 0;
    await this.#journal.lap(async (bodies) => {
      this.#weight -= lighter;
      lighter = 0;
      if (this.#state !== "open") return undefined;
      const calls: JournalCall[] = [];
      let weight = 0;
      for (const body of bodies) {
        const record = readRecord(body);
        // Written by a version that knew more: not ours to throw away.
        if (!record || record.calls.some(({ n }) => n > upto)) return undefined;
        weight += weightOf(record);
        // All at once: a record may hold thousands of calls, and the broker does not let it be held for ever.
        const waiting = await Promise.all(record.calls.map(async ({ n, items }) => ({ n, items: await this.#waiting(items) })));
        calls.push(...waiting.filter(({ items }) => items.length > 0));
      }
      lighter = weight - countDeliveries(calls);
      return writeCalls(calls, this.#outbox);
    });
    this.#weight -= lighter;
  }

  /** Messages of a call with the recipients for whom they still wait. */
  async #waiting(items: readonly Addressed[]): Promise<Addressed[]> {
    const states = await Promise.all(items.map(({ id }) => this.#index.find(id)));
    return items.flatMap((item, place) => {
      const waiting = new Set(states[place]?.recipients.filter(({ state }) => state === "waiting").map(({ user }) => user));
      const recipients = item.recipients.filter(({ user }) => waiting.has(user));
      return recipients.length === 0 ? [] : [{ ...item, recipients }];
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const wasOpen = this.#state === "open";
    if (this.#state !== "failed") this.#state = wasOpen ? "closing" : "closed";
    await Promise.allSettled(this.#settling);
    const isWhole = await this.#outbox.close();
    await this.#cleaning?.catch(() => {});
    if (wasOpen && isWhole && this.#journal.isUp)
      await this.#noteCleanEnd().catch((thrown: unknown) => this.#log(`A clean end could not be noted: ${String(thrown)}`));
    await this.#journal.close();
    await this.#index.close();
    if (this.#state !== "failed") this.#state = "closed";
  }

  async #noteCleanEnd(): Promise<void> {
    const records = await this.#journal.countRecords();
    const { accepted } = await this.#index.totals();
    await this.#journal.writeOwner({ ...this.#owner(), isClean: true, records, accepted });
  }

  #owner(): Owner {
    return {
      index: this.#indexName,
      instance: this.#instance,
      isClean: false,
      n: this.#outbox.lastN,
      weight: this.#weight,
      records: 0,
      accepted: this.#outbox.accepted,
    };
  }

  #mustBeOurs(owner: Owner | undefined): void {
    if (owner?.instance === this.#instance) return;
    throw unavailable(
      owner
        ? "Another Handover has taken over the journal while this one had no connection. This process must stop."
        : "The journal is gone from the broker. This process must stop; the mail is in its data folder.",
    );
  }

  #fail(cause: HandoverError): void {
    if (this.#state === "failed" || this.#state === "closed") return;
    this.#state = "failed";
    this.#outbox.refuse(cause.message);
    this.#failed(cause);
  }

  #mustBeOpen(): void {
    if (this.#state === "open") return;
    throw unavailable(`The store ${this.#state === "new" ? "is not open yet" : this.#state === "failed" ? "has failed" : "is closed"}.`);
  }

  #mustBeUp(): void {
    this.#mustBeOpen();
    if (!this.#journal.isUp) throw unavailable(`${this.#journal.whyDown} Nothing was changed.`);
  }
}

const UNCONFIRMED = Symbol("unconfirmed");
