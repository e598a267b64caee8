/**
 * The metrics as Prometheus reads them: right, exact, for those who may, and no more of them on a busy day.
 * @module
 */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import type { SettingKey } from "../src/config.ts";
import { ERRORS } from "../src/errors.ts";
import { call, field, openSocket, signToken, WEBSOCKET } from "../src/testing/wire.ts";
import { LONG_POLLING } from "../src/testing/wire-poll.ts";
import { CommandServer } from "./support/command.ts";
import { freePort } from "./support/port.ts";
import { accounts, expectGoodName, type Family, read, readExposition, scrape } from "./support/prometheus.ts";
import { expectProblem, raw } from "./support/raw.ts";
import { type EngineName, SERVICE_CREDENTIAL, type Started, start, TOKEN_SECRET } from "./support/started.ts";

const running: Started[] = [];
async function started(engine: EngineName, flags: Partial<Record<SettingKey, string>> = {}): Promise<Started> {
  const server = await start(engine, flags);
  running.push(server);
  return server;
}
afterEach(async () => {
  for (const server of running.splice(0)) await server.stop();
});

const token = (user: string) =>
  signToken(TOKEN_SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: Math.floor(Date.now() / 1000) + 600 });
const send = (url: string, message: object, more: object = {}) =>
  call(`${url}/v1/messages`, { token: token("alice"), body: { type: "t", data: 1, ...message }, ...more });

/** One message for each ending, and one that waits. */
async function endAllWays(url: string, user = "bob"): Promise<void> {
  const bob = { to: { user } };
  const tab = await WEBSOCKET.openReceiver({ url, token: token(user), receiver: "tab" });
  await send(url, { to: { users: [user, "carol"] } });
  await send(url, { to: { user: "nobody" }, ttl: 0 });
  await send(url, { ...bob, topic: "once" });
  await send(url, { ...bob, topic: "once" });
  const taken = await send(url, bob);
  await call(`${url}/v1/messages/${String(field(taken.body, "id"))}`, { method: "DELETE", token: token("alice") });
  await send(url, bob);
  await tab.until(() => tab.deliveries.length === 5, "five deliveries");
  const [first, , , , last] = tab.deliveries;
  await tab.ack({ seqs: [first?.seq ?? 0], reject: [{ seq: last?.seq ?? 0, reason: "no" }] });
  await tab.leave();
}

