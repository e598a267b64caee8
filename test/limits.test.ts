/**
 * Caps, other origins, health and the end of a server: what it says when it can or will not do more.
 * @module
 */
import { afterEach, expect, test } from "vitest";
import { call, field, openSocket, WEBSOCKET } from "../src/testing/wire.ts";
import { LONG_POLLING } from "../src/testing/wire-poll.ts";
import { watchLinks } from "./support/held.ts";
import { expectProblem } from "./support/raw.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "./support/started.ts";

const links = watchLinks();
const running: Started[] = [];
const started = async (...args: Parameters<typeof start>) => {
  const server = await start(...args);
  running.push(server);
  return server;
};
afterEach(async () => {
  for (const server of running.splice(0)) await server.stop();
});

for (const engine of ["memory", "sqlite"] as const) {
  test(`[H23] a full mailbox refuses new mail and keeps what it has; with several recipients it is left out and named (${engine})`, async () => {
    const server = await started(engine, { mailboxMaxMessages: "2" });
    const post = (to: object, data: unknown) => call(`${server.url}/v1/messages`, { token: server.token("alice"), body: { to, type: "t", data } });
    const first = await post({ user: "bob" }, 1);
    expect((await post({ user: "bob" }, 2)).status).toBe(201);
    const refused = await post({ user: "bob" }, 3);
    expectProblem(refused, "mailbox-full");
    const both = await post({ users: ["bob", "carol"] }, 4);
    expect([both.status, field(both.body, "recipients"), field(both.body, "refused")]).toEqual([201, ["carol"], ["bob"]]);
    const state = await call(`${server.url}/v1/messages/${String(field(first.body, "id"))}`, { token: server.token("alice") });
    expect(field(state.body, "recipients")).toEqual([{ user: "bob", state: "waiting" }]);
    const tab = await LONG_POLLING.openReceiver({ url: server.url, token: server.token("bob"), receiver: "r" });
    expect(tab.deliveries.map(({ event }) => event.data)).toEqual([1, 2]);
    expect(await tab.ack({ seqs: [1] })).toBe(1);
    expect((await post({ user: "bob" }, 5)).status).toBe(201);
    await tab.leave();
  });
}

test("[H24] a user has no more connected receivers than allowed; absent ones make room", async () => {
  const server = await started("memory", { maxReceiversPerUser: "2" });
  const open = (receiver: string) => WEBSOCKET.openReceiver({ url: server.url, token: server.token("bob"), receiver });
  const [one, two] = [await open("one"), await open("two")];
  await expect(open("three")).rejects.toThrow(/rate-limited/);
  const polled = await call(`${server.url}/v1/poll`, { token: server.token("bob"), body: { receiver: "three", wait: 0 } });
  expectProblem(polled, "rate-limited");
  expect(Number(polled.headers.get("retry-after"))).toBeGreaterThan(0);
  await one.leave();
  await expect.poll(() => open("three").then(() => "open", String), { timeout: 5_000 }).toBe("open");
  expect(two.end).toBeUndefined();
  const other = await WEBSOCKET.openReceiver({ url: server.url, token: server.token("carol"), receiver: "one" });
  expect(other.end).toBeUndefined();
});

test("[H25] a longer time to live than this server grants is lowered, and the answer says so", async () => {
  const server = await started("memory", { maxTtlMs: "60000" });
  for (const ttl of [61, 2_147_483_647, undefined]) {
    const answer = await call(`${server.url}/v1/messages`, { token: server.token("a"), body: { to: { user: "b" }, type: "t", ttl } });
    expect([answer.status, field(answer.body, "ttl")]).toEqual([201, 60]);
  }
});

test("[H26] the largest message is as configured", async () => {
  const server = await started("memory", { maxMessageBytes: "2048" });
  const post = (data: string) => call(`${server.url}/v1/messages`, { token: server.token("a"), body: { to: { user: "b" }, type: "t", data } });
  expect((await post("x".repeat(1_000))).status).toBe(201);
  expectProblem(await post("x".repeat(2_048)), "too-large");
});

