/**
 * The server killed again and again under load, and a ledger of what it had promised. What it answered with 201 must be delivered; what it
 * answered with `acked` must not be delivered again. What was not answered may have happened or not.
 * @module
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { sqliteEngine } from "../src/engines/sqlite.ts";
import { call, openSocket, signToken, WEBSOCKET, type WireReceiver } from "../src/testing/wire.ts";
import { LONG_POLLING } from "../src/testing/wire-poll.ts";
import { makeMessage } from "./engines/message.ts";
import { count, patience, percentile, randomOf, report, SEED } from "./faults/report.ts";
import { randomName, removeJournal } from "./support/broker.ts";
import { CommandServer } from "./support/command.ts";
import { AMQP_URL, describeWith, RABBITMQ } from "./support/needs.ts";
import { freePort } from "./support/port.ts";
import { TOKEN_SECRET } from "./support/started.ts";

/** Rounds of each engine. */
const ROUNDS = count(20, 100);
const RABBITMQ_ROUNDS = count(3, 20);
/** Messages that wait in the store for others meanwhile. */
const STORED = count(0, 100_000);
/** Within which a server must take mail again, with so many stored, ms. */
const READY_MS = 2_000;
const IN_FLIGHT = 64;
const USERS = ["ws-1", "ws-2", "poll-1", "poll-2"] as const;

const token = (user: string) =>
  signToken(TOKEN_SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: Math.floor(Date.now() / 1000) + 3_600 });

const random = randomOf(SEED);

/** What was asked of the server, and what it answered. */
class Ledger {
  readonly sent = new Set<string>();
  /** Answered 201, by user. */
  readonly accepted = new Map<string, Set<string>>(USERS.map((user) => [user, new Set()]));
  /** An acknowledgement was sent; perhaps it was carried out. */
  readonly ackAsked = new Set<string>();
  /** … and its answer was received. */
  readonly acked = new Set<string>();
  #next = 0;

