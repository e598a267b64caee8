/**
 * Server-sent events at their edges: bad addresses, peers that go away or do not read, and the end of the server.
 * @module
 */
import { ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { Writable } from "node:stream";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { ReceiverId, ServerFrame, SessionId, UserId, UserIdentity } from "../src/protocol.ts";
import { call, field } from "../src/testing/wire.ts";
import { EventStream, EventStreamParser } from "../src/testing/wire-sse.ts";
import type { Channel, Gateway, Link } from "../src/transport.ts";
import { openStream } from "../src/transports/sse.ts";
import { watchLinks } from "./support/held.ts";
import { expectProblem, raw } from "./support/raw.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "./support/started.ts";

const MIB = 1_048_576;
const links = watchLinks();
let started: Started;
beforeAll(async () => {
  started = await start("sqlite", { origins: "https://app.example.com" });
});
afterAll(() => started.stop());

const events = (query: string, token = started.token("bob"), headers: Record<string, string> = {}) =>
  call(`${started.url}/v1/events${query}`, { token, headers });
const send = async (to: string, data: unknown, more: object = {}) => {
  const answer = await call(`${started.url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: to }, type: "t", data, ...more } });
  expect(answer.status).toBe(201);
  return String(field(answer.body, "id"));
};

/** A request by hand, not read unless asked. */
function request(user: string, query = ""): Socket {
  const { hostname, port } = new URL(started.url);
  const socket = connect(Number(port), hostname);
  socket.on("error", () => {});
  socket.write(`GET /v1/events${query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${started.token(user)}\r\n\r\n`);
  return socket;
}

test("[H62] the address of a stream is checked like any body: wrong, unknown or doubled parameters, tokens in it, and a doubled Last-Event-ID", async () => {
  const wrong: readonly (readonly [string, RegExp])[] = [
    ["?cursor=-1", /cursor/],
    ["?cursor=", /cursor/],
    ["?cursor=1.5", /cursor/],
    ["?cursor=1e3", /cursor/],
    ["?cursor=0x10", /cursor/],
    ["?cursor=%2B1", /cursor/],
    ["?cursor=99999999999999999999", /cursor/],
    ["?cursor=1&cursor=2", /cursor/],
    ["?window=0", /window/],
    ["?window=-3", /window/],
    ["?window=many", /window/],
    ["?window=1&window=2", /window/],
    ["?receiver=", /receiver/],
    ["?receiver=a%20b", /receiver/],
    ["?receiver=a%0d%0aX-Evil:%201", /receiver/],
    ["?receiver=a%0a%0adata:%20{}", /receiver/],
    ["?receiver=%00", /receiver/],
    ["?receiver=b%C3%B6b", /receiver/],
    [`?receiver=${"r".repeat(129)}`, /receiver/],
    ["?receiver=a&receiver=b", /receiver/],
    ["?receiver[]=a", /receiver\[\]/],
    ["?epoch=", /epoch/],
    ["?epoch=a:b", /epoch/],
    ["?colour=red", /colour/],
    ["?__proto__=1", /__proto__/],
    [`?token=${started.token("bob")}`, /unknown fields: token$|unknown fields: token\./],
    ["?access_token=x", /access_token/],
    ["?lastEventId=x:1", /lastEventId/],
  ];
  for (const [query, place] of wrong) {
    const answer = await events(query);
    expectProblem(answer, "bad-request", query);
    expect(field(answer.body, "detail"), query).toMatch(place);
    expect(JSON.stringify([...answer.headers]), query).not.toMatch(/evil/i);
  }
  expectProblem(await call(`${started.url}/v1/events?token=${started.token("bob")}`), "token-invalid", "no other token than in the URL");
  expectProblem(await call(`${started.url}/v1/events?access_token=${started.token("bob")}`), "token-invalid", "nor by RFC 6750, section 2.3");
  expectProblem(await events("", SERVICE_CREDENTIAL), "forbidden", "a service key");
  const head = `GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${started.token("bob")}\r\n`;
  expectProblem(await raw(started.url, `${head}Last-Event-ID: a:1\r\nLast-Event-ID: a:2\r\n\r\n`), "bad-request", "two ids");
  expectProblem(await raw(started.url, `${head}Last-Event-ID:\r\n\r\n`), "bad-request", "an empty id");
  // None of them has opened anything: mail for those that are live finds nobody.
  const id = await send("bob", "now", { ttl: 0 });
  const state = await call(`${started.url}/v1/messages/${id}`, { token: SERVICE_CREDENTIAL });
  expect(field(state.body, "recipients")).toMatchObject([{ user: "bob", state: "expired" }]);
});

test("[H63] a stream has the headers that proxies, caches and pages of other origins need; other methods are unknown, HEAD too", async () => {
  const stream = await EventStream.open({ url: started.url, token: started.token("bob"), headers: { Origin: "https://app.example.com" } });
  const headers = Object.fromEntries(stream.headers);
  expect(headers).toMatchObject({
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
    "access-control-allow-origin": "https://app.example.com",
  });
  expect(headers.vary).toMatch(/Origin/);
  await stream.leave();
  const foreign = await EventStream.open({ url: started.url, token: started.token("bob"), headers: { Origin: "https://evil.example" } });
  expect(foreign.headers.get("access-control-allow-origin")).not.toBe("https://evil.example");
  await foreign.leave();
  const preflight = await fetch(`${started.url}/v1/events`, {
    method: "OPTIONS",
    headers: {
      Origin: "https://app.example.com",
      "Access-Control-Request-Method": "GET",
      "Access-Control-Request-Headers": "authorization,last-event-id",
    },
  });
  expect(preflight.headers.get("access-control-allow-headers")?.toLowerCase()).toContain("last-event-id");
  for (const method of ["POST", "PUT", "DELETE"]) {
    expectProblem(await call(`${started.url}/v1/events`, { method, token: started.token("bob") }), "unknown", method);
  }
  const head = await fetch(`${started.url}/v1/events`, { method: "HEAD", headers: { Authorization: `Bearer ${started.token("bob")}` } });
  expect(head.status).toBe(404);
});

describe("back-pressure", () => {
  /** Takes nothing until it is told to. */
  class Held extends Writable {
    readonly chunks: string[] = [];
    #take: (() => void) | undefined;

    constructor() {
      super({ highWaterMark: 65_536 });
    }

    override _write(chunk: Buffer, _encoding: string, done: () => void): void {
      this.chunks.push(chunk.toString());
      this.#take = done;
    }

    /** Takes what was written last, and waits with the next. */
    async take(): Promise<void> {
      this.#take?.();
      await turn();
    }

    get text(): string {
      return this.chunks.join("");
    }
  }

  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const identity: UserIdentity = {
    kind: "user",
    user: "bob" as UserId,
    session: "s" as SessionId,
    scopes: ["receive"],
    expiresAtMs: Date.now() + 600_000,
  };

  /** A stream whose hub is this test. */
  async function opened() {
    const answer = new Held();
    let link: Link | undefined;
    const channel = { drained: vi.fn(), closed: vi.fn() };
    const gateway = {
      open(_identity: UserIdentity, opening: Link) {
        link = opening;
        opening.send({ op: "ready", receiver: "r" as ReceiverId, epoch: "e" as never, head: 0 });
        return Promise.resolve(channel as unknown as Channel);
      },
    } as unknown as Gateway;
    await openStream(gateway, identity, { receiver: undefined, epoch: undefined, cursor: 0, window: 32 }, () => answer).opened;
    channel.drained.mockClear();
    const sent = (frame: ServerFrame) => link?.send(frame);
    return { answer, channel, sent };
  }

  const delivery = (seq: number, bytes: number): ServerFrame => ({ op: "deliver", deliveries: [{ seq, text: JSON.stringify("x".repeat(bytes)) }] });
  const settled = (count: number): ServerFrame => ({ op: "settled", seqs: Array.from({ length: count }, () => 1_000_000) });

  test("[H64] whatever is ready in one turn is one write; above 1 MiB unread nothing more is asked for until it is read, whatever hints go on meanwhile", async () => {
    const { answer, channel, sent } = await opened();
    expect([sent(delivery(1, 10)), sent(delivery(2, 10)), sent(settled(1))]).toEqual([true, true, true]);
    await turn();
    expect(answer.chunks.length).toBe(1);
    expect(answer.chunks[0]?.match(/^(event|id): .*$/gm)).toEqual(["event: ready", "id: e:1", "id: e:2", "event: settled"]);
    await answer.take();
    expect(sent(delivery(3, 0.6 * MIB))).toBe(true);
    await turn();
    expect(sent(delivery(4, 0.6 * MIB))).toBe(false);
    await turn();
    await answer.take();
    expect(channel.drained, "more than half of it is unread").not.toHaveBeenCalled();
    // Less than 1 MiB waits now, but who was told to stop is not told to go on by a hint.
    expect(sent(settled(1))).toBe(false);
    await turn();
    await answer.take();
    expect(channel.drained).toHaveBeenCalledTimes(1);
    await answer.take();
    expect(channel.drained).toHaveBeenCalledTimes(1);
    expect(sent(delivery(5, 10))).toBe(true);
    await turn();
    expect(answer.text.match(/^id: .*$/gm)).toEqual(["id: e:1", "id: e:2", "id: e:3", "id: e:4", "id: e:5"]);
    expect(channel.closed).not.toHaveBeenCalled();
  });

  test("[H65] a peer that reads nothing while hints grow beyond 4 MiB is let go, with the reason, and soon", async () => {
    const { answer, channel, sent } = await opened();
    let count = 0;
    for (; !answer.writableEnded && count < 1_000; count++) {
      sent(settled(10_000));
      await turn();
    }
    expect(count * 80_000, "bytes until then").toBeGreaterThan(4 * MIB - 200_000);
    expect(count * 80_000, "bytes until then").toBeLessThan(4 * MIB + 400_000);
    expect(channel.closed).toHaveBeenCalled();
    expect(sent(delivery(1, 10))).toBe(false);
    await vi.waitFor(() => expect(answer.destroyed).toBe(true), { timeout: 4_000 });
    // Another, which reads after all, is told why.
    const other = await opened();
    while (!other.answer.writableEnded) {
      other.sent(settled(10_000));
      await turn();
    }
    while (!other.answer.writableFinished) await other.answer.take();
    expect(other.answer.text.split("\n\n").at(-2)).toMatch(/^event: problem\ndata: .*"code":"slow-consumer"/);
  });

  test("[H66] the JSON of a delivery is one line of data, whatever lines a store has made of it", async () => {
    const { answer, sent } = await opened();
    const value = { text: "a\r\nb", list: [1, 2] };
    for (const [place, end] of ["\n", "\r", "\r\n", "\n\n"].entries()) {
      sent({ op: "deliver", deliveries: [{ seq: place + 1, text: JSON.stringify(value, undefined, 2).replaceAll("\n", end) }] });
    }
    await turn();
    const parser = new EventStreamParser();
    parser.push(answer.text);
    expect(parser.events.slice(1).map(({ id, data }) => [id, JSON.parse(data)])).toEqual([1, 2, 3, 4].map((seq) => [`e:${seq}`, value]));
  });
});

test("[H67] streams whose peers reset the connection are over at once: none is taken for live, at whatever moment it went", async () => {
  for (let n = 0; n < 200; n++) {
    const socket = request("gone", `?receiver=${n % 70}`);
    // Before it is connected, before it is answered, in the middle of the answer, after it.
    if (n % 4 === 0) socket.once("connect", () => socket.resetAndDestroy());
    else if (n % 4 === 1) setTimeout(() => socket.resetAndDestroy(), n % 20);
    else socket.once("data", () => (n % 4 === 2 ? socket.resetAndDestroy() : socket.destroy()));
    if (n % 40 === 0) await send("gone", n);
  }
  await links.opened("gone", 1);
  await vi.waitFor(
    async () => {
      const id = await send("gone", "now", { ttl: 0 });
      const state = await call(`${started.url}/v1/messages/${id}`, { token: SERVICE_CREDENTIAL });
      expect(field(state.body, "recipients")).toMatchObject([{ user: "gone", state: "expired" }]);
    },
    { timeout: 5_000 },
  );
  // Behind a poll of the same connection (a pipeline): its answer has not begun when the peer goes.
  const piped = connect(Number(new URL(started.url).port), new URL(started.url).hostname);
  piped.on("error", () => {});
  const head = `HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${started.token("piped")}\r\n`;
  const body = JSON.stringify({ receiver: "idle", wait: 30 });
  piped.write(`POST /v1/poll ${head}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}GET /v1/events ${head}\r\n`);
  await links.opened("piped", 2);
  piped.destroy();
  await links.closed("piped", 2);
});

test("[H68] a stream whose peer takes nothing of what waits for it for 20 to 40 s is cut; it gets it when it comes back", async () => {
  const { setTimeout: asked } = ServerResponse.prototype;
  // In a seventh of the time.
  const limit = vi.spyOn(ServerResponse.prototype, "setTimeout").mockImplementation(function (this: ServerResponse, limitMs, callback) {
    return asked.call(this, limitMs / 7, callback);
  });
  const stuck = request("stuck", "?receiver=r&window=1000");
  await links.opened("stuck", 1);
  expect(limit).toHaveBeenCalledWith(20_000, expect.any(Function));
  limit.mockRestore();
  const text = "x".repeat(200_000);
  for (let n = 0; n < 60; n++) await send("stuck", [n, text]);
  await links.closed("stuck", 1, 8_000);
  stuck.destroy();
  const again = await EventStream.open({ url: started.url, token: started.token("stuck"), query: { receiver: "r", window: 1_000 } });
  await again.inbox.until(() => again.inbox.deliveries.length === 60, "all of it");
  await again.leave();
});

test("[H101] an EventSource that is refused for now is told so by a stream, with the time of its return; what is refused for good is a problem document", async () => {
  const server = await start("memory", { maxReceiversPerUser: "1" });
  const token = server.token("bob");
  const stream = await EventStream.open({ url: server.url, token, query: { receiver: "one" } });
  const ask = (headers: Record<string, string>, more: object = { token }) => call(`${server.url}/v1/events?receiver=two`, { ...more, headers });
  const eventSource = { Accept: "text/event-stream" };

  for (const accept of ["*/*", "application/json"]) expectProblem(await ask({ Accept: accept }), "rate-limited");
  for (const accept of ["text/event-stream", "text/event-stream, */*;q=0.1"]) {
    const refused = await ask({ Accept: accept });
    expect([refused.status, refused.headers.get("content-type")]).toEqual([200, "text/event-stream; charset=utf-8"]);
    const parser = new EventStreamParser();
    parser.push(String(refused.body));
    expect(parser.events.map(({ name }) => name)).toEqual(["problem"]);
    expect(JSON.parse(parser.events[0]?.data ?? "")).toMatchObject({ code: "rate-limited", status: 429, retryable: true });
    // Not before Retry-After, and spread out.
    expect(parser.events[0]?.retry).toBeGreaterThan(10_000);
    expect(parser.events[0]?.retry).toBeLessThanOrEqual(14_000);
  }
  expectProblem(await ask(eventSource, {}), "token-invalid");
  expectProblem(await call(`${server.url}/v1/events?colour=red`, { token, headers: eventSource }), "bad-request");
  expectProblem(await call(`${server.url}/v1/poll`, { token, headers: eventSource, body: { receiver: "two" } }), "rate-limited");

  await server.server.engine.close();
  const closed = await call(`${server.url}/v1/events`, { token: server.token("carol"), headers: eventSource });
  expect([closed.status, closed.body]).toEqual([200, expect.stringContaining('"code":"store-unavailable"')]);
  await stream.leave();
  await server.stop();
});

test("[H69] a server that stops ends its streams at once, those too that are just being opened, and refuses new ones", async () => {
  const server = await start("sqlite");
  const token = server.token("bob");
  const stream = await EventStream.open({ url: server.url, token });
  const stuck = await EventStream.open({ url: server.url, token });
  stuck.pause();
  let open = 0;
  const opened = (user: string) =>
    EventStream.open({ url: server.url, token: server.token(user) }).then(
      async (other) => {
        open += 1;
        await other.ended;
        return String(other.events.at(-1)?.name);
      },
      (thrown: unknown) => /"code":"([\w-]+)"/.exec(String(thrown))?.[1] ?? String(thrown),
    );
  const early = Array.from({ length: 30 }, (_, n) => opened(`early-${n}`));
  await vi.waitFor(() => expect(open).toBeGreaterThan(4), { timeout: 5_000, interval: 1 });
  const startedMs = performance.now();
  const stopped = server.stop();
  const late = Array.from({ length: 30 }, async (_, n) => {
    await new Promise((resolve) => setTimeout(resolve, 5 * n));
    return opened(`late-${n}`);
  });
  await stream.ended;
  expect(stream.events.at(-1)?.name).toBe("drain");
  expect(performance.now() - startedMs, "ms until the stream had ended").toBeLessThan(1_000);
  // Whoever comes late finds a closed store, or nobody.
  const refusals = ["draining", "store-unavailable", "TypeError: fetch failed"];
  const [ended, refused] = [await Promise.all(early), await Promise.all(late)];
  console.log(`being opened at the stop: ${ended.filter((each) => each === "drain").length} drained of ${ended.length}`);
  expect(ended.filter((each) => each !== "drain" && !refusals.includes(each))).toEqual([]);
  expect(ended.filter((each) => each === "drain").length).toBeGreaterThan(4);
  expect(refused.filter((each) => !refusals.includes(each))).toEqual([]);
  await stopped;
  expect(performance.now() - startedMs, "ms until the server was gone").toBeLessThan(3_000);
  await stuck.leave();
});
