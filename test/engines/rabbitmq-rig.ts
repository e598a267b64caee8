/**
 * What the tests of the RabbitMQ engine have in common: engines on a broker, and what they hold.
 * @module
 */
import { randomBytes } from "node:crypto";
import { Connection } from "rabbitmq-client";
import type { Engine } from "../../src/engine.ts";
import type { JournalIndex } from "../../src/engines/rabbitmq/opening.ts";
import { type RabbitmqEngine, rabbitmqEngine } from "../../src/engines/rabbitmq.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { HandoverError } from "../../src/errors.ts";
import type { MessageId, UserId } from "../../src/protocol.ts";
import { Desk, until } from "../../src/testing/engine-bench.ts";
import { makeMessage } from "./message.ts";

const BOB = "bob" as UserId;

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
  const { openWithinMs = 15_000, answerWithinMs = 2_000, newQueueRestMs = 0, refill = false, around = (index) => index, ...limits } = options;
  const [failures, lines]: [HandoverError[], string[]] = [[], []];
  const log = (line: string) => lines.push(line);
  const index = around(sqliteEngine({ dir, ...limits, log: () => {} }));
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
  const { entries } = await desk.read({ limit: 100_000, maxBytes: 1e9 });
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
  #isOver = false;
  readonly #senders: Promise<void>[];

  constructor(engine: Engine, prefix: string) {
    this.#senders = Array.from({ length: 8 }, async (_none, sender) => {
      for (let n = 0; !this.#isOver; n += 1) {
        const id = `${prefix}${sender}-${n}`;
        try {
          if ((await send(engine, id)) === "stored") this.accepted.push(id);
        } catch (thrown) {
          const { code, message } = thrown as HandoverError;
          if (code !== "store-unavailable") throw thrown;
          this.refusals.push(message);
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
    });
  }

  /** Waits for so many more accepted. */
  async accepts(count: number): Promise<void> {
    const goal = this.accepted.length + count;
    await until(
      () => this.accepted.length >= goal,
      () => `${count} more accepted`,
    );
  }

  async refuses(): Promise<void> {
    await until(
      () => this.refusals.length > 8,
      () => "refusals",
    );
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#senders);
  }
}
