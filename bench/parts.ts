/**
 * Parts of what a message costs, each by itself. `node bench/parts.ts json | prepare | sqlite | sqlite-day | store | spread-few | spread-many | pace |
 * threads-paced | commits-paced | store-paced`, then for how many ms it is measured; prints the CPU time of the whole process, µs a message.
 * @module
 */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import Database from "better-sqlite3";
import type { Addressed, Appended, Attachment } from "../src/engine.ts";
import { sqliteEngine } from "../src/engines/sqlite.ts";
import { HandoverError } from "../src/errors.ts";
import { prepareMessage } from "../src/message.ts";
import {
  type Identity,
  type MessageId,
  PROTOCOL,
  parse,
  parseJson,
  SCHEMAS,
  type SessionId,
  type UserId,
  writeDelivery,
  writeFrame,
} from "../src/protocol.ts";
import { pause } from "./measure.ts";
import { folder } from "./start.ts";
import { bodyOf } from "./wire.ts";

// The other thread of `threads-paced`: it answers as shortly as the store does.
if (!isMainThread) parentPort?.on("message", () => parentPort?.postMessage(1));

const [, , name = "", measured = "1500"] = process.argv;
const isSmoke = Number(measured) < 100;
const PAIRS = 50;
const FRAME = 64;
const COMMIT = 512;
const EVENT_BYTES = 450;
const TTL_SECONDS = PROTOCOL.defaultTtlSeconds;

interface Part {
  /** How many messages a step has. */
  readonly messages: number;
  step(): void | Promise<void>;
  close?(): Promise<void>;
}

let serial = 0;
/** As long as an id, and like ids in rising order; costs next to nothing. */
const nextId = () => String(serial++).padStart(36, "0");

/** Send frames as they come from a socket, one of each pair. */
function sendFrames(): readonly Buffer[] {
  return Array.from({ length: PAIRS }, (_none, pair) => {
    const messages = Array.from(
      { length: FRAME },
      (_each, n) => `{"ref":${n},"to":{"user":"receiver-${pair}"},"type":"bench","idempotencyKey":"${randomUUID()}","data":${bodyOf(pair, n)}}`,
    );
    return Buffer.from(`{"op":"send","messages":[${messages.join(",")}]}`);
  });
}

/** Takes one frame after the other, in turn. @param deliver  what a receiver is sent for it */
function frames(deliver: (frame: Buffer) => string): Part {
  const all = sendFrames();
  let next = 0;
  return {
    messages: FRAME,
    step() {
      const frame = all[next++ % all.length];
      if (frame && Buffer.from(deliver(frame)).length < frame.length) throw new Error("The frame to the receiver lacks something.");
    },
  };
}

interface Sent {
  readonly messages: readonly { readonly type: string; readonly data: unknown }[];
}

/** What no server in Node can do without, when it knows what it hands over. */
function json(): Part {
  return frames((frame) => {
    const { messages } = JSON.parse(frame.toString()) as Sent;
    const time = new Date().toISOString();
    const deliveries = messages.map(({ type, data }, seq) => {
      const event = { specversion: "1.0", id: nextId(), source: "/users/sender", type, time, datacontenttype: "application/json", data };
      return `{"seq":${seq},"deliveryCount":1,"event":${JSON.stringify(event)}}`;
    });
    return `{"op":"deliver","deliveries":[${deliveries.join(",")}]}`;
  });
}

/** What the WebSocket transport, the hub and the mailbox do with a frame, apart from waiting for the store. */
function prepare(): Part {
  const identity: Identity = {
    kind: "user",
    user: "sender" as UserId,
    session: "bench" as SessionId,
    scopes: ["receive", "send:user:*"],
    expiresAtMs: Number.POSITIVE_INFINITY,
  };
  const rules = {
    maxMessageBytes: PROTOCOL.maxFrameBytes,
    maxTtlSeconds: TTL_SECONDS,
    supports: sqliteEngine({ dir: "" }).supports,
    now: Date.now,
    isKnown: () => true,
    usersOfSession: () => [],
    isLive: () => true,
  };
  return frames((data) => {
    const frame = parse(SCHEMAS.frame, parseJson(data.toString(), "The frame"), "The frame");
    const { messages } = parse(SCHEMAS.sendFrame, frame, "The send frame");
    const deliveries = messages.map((message, seq) => {
      const { id, event } = prepareMessage(identity, parse(SCHEMAS.framedMessage, message, "The message"), rules);
      return writeDelivery({ seq, id, deliveryCount: 1, event });
    });
    return writeFrame({ op: "deliver", deliveries });
  });
}