  take(): { readonly user: string; readonly name: string } {
    this.#next += 1;
    const user = USERS[this.#next % USERS.length] ?? "ws-1";
    const name = `${user} ${this.#next}`;
    this.sent.add(name);
    return { user, name };
  }

  accept(user: string, name: string): void {
    this.accepted.get(user)?.add(name);
  }

  /** What must be delivered to this user now. */
  owed(user: string): string[] {
    return [...(this.accepted.get(user) ?? [])].filter((name) => !this.ackAsked.has(name));
  }

  countAccepted(): number {
    return [...this.accepted.values()].reduce((sum, names) => sum + names.size, 0);
  }
}

const messageOf = (user: string, name: string) => ({ to: { user }, type: "crash", data: { name, text: "é".repeat(50) } });
const nameOf = (delivery: WireReceiver["deliveries"][number]) => String((delivery.event.data as { name: string }).name);

let data = "";
let server: CommandServer | undefined;
beforeAll(async () => {
  data = await mkdtemp(join(tmpdir(), "handover-crash-"));
});
afterAll(async () => {
  await server?.kill();
  await rm(data, { recursive: true, force: true });
});

test(`[K7] killed ${ROUNDS} times under load, it delivers everything that it accepted and nothing that it acknowledged`, {
  timeout: patience(ROUNDS, 8_000),
}, async () => {
  await storeForOthers();
  const { readyMs, slowness, ...figures } = await crash({ rounds: ROUNDS });
  const [half, most] = [percentile(readyMs, 50), percentile(readyMs, 99)];
  const times = {
    "ready p50 ms": half,
    "ready p99 ms": most,
    "machine slower by other work, times":
      percentile(
        slowness.map((times) => times * 10),
        50,
      ) / 10,
  };
  report("R1", "kill -9 under load", { seed: SEED, ...figures, stored: STORED, ...times });
  const alone = readyMs.map((ms, start) => ms / (slowness[start] ?? 1));
  if (STORED > 0) expect(percentile(alone, 99), `ready within, ms, with ${STORED} stored`).toBeLessThanOrEqual(READY_MS);
});

describeWith(RABBITMQ, "the RabbitMQ engine and `kill -9`", () => {
  const journal = randomName();
  afterAll(() => removeJournal(journal));
  test("[Q11] on RabbitMQ, killed under load, it delivers everything that it accepted and nothing that it acknowledged; at last from the journal alone", {
    timeout: patience(RABBITMQ_ROUNDS, 20_000),
  }, async () => {
    const {
      readyMs: _readyMs,
      slowness: _slowness,
      ...figures
    } = await crash({
      rounds: RABBITMQ_ROUNDS,
      flags: ["--engine", `${AMQP_URL}?journal=${journal}`],
      beforeLast: () => rm(join(data, "rabbitmq"), { recursive: true }),
    });
    report("R1", "kill -9 under load, RabbitMQ", { seed: SEED, ...figures });
  });
});

interface CrashOptions {
  readonly rounds: number;
  readonly flags?: readonly string[];
  /** What is done to the data before the last start. */
  readonly beforeLast?: () => Promise<void>;
}

interface Crashed {
  readonly kills: number;
  readonly sent: number;
  readonly accepted: number;
  readonly acked: number;
  readonly "sends/s": number;
  /** From the start of the process until it takes mail, each time. */
  readonly readyMs: readonly number[];
  /** What a second of work took then, s: 1 on a machine that does nothing else. */
  readonly slowness: readonly number[];
}

/** What a second of work takes on this machine now, s. More than 1: it has other work besides, and everything takes so much longer. */
function measureSlowness(): number {
  const [startedMs, before] = [performance.now(), process.cpuUsage()];
  let workedMs = 0;
  while (workedMs < 50) {
    const { user, system } = process.cpuUsage(before);
    workedMs = (user + system) / 1000;
  }
  return Math.max(1, (performance.now() - startedMs) / workedMs);
}

/** Fills the store with mail for users whom nobody here is. */
async function storeForOthers(): Promise<void> {
  if (STORED === 0) return;
  const engine = sqliteEngine({ dir: data });
  await engine.open(() => {});
  for (let n = 0; n < STORED; n += 500)
    await engine.append(Array.from({ length: 500 }, (_none, at) => makeMessage(`stored-${n + at}`, [`other-${(n + at) % 1_000}`])));
  await engine.close();
}

async function crash({ rounds, flags = [], beforeLast }: CrashOptions): Promise<Crashed> {
  console.log(`seed ${SEED}`);
  const port = await freePort();
  const ledger = new Ledger();
  let epoch: string | undefined;
  const readyMs: number[] = [];
  const slowness: number[] = [];
  let underLoadMs = 0;
  let acceptedUnderLoad = 0;
  const start = async (more: readonly string[] = []) => {
    const before = measureSlowness();
    const startedMs = performance.now();
    server = await CommandServer.start(port, data, [...more, ...flags]);
    readyMs.push(performance.now() - startedMs);
    slowness.push((before + measureSlowness()) / 2);
    return server;
  };
  for (let round = 1; round <= rounds; round++) {
    const { url } = await start(["--log-level", "info"]);
    const receivers = await Promise.all(USERS.map((user) => settleAccounts(url, user, ledger, round)));
    const told = receivers.find(({ epoch: each }) => each !== undefined)?.epoch;
    // The numbers go on where they were: cursors outlive a crash.
    if (epoch !== undefined && told !== undefined) expect(told).toBe(epoch);
    epoch ??= told;
    const loads = [
      ...receivers.map((receiver) => acknowledgeSome(receiver, ledger)),
      ...Array.from({ length: IN_FLIGHT / 2 }, () => sendByHttp(url, ledger)),
      ...Array.from({ length: count(1, 3) }, () => sendByWebSocket(url, ledger, IN_FLIGHT / 2)),
    ];
    const before = ledger.countAccepted();
    const startedMs = performance.now();
    // At least something of it must be in the middle of being done.
    await expect.poll(() => ledger.countAccepted(), { timeout: 10_000, interval: 5 }).toBeGreaterThan(before + IN_FLIGHT);
    await new Promise((resolve) => setTimeout(resolve, count(0, 300) + random() * count(350, 500)));
    acceptedUnderLoad += ledger.countAccepted() - before;
    underLoadMs += performance.now() - startedMs;
    await server?.kill();
    await Promise.all(loads);
    await Promise.all(receivers.map((receiver) => receiver.leave()));
  }
  await beforeLast?.();
  const { url } = await start();
  for (const receiver of await Promise.all(USERS.map((user) => settleAccounts(url, user, ledger, rounds + 1)))) await receiver.leave();
  // Everything has its ending now: nothing accepted is left that was not acknowledged.
  expect(USERS.flatMap((user) => ledger.owed(user))).toEqual([]);
  await server?.kill();
  return {
    kills: rounds,
    sent: ledger.sent.size,
    accepted: ledger.countAccepted(),
    acked: ledger.acked.size,
    "sends/s": Math.round((acceptedUnderLoad / underLoadMs) * 1000),
    readyMs,
    slowness,
  };
}

/** Opens a new receiver, which gets everything unsettled, compares it with the ledger, and acknowledges all of it. */
async function settleAccounts(url: string, user: string, ledger: Ledger, round: number): Promise<WireReceiver> {
  const [owed, acked] = [ledger.owed(user), new Set(ledger.acked)];
  const wire = user.startsWith("ws") ? WEBSOCKET : LONG_POLLING;
  const receiver = await wire.openReceiver({ url, token: token(user), receiver: `round-${round}`, window: 1_000 });
  const mark = `${user} mark ${round}`;
  ledger.sent.add(mark);
  const sent = await call(`${url}/v1/messages`, { token: token("marker"), body: messageOf(user, mark) });
  expect(sent.status).toBe(201);
  ledger.accept(user, mark);
  // Mail comes in order: with the mark, all that was before it has come. What is more than a window comes as it is acknowledged.
  const names: string[] = [];
  while (names.at(-1) !== mark) {
    const before = names.length;
    await receiver.until(() => receiver.deliveries.length > before, `round ${round}: mail up to the mark`);
    const fresh = receiver.deliveries.slice(before);
    names.push(...fresh.map(nameOf));
    await acknowledge(receiver, fresh, ledger);
  }
  const got = new Set(names);
  expect(
    owed.filter((name) => !got.has(name)),
    `round ${round}: accepted, and not delivered`,
  ).toEqual([]);
  expect(
    names.filter((name) => acked.has(name)),
    `round ${round}: acknowledged, and delivered again`,
  ).toEqual([]);
  expect(
    names.filter((name) => !ledger.sent.has(name)),
    `round ${round}: never sent`,
  ).toEqual([]);
  expect(got.size, `round ${round}: each once`).toBe(names.length);
  return receiver;
}

async function acknowledge(receiver: WireReceiver, deliveries: WireReceiver["deliveries"], ledger: Ledger): Promise<void> {
  for (const delivery of deliveries) ledger.ackAsked.add(nameOf(delivery));
  const count = await receiver.ack({ seqs: deliveries.map(({ seq }) => seq) });
  expect(count).toBe(deliveries.length);
  for (const delivery of deliveries) ledger.acked.add(nameOf(delivery));
}

/** Acknowledges about every other delivery, until the server is gone. */
async function acknowledgeSome(receiver: WireReceiver, ledger: Ledger): Promise<void> {
  let seen = receiver.deliveries.length;
  for (;;) {
    await receiver.until(() => receiver.deliveries.length > seen || receiver.end !== undefined, "mail, or the end", 60_000);
    if (receiver.end !== undefined) return;
    const fresh = receiver.deliveries.slice(seen).filter(() => random() < 0.5);
    seen = receiver.deliveries.length;
    try {
      if (fresh.length > 0) await acknowledge(receiver, fresh, ledger);
    } catch (thrown) {
      // A count that is wrong is no matter of the kill.
      if (thrown instanceof Error && thrown.name === "AssertionError") throw thrown;
      return;
    }
  }
}

/** One message after another, until the server is gone. */
async function sendByHttp(url: string, ledger: Ledger): Promise<void> {
  for (;;) {
    const { user, name } = ledger.take();
    let status: number;
    try {
      ({ status } = await call(`${url}/v1/messages`, { token: token("http"), body: messageOf(user, name) }));
    } catch {
      return;
    }
    expect(status).toBe(201);
    ledger.accept(user, name);
  }
}

/** So many at a time on one connection, until the server is gone. */
async function sendByWebSocket(url: string, ledger: Ledger, inFlight: number): Promise<void> {
  const socket = await openSocket(url, { token: token("socket"), receiver: "sender" });
  const chain = async () => {
    while (socket.inbox.end === undefined && socket.isOpen) {
      const { user, name } = ledger.take();
      const [result] = await socket.send([messageOf(user, name)]);
      if (result?.status === 201) ledger.accept(user, name);
      else expect(socket.inbox.end, JSON.stringify(result)).toBeDefined();
    }
  };
  await Promise.all(Array.from({ length: inFlight }, chain));
}
