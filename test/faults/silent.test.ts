/** Peers that fall silent without a word: their power or their network is gone, and no connection says so. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { connect } from "../../src/client/index.ts";
import { call, field, openSocket, WEBSOCKET, type Wire, type WireReceiver } from "../../src/testing/wire.ts";
import { LONG_POLLING } from "../../src/testing/wire-poll.ts";
import { EventStream, SSE } from "../../src/testing/wire-sse.ts";
import { until } from "../client/rig.ts";
import { CommandServer } from "../support/command.ts";
import { openRelay, type Relay } from "../support/demo.ts";
import { freePort } from "../support/port.ts";
import { accounts, read, scrape } from "../support/prometheus.ts";
import { SERVICE_CREDENTIAL, start, tokenOf } from "../support/started.ts";
import { count, report } from "./report.ts";

const TRANSPORTS = ["websocket", "sse", "poll"] as const;
type Kind = (typeof TRANSPORTS)[number];
/** By another way than before. */
const BACK: Readonly<Record<Kind, Wire>> = { websocket: LONG_POLLING, sse: WEBSOCKET, poll: SSE };
/** Of each transport. */
const PEERS = count(10, 67);
const isLong = PEERS > 10;
/** Within which a silent peer's connection and everything of it is gone. */
const BOUND_MS = 45_000;
/** A busy machine's timers are late. */
const SLACK_MS = 10_000;

const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const end of ends.splice(0).reverse()) await end();
});

/** @returns the address of a server, and what makes time go by. In `npm test` the clock is turned; in `npm run faults` one waits. */
async function begin(): Promise<{ url: string; pass(): Promise<void> }> {
  if (!isLong) {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const started = await start("sqlite");
    ends.push(started.stop);
    const pass = async () => {
      vi.advanceTimersByTime(500);
      await new Promise((resolve) => setTimeout(resolve, 5));
    };
    return { url: started.url, pass };
  }
  const data = await mkdtemp(join(tmpdir(), "handover-silent-"));
  const server = await CommandServer.start(await freePort(), data);
  ends.push(async () => {
    await server.kill();
    await rm(data, { recursive: true });
  });
  return { url: server.url, pass: () => new Promise((resolve) => setTimeout(resolve, 250)) };
}

async function openPeer(kind: Kind, url: string, user: string): Promise<void> {
  const token = tokenOf(user);
  if (kind === "websocket") await openSocket(url, { token, receiver: "tab" });
  else if (kind === "sse") await EventStream.open({ url, token, query: { receiver: "tab" } });
  // Its answer does not come.
  else void call(`${url}/v1/poll`, { token, body: { receiver: "tab", wait: count(2, 10) } }).catch(() => {});
}

async function send(url: string, user: string): Promise<void> {
  const sent = await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user }, type: "order", data: user } });
  expect(sent.status).toBe(201);
}

async function countOf(url: string, name: string): Promise<number[]> {
  const text = await scrape(url);
  return TRANSPORTS.map((transport) => read(text, name, { transport }));
}

/** Lets time go by until it holds. @returns how long that was, ms */
async function passUntil(pass: () => Promise<void>, holds: () => Promise<boolean>): Promise<number> {
  const startedMs = performance.now();
  while (!(await holds())) {
    if (performance.now() - startedMs > 3 * BOUND_MS) throw new Error("it never holds");
    await pass();
  }
  return performance.now() - startedMs;
}

test(`[N6] ${3 * PEERS} peers of all transports that fall silent are let go of within 45 s and live no longer; nothing counts as processed, and who comes back gets all`, {
  timeout: 240_000,
}, async () => {
  const { url, pass } = await begin();
  const lines: Relay[] = [];
  const users: { kind: Kind; user: string }[] = [];
  for (const kind of TRANSPORTS) {
    const line = await openRelay(url);
    ends.push(line.close);
    lines.push(line);
    for (let n = 0; n < PEERS; n += 1) {
      const user = `${kind}-${n}`;
      users.push({ kind, user });
      await openPeer(kind, line.url, user);
    }
  }
  // In the order of opening: those that poll do not do so for ever.
  await until(async () => expect(await countOf(url, "handover_links")).toEqual([PEERS, PEERS, PEERS]), 10_000);
  for (const line of lines) line.silence();
  const silentMs = performance.now();
  // Some are handed mail, which their line swallows; of the others nothing is heard or said.
  for (const { user } of users.filter((_user, n) => n % 2 === 0)) await send(url, user);
  expect(accounts(await scrape(url)).acked).toBe(0);
  // A poll ends by its own time, which nobody turns here.
  await until(async () => expect((await countOf(url, "handover_links"))[2]).toBe(0), 20_000);
  await passUntil(pass, async () => (await countOf(url, "handover_links")).every((links) => links === 0));
  const freedMs = performance.now() - silentMs;
  await passUntil(pass, async () => (await countOf(url, "handover_receivers")).every((receivers) => receivers === 0));
  const goneMs = performance.now() - silentMs;
  // The sockets themselves, too; some are this test's own.
  const connectionsOf = async () => read(await scrape(url), "handover_connections");
  let closedMs: number | undefined;
  if (isLong) {
    await passUntil(pass, async () => (await connectionsOf()) < 5);
    closedMs = performance.now() - silentMs;
  }
  for (const { user } of users.filter((_user, n) => n % 2 === 1)) await send(url, user);
  const { unsettled, acked } = accounts(await scrape(url));
  vi.useRealTimers();
  const got: unknown[] = [];
  for (const { kind, user } of users) {
    const receiver: WireReceiver = await BACK[kind].openReceiver({ url, token: tokenOf(user), receiver: "another", window: 10 });
    await receiver.until(() => receiver.deliveries.length > 0, "its mail");
    got.push(...receiver.deliveries.map(({ event }) => event.data));
    await receiver.leave();
  }
  const lost = users.filter(({ user }) => !got.includes(user)).length;
  const figures = { "link gone after ms": Math.round(freedMs), "not live after ms": Math.round(goneMs) };
  const closed = closedMs === undefined ? {} : { "connection closed after ms": Math.round(closedMs) };
  report("R14", "peers that fall silent", { peers: users.length, ...figures, ...closed, lost, "twice or not theirs": got.length - users.length });
  expect([unsettled, acked, lost]).toEqual([users.length, 0, 0]);
  expect(got).toHaveLength(users.length);
  for (const ms of [freedMs, goneMs, closedMs ?? 0]) expect(ms).toBeLessThan(BOUND_MS + SLACK_MS);
});

