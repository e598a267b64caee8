/**
 * What the tests of the RabbitMQ engine have in common: engines on a broker, and what they hold.
 * @module
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { Connection } from "rabbitmq-client";
import type { Engine, Entry } from "../../src/engine.ts";
import type { JournalIndex } from "../../src/engines/rabbitmq/opening.ts";
import { type RabbitmqEngine, rabbitmqEngine } from "../../src/engines/rabbitmq.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { HandoverError } from "../../src/errors.ts";
import type { MessageId, UserId } from "../../src/protocol.ts";
import { Desk, until } from "../../src/testing/engine-bench.ts";
import { makeMessage } from "./message.ts";

const BOB = "bob" as UserId;
/** A mailbox has room for any load here, and is read at once. */
const ROOM = 100_000;

export interface OpenOptions {
  readonly mailboxMaxMessages?: number;
  readonly openWithinMs?: number;
  readonly answerWithinMs?: number;
  /** Only where the broker is killed: its queues must not be new then. */
  readonly newQueueRestMs?: number;
  readonly refill?: boolean;
  /** Changes the index, e.g. to make it slow. */
  readonly around?: (index: JournalIndex) => JournalIndex;
}
export type OpenEngine = RabbitmqEngine & { readonly failures: HandoverError[]; readonly lines: string[] };

/** Opens an engine with its index in `dir`; short deadlines. */
export async function openEngine(url: string, dir: string, journal: string, options: OpenOptions = {}): Promise<OpenEngine> {
  const { openWithinMs = 15_000, answerWithinMs = 2_000, newQueueRestMs = 0, refill = false, around = (index) => index, ...given } = options;
  const [failures, lines]: [HandoverError[], string[]] = [[], []];
  const log = (line: string) => lines.push(line);
  const index = around(sqliteEngine({ dir, mailboxMaxMessages: ROOM, ...given, log: () => {} }));
  const engine = rabbitmqEngine({ url, journal, index, openWithinMs, newQueueRestMs, refill, answerWithinMs, log });
  await engine.open((cause) => failures.push(cause));
  return Object.assign(engine, { failures, lines });
}

export async function attach(engine: Engine, user: UserId = BOB): Promise<Desk> {
  const desk = new Desk();
  desk.attachment = await engine.attach(user, desk);
  return desk;
}

/** Ids of what waits for a user. */
export async function waiting(engine: Engine, user: UserId = BOB): Promise<MessageId[]> {
  const desk = await attach(engine, user);
  const { entries } = await desk.read({ limit: ROOM, maxBytes: 1e9 });
  await desk.attachment.detach();
  return entries.map(({ id }) => id);
}

export async function send(engine: Engine, id: string, users: readonly string[] = ["bob"]) {
  const [result] = await engine.append([makeMessage(id, users)]);
  return result?.outcome;
}

export const numbers = (prefix: string, count: number) => Array.from({ length: count }, (_none, n) => `${prefix}${n}`);
export const isUnavailable = { code: "store-unavailable" };

/** Waits until mail is taken again. */
export async function recovered(engine: Engine): Promise<void> {
  let last = "";
  await until(
    () =>
      send(engine, `probe-${randomBytes(4).toString("hex")}`, ["probe"]).then(
        (outcome) => outcome === "stored",
        (thrown: unknown) => {
          last = String(thrown);
          return false;
        },
      ),
    () => `the engine to take mail again; it says: ${last}`,
  );
}

/** Does something on the broker as somebody else. */
export async function asOperator<T>(url: string, work: (connection: Connection) => Promise<T>): Promise<T> {
  const connection = new Connection(url);
  try {
    return await work(connection);
  } finally {
    await connection.close();
  }
}

/** Records in a journal. */
export async function depth(url: string, journal: string): Promise<number> {
  const queue = `handover.${journal}.journal`;
  return (await asOperator(url, (connection) => connection.queueDeclare({ queue, passive: true }))).messageCount;
}

/** Sends until it is told to stop; knows what was accepted and what was refused. */
export class Load {
  readonly accepted: string[] = [];
  /** Why it was refused, each time. */
  readonly refusals: string[] = [];
  readonly #engine: Engine;
  readonly #senders: Promise<void>[];
  #isOver = false;
  #broken: unknown;

