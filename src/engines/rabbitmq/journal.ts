/**
 * The journal's queues on the broker: `handover.<name>.journal` (quorum), `.owner` (quorum, one message: whose it is) and `.lock` (exclusive).
 *
 * Lock and publishing share one connection: what the broker confirmed was published by the owner, and a connection that the broker has
 * given up for dead can publish nothing more. They are lost together, too: when a channel or the connection ends, or cannot be set up, a new
 * connection is made after a pause. That is the one way back.
 * @module
 */
import type { Channel, Connection, ReturnedMessage } from "rabbitmq-client";
import type { HandoverError } from "../../errors.ts";
import { codeOf, textOf, unavailable, within } from "./failure.ts";
import { Reader } from "./reader.ts";
import type { Owner, Replay } from "./record.ts";

/** Redeliveries before RabbitMQ drops a message; 20 since 4.0 unless said. Reading the journal and putting it back counts as one. */
const DELIVERY_LIMIT = 2_000_000_000;
/** The pause before a new connection; the broker needs a moment to let go of the old one's lock. */
const RETRY_MS = 300;
/** How long taking up the journal may take; a quorum queue without a leader never answers. */
const SET_UP_MS = 10_000;

export interface JournalOptions {
  readonly url: string;
  readonly name: string;
  /** How long opening waits for the broker and for the lock. */
  readonly openWithinMs: number;
  /** How long new queues are left alone before they are trusted. */
  readonly newQueueRestMs: number;
  readonly log: (line: string) => void;
  /** Checks, after a lost connection was made anew, that the journal is still ours; throws when it is not. */
  readonly regained: (owner: Owner | undefined) => void;
  /** The journal can (or can no longer) be written. */
  readonly changed: (isUp: boolean) => void;
  /** It never will again. */
  readonly failed: (cause: HandoverError) => void;
}

interface Desk {
  readonly channel: Channel;
  readonly lock: Channel;
  readonly returned: Set<string>;
  /** Ends the publishes that wait for their confirm. */
  readonly unconfirmed: Set<(cause: Error) => void>;
}

export class Journal {
  readonly #options: JournalOptions;
  readonly #queue: string;
  readonly #ownerQueue: string;
  readonly #lockQueue: string;
  #connection: Connection | undefined;
  #desk: Desk | undefined;
  #isSettingUp = false;
  #connect = () => {};
  #isOpen = false;
  #isClosed = false;
  #blocked: string | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  #published = 0;
  #lastError = "";

  constructor(options: JournalOptions) {
    this.#options = options;
    this.#queue = `handover.${options.name}.journal`;
    this.#ownerQueue = `handover.${options.name}.owner`;
    this.#lockQueue = `handover.${options.name}.lock`;
  }

  /** Whether records can be published. */
  get isUp(): boolean {
    return this.#isOpen && this.#desk !== undefined && this.#blocked === undefined;
  }