test("[N8] a stream lasts 23 to 28 s; its reader counts as live until it is back, and TTL 0 waits for it; one that reads slowly is left to read", async () => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
  const started = await start("sqlite");
  ends.push(started.stop);
  const { url } = started;
  const query = { receiver: "tab" };
  const stream = await EventStream.open({ url, token: started.token("bob"), query });
  await send(url, "bob");
  await stream.inbox.until(() => stream.inbox.deliveries.length === 1, "mail");
  vi.advanceTimersByTime(22_999);
  await call(`${url}/livez`);
  expect(stream.inbox.end).toBeUndefined();
  vi.advanceTimersByTime(5_001);
  await stream.ended;
  const retryMs = Number(/\nretry: (\d+)\n\n$/.exec(stream.text)?.[1]);
  expect(retryMs).toBeLessThanOrEqual(500);
  expect(stream.events.at(-1)?.name, "no event says that it ends").toBe("message");
  // Between two streams.
  const brief = await call(`${url}/v1/messages`, {
    token: SERVICE_CREDENTIAL,
    body: { to: { user: "bob" }, type: "order", data: "brief", ttl: 0 },
  });
  expect(brief.status).toBe(201);
  const again = await EventStream.open({ url, token: started.token("bob"), query, lastEventId: stream.events.at(-1)?.id ?? "" });
  await again.inbox.until(() => again.inbox.deliveries.length === 1, "what was sent between");
  expect(again.inbox.deliveries.map(({ event }) => event.data)).toEqual(["brief"]);
  // Who does not come back is live no longer: the next is sent to nobody.
  vi.advanceTimersByTime(30_000);
  await again.ended;
  vi.advanceTimersByTime(10_000);
  const late = await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "bob" }, type: "order", data: "late", ttl: 0 } });
  const state = await call(`${url}/v1/messages/${String(field(late.body, "id"))}`, { token: SERVICE_CREDENTIAL });
  expect(field(state.body, "recipients")).toMatchObject([{ user: "bob", state: "expired" }]);
  // A reader that is behind: what it has not read yet waits here.
  const slow = await EventStream.open({ url, token: started.token("carol"), query: { receiver: "tab", window: 1_000 } });
  slow.pause();
  for (let n = 0; n < 40; n += 1) {
    const body = { to: { user: "carol" }, type: "order", data: [n, "x".repeat(200_000)] };
    expect((await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body })).status).toBe(201);
  }
  vi.advanceTimersByTime(60_000);
  slow.resume();
  await slow.inbox.until(() => slow.inbox.deliveries.length === 40, "all of it, on the one stream");
  await slow.leave();
});

test("[N12] the SDK stays online while its stream begins anew, and misses nothing", async () => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
  const started = await start("sqlite");
  ends.push(started.stop);
  const page = connect(started.url, { token: () => started.token("bob"), transports: ["sse"], onError: () => {} });
  ends.push(() => page.close());
  const got: unknown[] = [];
  page.on("order", ({ id }) => void got.push(id));
  await until(() => expect(page.status.state).toBe("online"));
  const states: string[] = [];
  page.onStatus(({ state }) => states.push(state));
  const links = () => countOf(started.url, "handover_links");
  for (let n = 1; n <= 3; n += 1) {
    await until(async () => expect(await links()).toEqual([0, 1, 0]));
    vi.advanceTimersByTime(28_000);
    // Whether it is back by then or not.
    await send(started.url, "bob");
    await until(() => expect(got).toHaveLength(n));
  }
  await until(async () => expect(accounts(await scrape(started.url)).acked).toBe(3));
  expect([new Set(got).size, states]).toEqual([3, []]);
});