  constructor(engine: Engine, prefix: string) {
    this.#engine = engine;
    this.#senders = Array.from({ length: 8 }, (_none, sender) =>
      this.#send(`${prefix}${sender}`).catch((thrown: unknown) => {
        this.#broken = thrown;
      }),
    );
  }

  async #send(prefix: string): Promise<void> {
    for (let n = 0; !this.#isOver; n += 1) {
      const id = `${prefix}-${n}`;
      try {
        const outcome = await send(this.#engine, id);
        // A load that is only turned away is none.
        if (outcome !== "stored") throw new Error(`${id} was not stored: ${outcome}`);
        this.accepted.push(id);
        await pause(2);
      } catch (thrown) {
        const { code, message } = thrown as HandoverError;
        if (code !== isUnavailable.code) throw thrown;
        this.refusals.push(message);
        await pause(20);
      }
    }
  }

  /** Waits for so many more accepted. */
  async accepts(count: number): Promise<void> {
    const goal = this.accepted.length + count;
    await until(
      () => this.#isWhole() && this.accepted.length >= goal,
      () => `${count} more accepted; the last refusals: ${this.refusals.slice(-3).join(" | ")}`,
    );
  }

  async refuses(): Promise<void> {
    await until(
      () => this.#isWhole() && this.refusals.length > 8,
      () => "refusals",
    );
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#senders);
    this.#isWhole();
  }

  #isWhole(): boolean {
    if (this.#broken) throw this.#broken;
    return true;
  }
}

/** Acknowledges what waits for bob; repeats what was refused, and attaches again when its mailbox is let go. */
export class Receiver {
  /** Ids whose acknowledgement was answered. */
  readonly acknowledged = new Set<string>();
  /** Ids that were handed out again after that. */
  readonly repeated: string[] = [];
  readonly epochs = new Set<string>();
  readonly #work: Promise<void>;
  #isOver = false;

  constructor(engine: Engine) {
    this.#work = this.#receive(engine);
  }

  async #receive(engine: Engine): Promise<void> {
    let unanswered: readonly Entry[] = [];
    while (!this.#isOver) {
      const desk = await attach(engine);
      this.epochs.add(desk.attachment.epoch);
      while (!this.#isOver && desk.losses.length === 0) {
        if (unanswered.length === 0) {
          unanswered = (await desk.read({ limit: 100 })).entries;
          this.repeated.push(...unanswered.map(({ id }) => String(id)).filter((id) => this.acknowledged.has(id)));
        }
        try {
          if (unanswered.length > 0) await desk.settle({ kind: "acked", seqs: unanswered.map(({ seq }) => seq) });
          for (const { id } of unanswered) this.acknowledged.add(id);
          unanswered = [];
          await pause(2);
        } catch (thrown) {
          if ((thrown as HandoverError).code !== isUnavailable.code) throw thrown;
          await pause(20);
        }
      }
      await desk.attachment.detach();
    }
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#work;
  }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A way to the broker on which something can happen. */
export interface Wire {
  readonly url: string;
  /**
   * Cuts the connection in the midst of a publish; in the moment when the journal is taken up again, and what was cut is made good, closes
   * the channel for publishing. Resolves then.
   */
  closeChannelWhenTakenUp(): Promise<void>;
  remove(): void;
}

const PUBLISH = Buffer.from([0, 60, 0, 40]);
/** basic.recover-ok, the last answer that the engine waits for before it publishes again. */
const RECOVER_OK = Buffer.from([0, 60, 0, 111, 0xce]);
/** So many that the engine has gone on before it reads what stands behind them, in the same piece. */
const HEARTBEATS = Buffer.concat(Array.from({ length: 100 }, () => Buffer.from([8, 0, 0, 0, 0, 0, 0, 0xce])));
/** channel.close for channel 2 (1 is the lock's): 406, "test". */
const CHANNEL_CLOSE = Buffer.from([1, 0, 2, 0, 0, 0, 15, 0, 20, 0, 40, 0x01, 0x96, 4, ...Buffer.from("test"), 0, 0, 0, 0, 0xce]);

export async function startWire(brokerUrl: string): Promise<Wire> {
  const target = new URL(brokerUrl);
  const sockets = new Set<Socket>();
  let state: "open" | "cut at a publish" | "close when taken up" = "open";
  let closed = () => {};
  const cut = () => {
    for (const socket of sockets) socket.destroy();
  };
  const server = createServer((client) => {
    const broker = connect(Number(target.port), target.hostname);
    for (const [one, other] of [[client, broker] as const, [broker, client] as const]) {
      sockets.add(one);
      one.on("error", () => {});
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
    }
    client.on("data", (chunk) => {
      if (state !== "cut at a publish" || !chunk.includes(PUBLISH)) {
        broker.write(chunk);
        return;
      }
      state = "close when taken up";
      cut();
    });
    broker.on("data", (chunk) => {
      const at = state === "close when taken up" ? chunk.indexOf(RECOVER_OK) : -1;
      if (at < 0) {
        client.write(chunk);
        return;
      }
      client.write(Buffer.concat([chunk.subarray(0, at + RECOVER_OK.length), HEARTBEATS, CHANNEL_CLOSE]));
      state = "open";
      closed();
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = new URL(brokerUrl);
  url.port = String((server.address() as AddressInfo).port);
  return {
    url: url.href,
    closeChannelWhenTakenUp: () =>
      new Promise((resolve) => {
        closed = resolve;
        state = "cut at a publish";
      }),
    remove: () => {
      server.close();
      cut();
    },
  };
}
