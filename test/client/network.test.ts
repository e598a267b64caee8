/**
 * The SDK and the real server, with what networks do between them. `npm run soak` plays the first with 10,000 sends.
 * @module
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type ConnectOptions, connect, type Handover, type Transport } from "../../src/client/index.ts";
import { openLossyProxy } from "../faults/lossy.ts";
import { randomOf, SEED } from "../faults/report.ts";
import { openBlockingProxy } from "../support/blocking.ts";
import { played } from "../support/soak.ts";
import { type Started, start } from "../support/started.ts";
import { until } from "./rig.ts";

const SENDS = Number(process.env.HANDOVER_RUNS ?? 600);
const clients: Handover[] = [];
const proxies: { close(): Promise<void> }[] = [];
let started: Started;
let users = 0;

beforeAll(async () => {
  started = await start("sqlite");
});
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
  await Promise.all(proxies.splice(0).map((proxy) => proxy.close()));
});
afterAll(() => started.stop());

function open(url: string, user: string, options: Partial<ConnectOptions> = {}): Handover {
  const client = connect(url, { token: () => started.token(user), onError: () => {}, ...options });
  clients.push(client);
  return client;
}

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index);
const inOrder = (list: readonly unknown[]) => [...list].sort((one, other) => Number(one) - Number(other));

describe.each<Transport>(["websocket", "sse", "poll"])("a network that loses over %s", (transport) => {
  it(
    `[C64] every fifth answer, cuts bodies and repeats requests: of ${SENDS} sends the handler runs exactly ${SENDS} times`,
    async () => {
      const proxy = await openLossyProxy(started.url, randomOf(SEED));
      proxies.push(proxy);
      const count = Math.ceil(SENDS / (transport === "websocket" ? 1 : 3));
      const [ann, bob] = [`ann-${++users}`, `bob-${users}`];
      // Each break counts as the first: nothing is gained here by waiting longer and longer.
      const options = { transports: [transport], timing: { stableMs: 0 } };
      const got: unknown[] = [];
      open(proxy.url, bob, options).on("order", async (message) => {
        await new Promise((resolve) => setImmediate(resolve));
        got.push(message.data);
      });
      const sender = open(proxy.url, ann, options);
      for (let from = 0; from < count; from += 200) {
        const batch = numbers(Math.min(200, count - from)).map((index) => sender.send(bob, "order", from + index));
        for (const { recipients } of await Promise.all(batch)) expect(recipients).toEqual([bob]);
      }
      await until(() => expect(got.length).toBeGreaterThanOrEqual(count), 120_000);
      expect(inOrder(got)).toEqual(numbers(count));
      expect(proxy.lost + proxy.cut).toBeGreaterThan(0);
      const { lost, cut, repeated } = proxy;
      played(`${transport}: ${count} sends, ${lost} answers lost, ${cut} cut, ${repeated} requests twice, seed ${SEED}`);
    },
    60_000 + SENDS * 100,
  );
});

it("[C54] with the real server: a WebSocket is blocked in mid-stream, then the stream; nothing is lost and nothing shown twice", async () => {
  const proxy = await openBlockingProxy(started.url);
  proxies.push(proxy);
  const bob = `bob-${++users}`;
  // To himself: as long as mail comes, the stream is not silent.
  const page = open(proxy.url, bob, { timing: { quietMs: 1_000, answerMs: 3_000, openMs: 5_000, probeMs: 60_000 } });
  const got: unknown[] = [];
  page.on("order", (message) => got.push(message.data));
  let count = 0;
  const sends: Promise<unknown>[] = [];
  const traffic = setInterval(() => sends.push(page.send(bob, "order", count++)), 10);
  try {
    for (const [transport, what] of [
      ["websocket", "websocket"],
      ["sse", "sse"],
      ["poll", undefined],
    ] as const) {
      await until(() => expect(page.status.transport).toBe(transport), 30_000);
      const before = got.length;
      await until(() => expect(got.length).toBeGreaterThan(before + 20), 10_000);
      if (what) proxy.block(what);
    }
  } finally {
    clearInterval(traffic);
  }
  await Promise.all(sends);
  await until(() => expect(got.length).toBeGreaterThanOrEqual(count), 10_000);
  expect(inOrder(got)).toEqual(numbers(count));
}, 150_000);

describe.each<Transport>(["websocket", "sse", "poll"])("a token over %s", (transport) => {
  it("[C62] with the real server: ends again and again under load, and nobody notices", async () => {
    const [ann, bob] = [`ann-${++users}`, `bob-${users}`];
    const tokens = new Set<string>();
    const token = (user: string) => () => {
      const now = Math.floor(Date.now() / 1000);
      const made = started.token(user, { iat: now, exp: now + 4 });
      tokens.add(made);
      return made;
    };
    const statuses: string[] = [];
    const options = { transports: [transport], timing: { pollWaitMs: 1_000 } };
    const sender = open(started.url, ann, { ...options, token: token(ann) });
    const receiver = open(started.url, bob, { ...options, token: token(bob) });
    for (const client of [sender, receiver]) client.onStatus(({ state }) => statuses.push(state));
    const got: unknown[] = [];
    receiver.on("order", (message) => got.push(message.data));
    let count = 0;
    const sends: Promise<unknown>[] = [];
    const traffic = setInterval(() => sends.push(sender.send(bob, "order", count++)), 10);
    try {
      await until(() => expect(tokens.size).toBeGreaterThanOrEqual(6), 20_000);
    } finally {
      clearInterval(traffic);
    }
    await Promise.all(sends);
    await until(() => expect(got.length).toBeGreaterThanOrEqual(count), 10_000);
    expect(inOrder(got)).toEqual(numbers(count));
    expect(statuses).toEqual(["online", "online"]);
  }, 40_000);
});