test("[H27] pages of the configured origins may use the server, by CORS and WebSocket; others may not", async () => {
  const server = await started("memory", { origins: "https://app.example.com, http://localhost:3000" });
  const preflight = (origin: string) =>
    fetch(`${server.url}/v1/messages`, {
      method: "OPTIONS",
      headers: { Origin: origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key,ttl" },
    });
  for (const origin of ["https://app.example.com", "http://localhost:3000"]) {
    const allowed = await preflight(origin);
    expect([allowed.ok, allowed.headers.get("access-control-allow-origin")]).toEqual([true, origin]);
    expect(allowed.headers.get("access-control-allow-headers")?.toLowerCase()).toContain("idempotency-key");
    expect(allowed.headers.get("access-control-allow-credentials")).toBe("true");
    const answer = await call(`${server.url}/v1/poll`, { token: server.token("b"), body: { receiver: "r", wait: 0 }, headers: { Origin: origin } });
    expect([answer.status, answer.headers.get("access-control-allow-origin")]).toEqual([204, origin]);
  }
  for (const origin of ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"]) {
    expect((await preflight(origin)).headers.get("access-control-allow-origin"), origin).not.toBe(origin);
  }
});

test("[H28] livez and readyz answer 200; a server that stops tells its clients, ends their connections and polls, and refuses the rest", async () => {
  const server = await started("memory");
  for (const path of ["/livez", "/readyz"]) expect((await call(server.url + path)).status).toBe(200);
  const socket = await openSocket(server.url, { token: server.token("bob"), receiver: "r" });
  const sender = await openSocket(server.url, { token: SERVICE_CREDENTIAL });
  const poll = call(`${server.url}/v1/poll`, { token: server.token("dora"), body: { receiver: "r", wait: 30 } });
  await links.opened("dora", 1);
  const startedMs = performance.now();
  await Promise.all([server.server.close(), server.server.close()]);
  expect(performance.now() - startedMs).toBeLessThan(3_000);
  const { status, headers } = await poll;
  expect(status).toBe(204);
  expect(headers.get("retry-after")).toMatch(/^[1-8]$/);
  await socket.inbox.until(() => socket.inbox.end !== undefined, "the end");
  expect([socket.inbox.end, socket.frames.at(-1)?.op]).toEqual([4503, "drain"]);
  expect(socket.frames.at(-1)?.delay).toBe(8);
  await sender.inbox.until(() => sender.inbox.end !== undefined, "the end");
  expect(sender.inbox.end).toBe(4503);
  await expect(call(`${server.url}/livez`)).rejects.toThrow();
});

test("[H29] one receiver's id is one within its session only: another user polling under the same name and cursor gets nothing of it", async () => {
  const server = await started("memory");
  const body = { to: { user: "bob" }, type: "t", data: "private" };
  expect((await call(`${server.url}/v1/messages`, { token: server.token("alice"), body })).status).toBe(201);
  const mine = await call(`${server.url}/v1/poll`, { token: server.token("bob"), body: { receiver: "r", wait: 0 } });
  const { epoch, cursor } = mine.body as { epoch: string; cursor: number };
  for (const request of [
    { receiver: "r" },
    { receiver: "r", epoch, cursor: 0 },
    { receiver: "r", epoch, cursor, ack: { upto: cursor, seqs: [1] } },
  ]) {
    const theirs = await call(`${server.url}/v1/poll`, { token: server.token("eve"), body: { ...request, wait: 0 } });
    expect(field(theirs.body, "deliveries") ?? []).toEqual([]);
  }
  expect(await server.server.engine.totals()).toMatchObject({ accepted: 1, unsettled: 1, acked: 0 });
});

test("[H57] a server that is configured to know its users refuses messages to anybody else, to one of several too, and stores nothing of them", async () => {
  const server = await started("memory", { users: "alice, bob" });
  const post = (to: object) => call(`${server.url}/v1/messages`, { token: server.token("alice"), body: { to, type: "t", data: 1 } });
  expectProblem(await post({ user: "carol" }), "unknown");
  expectProblem(await post({ users: ["bob", "carol"] }), "unknown");
  const tab = await LONG_POLLING.openReceiver({ url: server.url, token: server.token("bob"), receiver: "r" });
  expect(tab.deliveries).toEqual([]);
  await tab.leave();
  expect((await post({ user: "bob" })).status).toBe(201);
});