test("[H80] /metrics is what Prometheus reads, with names, units and help as its guide wants them", async () => {
  for (const engine of ["memory", "sqlite"] as const) {
    const server = await started(engine);
    await endAllWays(server.url);
    const families = await scrape(server.url);
    const ours = [...families.values()].filter(({ name }) => name.startsWith("handover_"));
    expect(ours.length).toBeGreaterThan(12);
    for (const family of ours) {
      expectGoodName(family);
      expect(family.samples.length, family.name).toBeGreaterThan(0);
    }
    for (const name of ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"]) read(families, name);
    expect(read(families, "handover_build_info", { engine })).toBe(1);
    expect(families.get("handover_build_info")?.samples[0]?.labels.version).toMatch(/^\d+\.\d+\.\d+/);
  }
});

test("[H81] accepted is exactly what ended and what has not, at every reading, after a restart too", async () => {
  const server = await started("sqlite");
  expect(accounts(await scrape(server.url)).accepted).toBe(0);
  let isOver = false;
  const readings = (async () => {
    let count = 0;
    for (; !isOver; count++) for (const families of await Promise.all([scrape(server.url), scrape(server.url)])) accounts(families);
    return count;
  })();
  for (let round = 0; round < 5; round++) await endAllWays(server.url, `bob-${round}`);
  isOver = true;
  expect(await readings).toBeGreaterThan(3);
  const all = { accepted: 35, unsettled: 10, acked: 5, expired: 5, replaced: 5, evicted: 5, dead: 5 };
  expect(accounts(await scrape(server.url))).toEqual(all);
  expect(accounts(await scrape(server.url))).toEqual(await server.server.engine.totals());
  await server.restart();
  expect(accounts(await scrape(server.url))).toEqual(all);
});

test("[H82] after kill -9 under load the sums add up, and hold at least what was answered", async () => {
  const data = await mkdtemp(join(tmpdir(), "handover-metrics-"));
  const port = await freePort();
  let answered = 0;
  let acked = 0;
  try {
    for (let round = 0; round < 3; round++) {
      const server = await CommandServer.start(port, data, ["--log-level", "info"]);
      const before = accounts(await scrape(server.url));
      expect(before.accepted).toBeGreaterThanOrEqual(answered);
      expect(before.acked).toBeGreaterThanOrEqual(acked);
      const socket = await openSocket(server.url, { token: token("bob"), receiver: `tab-${round}`, window: 1_000 });
      let next = 0;
      const wanted = answered + 150;
      const sender = async () => {
        while (answered < wanted) {
          const [result] = await socket.send([{ to: { user: "bob" }, type: "t", data: next++ }]);
          if (result?.status !== 201) return;
          answered += 1;
          const seq = socket.inbox.deliveries.at(-1)?.seq;
          if (seq !== undefined && next % 3 === 0) socket.write({ op: "ack", epoch: socket.inbox.epoch, seqs: [seq] });
        }
      };
      const senders = Promise.all(Array.from({ length: 16 }, sender));
      await socket.inbox.until(() => answered >= wanted - 60, "sends that were accepted");
      await server.kill();
      await senders;
      acked += socket.frames.reduce((sum, { op, acked: n }) => sum + (op === "acked" ? Number(n) : 0), 0);
    }
    const server = await CommandServer.start(port, data);
    const after = accounts(await scrape(server.url));
    expect(after.accepted).toBeGreaterThanOrEqual(answered);
    expect(after.acked).toBeGreaterThanOrEqual(acked);
    expect(acked).toBeGreaterThan(10);
    await server.terminate();
  } finally {
    await rm(data, { recursive: true, force: true });
  }
});

test("[H83] sends are counted by their outcome, with the codes of the protocol and no others", async () => {
  const server = await started("memory", { mailboxMaxMessages: "2" });
  const { url } = server;
  const bob = { to: { user: "bob" } };
  await send(url, { ...bob, idempotencyKey: "k" });
  await send(url, { ...bob, idempotencyKey: "k" });
  await send(url, { ...bob, idempotencyKey: "k", data: 2 });
  await send(url, { ...bob, ttl: -1 });
  await send(url, { ...bob, receipt: true });
  await send(url, { to: { group: "g" } });
  await call(`${url}/v1/messages`, {
    token: token("alice"),
    body: [
      { ...bob, type: "t" },
      { ...bob, type: "handover.x" },
    ],
  });
  await send(url, bob);
  await send(url, bob);
  const socket = await openSocket(url, { token: SERVICE_CREDENTIAL });
  await socket.send([
    { to: { user: "carol" }, type: "t" },
    { to: {}, type: "t" },
  ]);
  await socket.terminate();
  const families = await scrape(url);
  const outcomes: Record<string, number> = {};
  for (const { labels, value } of families.get("handover_sends_total")?.samples ?? []) outcomes[labels.outcome ?? ""] = value;
  expect(Object.keys(outcomes).sort()).toEqual(["accepted", "repeated", ...Object.keys(ERRORS)].sort());
  const counted = Object.fromEntries(Object.entries(outcomes).filter(([, value]) => value > 0));
  expect(counted).toEqual({
    accepted: 3,
    repeated: 1,
    "key-reuse": 1,
    "bad-request": 2,
    unsupported: 2,
    invalid: 1,
    forbidden: 1,
    "mailbox-full": 1,
  });
});

test("[H84] receivers, connections, latencies and commits are counted, each as docs/metrics.md says", async () => {
  const server = await started("sqlite");
  const { url } = server;
  const tab = await WEBSOCKET.openReceiver({ url, token: token("bob"), receiver: "tab" });
  const sender = await openSocket(url, { token: SERVICE_CREDENTIAL });
  const held = new AbortController();
  const stream = await fetch(`${url}/v1/events?receiver=tab`, { headers: { Authorization: `Bearer ${token("dora")}` }, signal: held.signal });
  expect(stream.status).toBe(200);
  const poll = call(`${url}/v1/poll`, { token: token("carol"), body: { receiver: "tab", wait: 30 }, signal: held.signal }).catch(() => undefined);
  await expect.poll(async () => read(await scrape(url), "handover_links", { transport: "poll" })).toBe(1);
  let families = await scrape(url);
  expect(read(families, "handover_receivers", { transport: "websocket" })).toBe(1);
  expect(read(families, "handover_receivers", { transport: "poll" })).toBe(1);
  expect(read(families, "handover_receivers", { transport: "sse" })).toBe(1);
  expect(read(families, "handover_links", { transport: "sse" })).toBe(1);
  expect(read(families, "handover_websockets")).toBe(2);
  expect(read(families, "handover_connections")).toBeGreaterThanOrEqual(3);
  expect(read(families, "handover_mailboxes")).toBe(3);
  expect(read(families, "handover_ready")).toBe(1);
  held.abort();
  await poll;
  // It polled a moment ago, so it is live; it has no poll now.
  await expect.poll(async () => read(await scrape(url), "handover_links", { transport: "poll" })).toBe(0);
  expect(read(await scrape(url), "handover_receivers", { transport: "poll" })).toBe(1);

  const before = read(families, "handover_commit_duration_seconds_count");
  await sender.send(Array.from({ length: 10 }, (_, data) => ({ to: { user: "bob" }, type: "t", data })));
  await tab.until(() => tab.deliveries.length === 10, "ten deliveries");
  await tab.ack({ upto: tab.cursor });
  await send(url, { to: { user: "late" } });
  families = await scrape(url);
  expect(read(families, "handover_accept_duration_seconds_count")).toBe(11);
  expect(read(families, "handover_accept_duration_seconds_sum")).toBeGreaterThan(0);
  expect(read(families, "handover_accept_duration_seconds_sum")).toBeLessThan(11 * 2);
  expect(read(families, "handover_settle_duration_seconds_count")).toBe(1);
  expect(read(families, "handover_delivery_duration_seconds_count", { receiver: "present" })).toBe(10);
  expect(read(families, "handover_delivery_duration_seconds_sum", { receiver: "present" })).toBeLessThan(10 * 2);
  expect(read(families, "handover_delivery_duration_seconds_count", { receiver: "returning" })).toBe(0);
  const commits = read(families, "handover_commit_duration_seconds_count") - before;
  // One for the ten of a frame, one for their acknowledgement, one for the last message; and perhaps one more that time has made due.
  expect(commits).toBeGreaterThanOrEqual(3);
  expect(commits).toBeLessThanOrEqual(5);
  expect(read(families, "handover_commit_messages_sum")).toBe(21);
  expect(read(families, "handover_commit_duration_seconds_sum")).toBeGreaterThan(0);

  const late = await LONG_POLLING.openReceiver({ url, token: token("late"), receiver: "tab" });
  await late.until(() => late.deliveries.length === 1, "what waited");
  await late.ack({ nack: [{ seq: late.cursor, retryAfter: 0 }] });
  await late.until(() => late.deliveries.length === 2, "it again");
  families = await scrape(url);
  expect(read(families, "handover_delivery_duration_seconds_count", { receiver: "returning" })).toBe(1);
  expect(read(families, "handover_handed_out_total", { transport: "poll" })).toBe(2);
  expect(read(families, "handover_handed_out_total", { transport: "websocket" })).toBe(10);
  await late.leave();
  await tab.leave();
  await sender.terminate();
});

test("[H88] the longest delay of the event loop in each second is seen", async () => {
  const server = await started("memory");
  const slow = (families: ReadonlyMap<string, Family>) =>
    read(families, "handover_event_loop_delay_seconds_count") - read(families, "handover_event_loop_delay_seconds_bucket", { le: "0.25" });
  const before = await scrape(server.url);
  const end = performance.now() + 400;
  while (performance.now() < end) {}
  await expect.poll(async () => slow(await scrape(server.url)), { timeout: 5_000 }).toBeGreaterThanOrEqual(slow(before) + 1);
  const after = await scrape(server.url);
  const sum = read(after, "handover_event_loop_delay_seconds_sum") - read(before, "handover_event_loop_delay_seconds_sum");
  expect(sum).toBeGreaterThan(0.3);
  expect(sum).toBeLessThan(3);
});

test("[H85] what comes from outside makes no new lines in the metrics", async () => {
  const server = await started("memory");
  await endAllWays(server.url);
  const seriesOf = (families: ReadonlyMap<string, Family>) =>
    [...families.values()]
      .filter(({ name }) => name.startsWith("handover_"))
      .flatMap(({ samples }) => samples.map(({ name, labels }) => `${name} ${JSON.stringify(labels)}`));
  const before = seriesOf(await scrape(server.url));
  for (let n = 0; n < 50; n++) {
    await call(`${server.url}/v1/messages`, {
      token: token(`stranger-${n}`),
      body: { to: { user: `other-${n}` }, type: `type-${n}`, topic: `topic-${n}` },
    });
    await call(`${server.url}/nowhere-${n}`);
  }
  const text = await (await fetch(`${server.url}/metrics`)).text();
  expect(seriesOf(readExposition(text))).toEqual(before);
  expect(text).not.toMatch(/stranger-|other-|type-\d|topic-|nowhere-/);
});

test("[H86] the metrics are read from this machine, not through a proxy, and with a service key from anywhere", async () => {
  const statusOf = async (server: Started, headers: Record<string, string> = {}) => (await fetch(`${server.url}/metrics`, { headers })).status;
  const key = { Authorization: `Bearer ${SERVICE_CREDENTIAL}` };
  const user = { Authorization: `Bearer ${token("alice")}` };
  const proxied = [
    { Forwarded: "for=192.0.2.60" },
    { "X-Forwarded-For": "192.0.2.60" },
    { "X-Forwarded-For": "127.0.0.1" },
    { "X-Real-IP": "192.0.2.60" },
    { Via: "1.1 proxy" },
  ];

  const local = await started("memory");
  expect(await statusOf(local)).toBe(200);
  for (const headers of proxied) {
    const answer = await call(`${local.url}/metrics`, { headers });
    expectProblem(answer, "token-invalid", JSON.stringify(headers));
    expect(field(answer.body, "detail")).toMatch(/service key/);
    expect(await statusOf(local, { ...headers, ...key })).toBe(200);
    expect(await statusOf(local, { ...headers, ...user })).toBe(403);
  }
  // A page in a browser of this machine that has given this address to a name of its own.
  expectProblem(await raw(local.url, "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"), "token-invalid");

  const keyed = await started("memory", { metrics: "key" });
  expect([await statusOf(keyed), await statusOf(keyed, key), await statusOf(keyed, user)]).toEqual([401, 200, 403]);
  const open = await started("memory", { metrics: "open" });
  expect([await statusOf(open), await statusOf(open, proxied[0])]).toEqual([200, 200]);
  const off = await started("memory", { metrics: "off" });
  expect([await statusOf(off), await statusOf(off, key)]).toEqual([404, 404]);
});

test("[H87] a store that cannot be asked takes away its own numbers only; handover_ready says whether mail is taken", async () => {
  const server = await started("memory");
  expect(read(await scrape(server.url), "handover_ready")).toBe(1);
  const closing = server.server.close();
  expect(read(await scrape(server.url), "handover_ready")).toBe(0);
  await closing;
  const other = await started("memory");
  await other.server.engine.close();
  const families = await scrape(other.url);
  expect(families.has("handover_deliveries_accepted_total")).toBe(false);
  expect(read(families, "handover_sends_total", { outcome: "accepted" })).toBe(0);
});

test("[A12] docs/metrics.md explains every metric of ours, and its alert rules name no other", async () => {
  const server = await started("memory");
  const families = await scrape(server.url);
  const ours = [...families.keys()].filter((name) => name.startsWith("handover_"));
  const doc = readFileSync(new URL("../docs/metrics.md", import.meta.url), "utf8");
  const explained = [...doc.matchAll(/^\| `(handover_\w+)/gm)].map(([, name]) => name);
  expect(explained.sort()).toEqual(ours.sort());
  const named = [...doc.matchAll(/\b((?:handover|nodejs|process)_[a-z_0-9]+)\b/g)].map(([, name = ""]) => name.replace(/_(bucket|count|sum)$/, ""));
  expect(named.filter((name) => !families.has(name))).toEqual([]);
});