/** The library alone: a commit for each step, in a new database that is set up as the store's is (src/engines/sqlite/open.ts). */
function library(prepare: (db: Database.Database) => () => void): Part {
  const own = folder("parts");
  const db = new Database(join(own.path, "parts.db"));
  db.pragma("locking_mode = EXCLUSIVE");
  db.pragma("journal_mode = WAL");
  db.pragma("synchronous = FULL");
  db.pragma("cache_size = -65536");
  return {
    messages: COMMIT,
    step: db.transaction(prepare(db)),
    async close() {
      db.close();
      own.remove();
    },
  };
}

/** Mail that comes and goes. @param keepsDay  also what has to be known for a day */
const sqlite = (keepsDay: boolean) => (db: Database.Database) => {
  db.exec(`
    CREATE TABLE mail (id INTEGER PRIMARY KEY, event TEXT NOT NULL) STRICT;
    CREATE TABLE states (
      message TEXT NOT NULL, mailbox INTEGER NOT NULL, seq INTEGER NOT NULL, ended_ms INTEGER NOT NULL, PRIMARY KEY (message, mailbox)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE keys (source TEXT NOT NULL, key TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (source, key)) STRICT, WITHOUT ROWID;
  `);
  const add = db.prepare("INSERT INTO mail (id, event) VALUES (?, ?)");
  const drop = db.prepare("DELETE FROM mail WHERE id = ?");
  const addState = db.prepare("INSERT INTO states (message, mailbox, seq, ended_ms) VALUES (?, ?, ?, ?)");
  const addKey = db.prepare("INSERT INTO keys (source, key, hash) VALUES (?, ?, ?)");
  const event = "x".repeat(EVENT_BYTES);
  const hash = "h".repeat(64);
  let seq = 0;
  return () => {
    const nowMs = Date.now();
    for (const end = seq + COMMIT; seq < end; seq++) {
      add.run(seq, event);
      if (seq >= COMMIT) drop.run(seq - COMMIT);
      if (!keepsDay) continue;
      addState.run(nextId(), seq % PAIRS, seq, nowMs);
      addKey.run(`/users/sender-${seq % PAIRS}`, randomUUID(), hash);
    }
  };
};

/** Of as many mailboxes, chosen at random, the last number given, and an entry of an index by mailbox and number. */
const spread = (mailboxes: number) => (db: Database.Database) => {
  db.exec(`
    CREATE TABLE mailboxes (id INTEGER PRIMARY KEY, user TEXT NOT NULL UNIQUE, head INTEGER NOT NULL) STRICT;
    CREATE TABLE waiting (mailbox INTEGER NOT NULL, seq INTEGER NOT NULL, message INTEGER NOT NULL, PRIMARY KEY (mailbox, seq)) STRICT, WITHOUT ROWID;
    WITH RECURSIVE ids(id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM ids WHERE id < ${mailboxes - 1})
    INSERT INTO mailboxes (id, user, head) SELECT id, 'crowd-' || id, 1 FROM ids;
    INSERT INTO waiting (mailbox, seq, message) SELECT id, 1, 0 FROM mailboxes;
  `);
  const next = db.prepare<[number], number>("UPDATE mailboxes SET head = head + 1 WHERE id = ? RETURNING head").pluck();
  const add = db.prepare("INSERT INTO waiting (mailbox, seq, message) VALUES (?, ?, ?)");
  return () => {
    for (let n = 0; n < COMMIT; n++) {
      const mailbox = Math.floor(Math.random() * mailboxes);
      add.run(mailbox, next.get(mailbox), serial++);
    }
  };
};

function addressed(pair: number): Addressed {
  const id = nextId();
  const source = `/users/sender-${pair}`;
  const acceptedAtMs = Date.now();
  const event = `{"specversion":"1.0","id":"${id}","source":"${source}","type":"bench","datacontenttype":"application/json","data":${bodyOf(pair, serial)}}`;
  return {
    id: id as MessageId,
    source,
    event,
    acceptedAtMs,
    expiresAtMs: acceptedAtMs + TTL_SECONDS * 1_000,
    ttlSeconds: TTL_SECONDS,
    recipients: [{ user: `receiver-${pair}` as UserId }],
    idempotency: { key: randomUUID(), hash: "h".repeat(43) },
  };
}

function fail(cause: HandoverError): never {
  throw cause;
}

/** The embedded engine, in a folder of its own. */
async function openEngine() {
  const own = folder("parts");
  const engine = sqliteEngine({ dir: join(own.path, "store") });
  await engine.open(fail);
  return {
    engine,
    async close() {
      await engine.close();
      own.remove();
    },
  };
}