  /** A sentence for those whose request is refused. */
  get whyDown(): string {
    if (this.#blocked !== undefined) return `RabbitMQ takes no messages now (${this.#blocked}).`;
    return `There is no connection to RabbitMQ${this.#lastError === "" ? "" : ` (${this.#lastError})`}.`;
  }

  /** Connects, takes the lock, declares the queues. @throws HandoverError store-unavailable */
  async open(): Promise<void> {
    const { Connection } = await import("rabbitmq-client").catch((cause: unknown) => {
      throw unavailable("The package rabbitmq-client is not installed. Install it beside Handover: npm install rabbitmq-client@5", cause);
    });
    this.#connect = () => this.#connectWith(Connection);
    const { openWithinMs, name } = this.#options;
    const deadline = performance.now() + openWithinMs;
    for (;;) {
      this.#connect();
      try {
        this.#use(await within(SET_UP_MS, this.#setUp(true)));
        break;
      } catch (cause) {
        this.#noteError(cause);
        if (performance.now() < deadline) {
          this.#connection?.unsafeDestroy();
          await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
          continue;
        }
        const isLocked = codeOf(cause) === "RESOURCE_LOCKED";
        await this.close();
        throw isLocked
          ? unavailable(`The journal ${name} is in use: another Handover holds its lock (queue ${this.#lockQueue}). Stop that process first.`, cause)
          : unavailable(`RabbitMQ cannot be used: ${textOf(cause)}. Check HANDOVER_ENGINE, and that the broker runs.`, cause);
      }
    }
    this.#isOpen = true;
  }

  /** Makes a connection, which tries until it is there. */
  #connectWith(Connection: typeof import("rabbitmq-client").Connection): void {
    const { url, name, openWithinMs } = this.#options;
    const connection = new Connection({
      url,
      connectionName: `handover ${name}`,
      acquireTimeout: Math.min(openWithinMs, SET_UP_MS),
      retryLow: 200,
      retryHigh: 2_000,
      heartbeat: 5,
      frameMax: 131_072,
      noDelay: true,
    });
    this.#connection = connection;
    connection.on("error", (cause: unknown) => this.#noteError(cause));
    connection.on("connection", () => {
      if (this.#isOpen) this.#setUpAgain();
    });
    connection.on("connection.blocked", (reason: string) => {
      this.#blocked = reason || "an alarm";
      this.#options.log(`RabbitMQ has blocked publishing: ${this.#blocked}. New messages are refused until it goes on.`);
      this.#options.changed(false);
    });
    connection.on("connection.unblocked", () => {
      this.#blocked = undefined;
      if (this.isUp) this.#options.changed(true);
    });
  }

  /** @param mayMake  whether queues that are not there are made */
  async #setUp(mayMake: boolean): Promise<Desk> {
    const connection = this.#requireConnection();
    const lock = await connection.acquire({ emitErrorsFromChannel: true });
    lock.on("error", (cause: unknown) => this.#noteError(cause));
    await lock.queueDeclare({ queue: this.#lockQueue, exclusive: true, autoDelete: false, durable: false });
    if (mayMake) await this.#makeQueues(lock);
    else for (const queue of [this.#queue, this.#ownerQueue]) await lock.queueDeclare({ queue, passive: true });
    const channel = await connection.acquire({ emitErrorsFromChannel: true });
    const desk: Desk = { channel, lock, returned: new Set(), unconfirmed: new Set() };
    channel.on("error", (cause: unknown) => this.#noteError(cause));
    channel.on("basic.return", (message: ReturnedMessage) => desk.returned.add(String(message.messageId)));
    for (const each of [lock, channel]) each.on("close", () => this.#lost(desk));
    await channel.confirmSelect();
    return desk;
  }

  #use(desk: Desk): void {
    if (!desk.channel.active || !desk.lock.active) throw new Error("the channel was closed at once");
    this.#desk = desk;
  }

  async #makeQueues(lock: Channel): Promise<void> {
    const isThere = await this.#hasQueues();
    for (const queue of [this.#queue, this.#ownerQueue])
      await lock.queueDeclare({ queue, durable: true, arguments: { "x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT } });
    // RabbitMQ 3.10 notes a quorum queue's Raft log in a file that it does not write at once. Killed before that, it starts the queue with a
    // new, empty log: what it had confirmed is gone, and the queue may stay without a leader. docs/decisions/0001-rabbitmq.md
    if (!isThere) await new Promise((resolve) => setTimeout(resolve, this.#options.newQueueRestMs));
  }

  async #hasQueues(): Promise<boolean> {
    const channel = await this.#requireConnection().acquire({ emitErrorsFromChannel: true });
    channel.on("error", (cause: unknown) => this.#noteError(cause));
    try {
      for (const queue of [this.#queue, this.#ownerQueue]) await channel.queueDeclare({ queue, passive: true });
      return true;
    } catch (cause) {
      if (codeOf(cause) === "NOT_FOUND") return false;
      throw cause;
    } finally {
      await channel.close();
    }
  }

  #lost(desk: Desk): void {
    if (this.#desk !== desk) return;
    this.#desk = undefined;
    this.#blocked = undefined;
    for (const end of desk.unconfirmed) end(new Error("the channel is closed"));
    if (this.#isClosed) return;
    this.#options.changed(false);
    this.#connectAgain();
  }

  #connectAgain(): void {
    clearTimeout(this.#retryTimer);
    if (this.#isClosed) return;
    const connection = this.#connection;
    // Not at once: rabbitmq-client may be in the midst of handling the loss, and would connect again though it was ended.
    setImmediate(() => connection?.unsafeDestroy());
    this.#retryTimer = setTimeout(this.#connect, RETRY_MS);
  }

  #setUpAgain(): void {
    if (this.#desk || this.#isSettingUp || this.#isClosed) return;
    this.#isSettingUp = true;
    const setUp = async () => {
      const desk = await this.#setUp(false);
      return { desk, owner: await this.readOwner(desk) };
    };
    within(SET_UP_MS, setUp())
      .then(async ({ desk, owner }) => {
        try {
          this.#options.regained(owner);
        } catch (cause) {
          this.#options.failed(cause as HandoverError);
          await this.close();
          return;
        }
        this.#use(desk);
        if (this.isUp) this.#options.changed(true);
      })
      .catch((cause: unknown) => {
        this.#noteError(cause);
        this.#connectAgain();
      })
      .finally(() => {
        this.#isSettingUp = false;
      });
  }

  /** Publishes a record. Resolves when the broker has confirmed it. @throws HandoverError store-unavailable: it may be there or not */
  publish(body: Buffer): Promise<void> {
    return this.#publish(this.#requireDesk(), this.#queue, body);
  }

  async #publish(desk: Desk, queue: string, body: Buffer): Promise<void> {
    this.#published += 1;
    const messageId = String(this.#published);
    // rabbitmq-client answers no publish whose channel is closed in the moment when it is written.
    const { promise: lost, reject: end } = Promise.withResolvers<never>();
    desk.unconfirmed.add(end);
    try {
      await Promise.race([desk.channel.basicPublish({ routingKey: queue, mandatory: true, durable: true, messageId }, body), lost]);
    } catch (cause) {
      throw unavailable(`RabbitMQ did not confirm: ${textOf(cause)}.`, cause);
    } finally {
      desk.unconfirmed.delete(end);
    }
    // rabbitmq-client tells of a returned message by setImmediate, so after the confirm that the broker sends behind it.
    await new Promise((resolve) => setImmediate(resolve));
    if (desk.returned.delete(messageId)) throw unavailable(`The queue ${queue} is not there any more; somebody has deleted it.`);
  }

  async readOwner(desk = this.#requireDesk()): Promise<Owner | undefined> {
    let last: Owner | undefined;
    // A crash while it was written leaves two: the last one counts.
    for (;;) {
      const message = await desk.lock.basicGet({ queue: this.#ownerQueue, noAck: false });
      if (!message) break;
      last = JSON.parse(String(message.body)) as Owner;
    }
    await desk.lock.basicRecover({ requeue: true });
    return last;
  }

  async writeOwner(owner: Owner): Promise<void> {
    const desk = this.#requireDesk();
    const { messageCount } = await desk.lock.queueDeclare({ queue: this.#ownerQueue, passive: true });
    await this.#publish(desk, this.#ownerQueue, Buffer.from(JSON.stringify(owner), "utf8"));
    for (let old = 0; old < messageCount; old++) await desk.lock.basicGet({ queue: this.#ownerQueue, noAck: true });
  }

  /** Reads the whole journal and leaves it as it is. */
  readAll(): Promise<Replay> {
    return this.#reader().readAll(this.#requireDesk().lock);
  }

  /** How many records it holds. */
  countRecords(): Promise<number> {
    return this.#reader().count(this.#requireDesk().lock);
  }

  /**
   * Goes once through what is in the journal now, from its oldest record on.
   * @param clean  gets some records; those that it returns are published before they are removed; `undefined` stops
   * @returns how much was gone through, as a number of records
   */
  lap(clean: (bodies: readonly unknown[]) => Promise<Iterable<Buffer> | undefined>): Promise<number> {
    return this.#reader().lap(clean, (body) => this.publish(body));
  }

  /** Removes every record. */
  async empty(): Promise<void> {
    await this.#requireDesk().lock.queuePurge({ queue: this.#queue });
  }

  #reader(): Reader {
    return new Reader(this.#requireConnection(), this.#queue, (cause) => this.#noteError(cause));
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#retryTimer);
    const desk = this.#desk;
    this.#desk = undefined;
    const isBlocked = this.#blocked !== undefined;
    if (desk && !isBlocked) for (const each of [desk.channel, desk.lock]) await each.close();
    // A connection that is blocked or away would never say goodbye.
    if (desk && !isBlocked) await this.#connection?.close();
    else this.#connection?.unsafeDestroy();
  }

  #noteError(cause: unknown): void {
    this.#lastError = textOf(cause);
    if (this.#isOpen && !this.#isClosed) this.#options.log(`RabbitMQ: ${this.#lastError}`);
  }

  #requireConnection(): Connection {
    if (!this.#connection) throw unavailable("The journal is not open.");
    return this.#connection;
  }

  #requireDesk(): Desk {
    if (!this.#desk) throw unavailable(this.whyDown);
    return this.#desk;
  }
}