function requireStored(outcome: Appended | HandoverError | undefined): void {
  if (outcome instanceof HandoverError || outcome?.outcome !== "stored") throw new Error(JSON.stringify(outcome));
}

/** The embedded engine as the hub uses it: what a batch brought is acknowledged with the next. */
async function store(): Promise<Part> {
  const { engine, close } = await openEngine();
  const uptos = new Map<Attachment, number>();
  for (let pair = 0; pair < PAIRS; pair++) {
    const attachment: Attachment = await engine.attach(`receiver-${pair}` as UserId, {
      deliver: (entries) => uptos.set(attachment, entries.at(-1)?.seq ?? 0),
      ended() {},
      lost: fail,
    });
  }
  return {
    messages: COMMIT,
    async step() {
      const settled = [...uptos].map(([attachment, upto]) => attachment.settle([{ kind: "acked-upto", upto, except: [] }], "bench" as SessionId));
      const appended = await engine.appendEach(Array.from({ length: COMMIT }, (_none, n) => addressed(n % PAIRS)));
      for (const each of appended) requireStored(each);
      await Promise.all(settled);
    },
    close,
  };
}

/**
 * A message at a time, which shares nothing, and a millisecond before each of the two things that happen to it: it comes, and it goes. The timers
 * have their part in every such figure; `pace` is them alone.
 */
function paced(comes: () => void | Promise<void>, goes: () => void | Promise<void>, close?: () => Promise<void>): Part {
  return {
    messages: 1,
    async step() {
      await pause(1);
      await comes();
      await pause(1);
      await goes();
    },
    ...(close && { close }),
  };
}

/** A message's two questions to another thread: store this, and take that out. */
function threadsPaced(): Part {
  const worker = new Worker(new URL(import.meta.url));
  const ask = (question: object) =>
    new Promise<void>((resolve) => {
      worker.once("message", () => resolve());
      worker.postMessage(question);
    });
  const event = "x".repeat(EVENT_BYTES);
  return paced(
    () => ask({ id: nextId(), event }),
    () => ask({ upto: serial }),
    async () => void (await worker.terminate()),
  );
}

/** A message's two commits, each with its sync: a row comes, and goes. */
function commitsPaced(): Part {
  let take = () => {};
  const { step, close } = library((db) => {
    db.exec("CREATE TABLE mail (id INTEGER PRIMARY KEY, event TEXT NOT NULL) STRICT");
    const add = db.prepare("INSERT INTO mail (id, event) VALUES (?, ?)");
    const drop = db.prepare("DELETE FROM mail WHERE id = ?");
    const event = "x".repeat(EVENT_BYTES);
    take = () => void drop.run(serial);
    return () => void add.run(++serial, event);
  });
  return paced(step, () => take(), close);
}

/** The embedded engine, asked for one message after the other. */
async function storePaced(): Promise<Part> {
  const { engine, close } = await openEngine();
  let last = 0;
  const attachment = await engine.attach("receiver-0" as UserId, {
    deliver(entries) {
      last = entries.at(-1)?.seq ?? 0;
    },
    ended() {},
    lost: fail,
  });
  return paced(
    async () => {
      const [outcome] = await engine.appendEach([addressed(0)]);
      requireStored(outcome);
    },
    async () => {
      const ended = await attachment.settle([{ kind: "acked-upto", upto: last, except: [] }], "bench" as SessionId);
      if (ended.length !== 1) throw new Error(`${ended.length} messages were settled`);
    },
    close,
  );
}

const parts: Record<string, () => Part | Promise<Part>> = {
  json,
  prepare,
  sqlite: () => library(sqlite(false)),
  "sqlite-day": () => library(sqlite(true)),
  store,
  "spread-few": () => library(spread(100)),
  "spread-many": () => library(spread(isSmoke ? 1_000 : 1_000_000)),
  pace: () =>
    paced(
      () => {},
      () => {},
    ),
  "threads-paced": threadsPaced,
  "commits-paced": commitsPaced,
  "store-paced": storePaced,
};

/** @returns how many messages it had */
async function run({ messages, step }: Part, ms: number): Promise<number> {
  const untilMs = performance.now() + ms;
  let count = 0;
  do {
    await step();
    count += messages;
  } while (performance.now() < untilMs);
  return count;
}

async function main(): Promise<void> {
  const part = await parts[name]?.();
  if (!part) throw new Error(`There is no part ${name}; there are ${Object.keys(parts).join(", ")}.`);
  await run(part, Number(measured) / 2);
  const before = process.cpuUsage();
  const count = await run(part, Number(measured));
  const { user, system } = process.cpuUsage(before);
  console.log((user + system) / count);
  await part.close?.();
}

if (isMainThread) await main();
