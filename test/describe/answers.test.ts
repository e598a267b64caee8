/**
 * What the running server answers and sends, held against its own descriptions; and what they say is answered, is.
 * @module
 */
import { Readable } from "node:stream";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { Authenticator } from "../../src/auth.ts";
import { type ErrorCode, HandoverError } from "../../src/errors.ts";
import { Hub } from "../../src/hub.ts";
import { type Answer, call, FrameSocket, field, openSocket } from "../../src/testing/wire.ts";
import { at, Described, follow, type Json, Schemas } from "../support/described.ts";
import { raw } from "../support/raw.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "../support/started.ts";

let started: Started;
let described: Described;
let asyncapi: Json;
beforeAll(async () => {
  started = await start("memory", {
    mailboxMaxMessages: "20",
    users: "alice,bob,carol,dora,full",
    maxReceiversPerUser: "3",
    origins: "http://listed.example",
  });
  described = new Described((await (await fetch(`${started.url}/openapi.json`)).json()) as Json);
  asyncapi = (await (await fetch(`${started.url}/asyncapi.json`)).json()) as Json;
  // Before anything goes wrong on purpose.
  described.expect("isReady", await call(`${started.url}/readyz`));
});
afterEach(() => vi.restoreAllMocks());
afterAll(() => started.stop());

const MESSAGE = { to: { user: "bob" }, type: "t", data: 1 };

interface Asked {
  readonly token?: string | undefined;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
}

/** Asks as a fetch does, with a user's token unless said. */
function ask(method: string, path: string, { token = started.token("alice"), body, headers = {} }: Asked = {}): Promise<Answer> {
  return call(started.url + path, { method, ...(token === "" ? {} : { token }), ...(body === undefined ? {} : { body }), headers });
}

const post = (asked: Asked = {}) => ask("POST", "/v1/messages", { body: MESSAGE, ...asked });
const service = { token: SERVICE_CREDENTIAL };

/** Lets the next call of the engine fail. */
function failing(method: "append" | "find" | "evict" | "admitSession" | "endSession" | "totals" | "attach", code: ErrorCode): void {
  vi.spyOn(started.server.engine, method).mockRejectedValueOnce(new HandoverError(code, "Made for this test, by hand."));
}

/** Requests that are good, by operation. */
const GOOD: Readonly<Record<string, () => Asked & { method: string; path: string }>> = {
  send: () => ({ method: "POST", path: "/v1/messages", body: MESSAGE }),
  state: () => ({ method: "GET", path: "/v1/messages/x" }),
  takeBack: () => ({ method: "DELETE", path: "/v1/messages/x" }),
  poll: () => ({ method: "POST", path: "/v1/poll", body: { receiver: "r", wait: 0 } }),
  acknowledge: () => ({ method: "POST", path: "/v1/ack", body: { receiver: "r", epoch: null, upto: 1 } }),
  events: () => ({ method: "GET", path: "/v1/events?receiver=r" }),
  createSession: () => ({ method: "POST", path: "/v1/sessions", body: { user: "alice" }, ...service }),
  endSession: () => ({ method: "DELETE", path: "/v1/sessions/s", ...service }),
  keepToken: () => ({ method: "POST", path: "/v1/cookie" }),
  metrics: () => ({ method: "GET", path: "/metrics", headers: { Via: "1.1 proxy" } }),
  backup: () => ({ method: "GET", path: "/v1/backup", ...service }),
};

/** What goes wrong in the same way with every request that says who asks. */
async function identityProblems(id: string): Promise<void> {
  const { method, path, ...good } = GOOD[id]?.() ?? { method: "", path: "" };
  const asked = async (what: string, more: Asked) => described.expect(id, await ask(method, path, { ...good, ...more }), what);
  await asked("no token", { token: "" });
  await asked("an old token", { token: started.token("alice", { exp: 1 }) });
  vi.spyOn(Authenticator.prototype, "authenticate").mockRejectedValueOnce(new HandoverError("timeout", "Made for this test, by hand."));
  await asked("the identity provider is silent", {});
  for (const code of ["store-unavailable", "store-full"] as const) {
    failing("admitSession", code);
    await asked(`a new session, ${code}`, { token: started.token("alice", { sid: `new-${id}-${code}` }) });
  }
  // What is for operators knows no cookie.
  if (id !== "metrics" && id !== "backup") await asked("two cookies", { token: "", headers: { Cookie: "handover=a; handover=b" } });
}

/** What goes wrong in the same way with every request that has a body. */
async function bodyProblems(id: string): Promise<void> {
  const { method, path, body: _body, ...good } = GOOD[id]?.() ?? { method: "", path: "" };
  for (const body of ["{", {}, `"${"x".repeat(1_048_576)}"`]) described.expect(id, await ask(method, path, { ...good, body }));
  described.expect(id, await ask(method, path, { ...good, body: "x", headers: { "Content-Type": "text/plain" } }));
}

const upgrade = (headers: string) =>
  raw(
    started.url,
    `GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${headers}\r\n`,
  );

/** Reads a stream until it has an event of that name, or ends. */
async function streamUntil(response: Response, name: string): Promise<{ event: string; data: unknown }[]> {
  const found: { event: string; data: unknown }[] = [];
  let text = "";
  const decoder = new TextDecoder();
  // Not `for await`: leaving that would end the stream.
  const reader = response.body?.getReader();
  for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
    text += decoder.decode(part.value as Uint8Array, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop() ?? "";
    for (const part of parts) {
      const data = /^data: (.*)$/m.exec(part)?.[1];
      if (data !== undefined) found.push({ event: /^event: (.*)$/m.exec(part)?.[1] ?? "message", data: JSON.parse(data) });
    }
    if (found.some(({ event }) => event === name)) break;
  }
  return found;
}

describe("answers over HTTP", () => {
  afterAll(() => {
    const all = described.operations().flatMap(({ id }) => described.answersOf(id));
    // Nobody is told to expect what never comes.
    expect(
      all.filter((answer) => !described.seen.has(answer)),
      "described and not seen",
    ).toEqual([]);
    expect(all.length).toBeGreaterThan(100);
  });

  test("[A19] every answer, frame and event is as described, and every described one is given: sends", async () => {
    await identityProblems("send");
    await bodyProblems("send");
    const sent = async (what: string, asked: Asked) => described.expect("send", await post(asked), what);
    await sent("one", {});
    await sent("several", { body: [MESSAGE, MESSAGE] });
    await sent("forbidden", { body: { ...MESSAGE, type: "handover.x" } });
    await sent("unknown", { body: { ...MESSAGE, to: { user: "eve" } } });
    await sent("a group", { body: { ...MESSAGE, to: { group: "g" } } });
    await sent("too large", { body: { ...MESSAGE, data: "x".repeat(300_000) } });
    await sent("one bad of several", { body: [MESSAGE, { ...MESSAGE, ttl: -1 }, MESSAGE] });
    await sent("a key", { headers: { "Idempotency-Key": "k" } });
    await sent("the key again", { headers: { "Idempotency-Key": "k" }, body: { ...MESSAGE, data: 2 } });
    await sent("headers", { headers: { TTL: "60", Topic: "t", Urgency: "low" } });
    for (const _ of Array(20)) await post({ body: { ...MESSAGE, to: { user: "full" } } });
    await sent("a full mailbox", { body: { ...MESSAGE, to: { user: "full" } } });
    await sent("one full of two", { body: { ...MESSAGE, to: { users: ["full", "carol"] } } });
    for (const code of ["store-full", "store-unavailable", "internal"] as const) {
      failing("append", code);
      await sent(code, {});
    }
    vi.spyOn(started.server.engine, "append").mockResolvedValueOnce([{ outcome: "in-progress" }]);
    await sent("in progress", {});
    vi.spyOn(started.server.engine, "append").mockResolvedValueOnce([{ outcome: "not-stored" }]);
    await sent("for another's sake", {});
    vi.spyOn(Hub.prototype, "isDraining", "get").mockReturnValue(true);
    vi.spyOn(Hub.prototype, "sendAll").mockResolvedValueOnce([new HandoverError("draining", "The server is about to stop.")]);
    await sent("draining", {});
  });

  test("[A19] every answer, frame and event is as described, and every described one is given: messages", async () => {
    const id = String(field((await post()).body, "id"));
    described.expect("state", await ask("GET", `/v1/messages/${id}`));
    for (const [operation, method] of [
      ["state", "GET"],
      ["takeBack", "DELETE"],
    ] as const) {
      await identityProblems(operation);
      described.expect(operation, await ask(method, "/v1/messages/x"));
      described.expect(operation, await ask(method, `/v1/messages/${"x".repeat(500)}`));
      const { supports } = started.server.engine;
      Object.defineProperty(started.server.engine, "supports", { value: { ...supports, state: false, takeBack: false }, configurable: true });
      described.expect(operation, await ask(method, `/v1/messages/${id}`));
      Object.defineProperty(started.server.engine, "supports", { value: supports, configurable: true });
    }
    described.expect("takeBack", await ask("DELETE", `/v1/messages/${id}`));
    described.expect("state", await ask("GET", `/v1/messages/${id}`), "after its end");
  });

  test("[A19] every answer, frame and event is as described, and every described one is given: receivers", async () => {
    for (const operation of ["poll", "acknowledge"]) {
      await identityProblems(operation);
      await bodyProblems(operation);
    }
    await identityProblems("events");
    const poll = (asked: Asked) => ask("POST", "/v1/poll", asked);
    const ack = (asked: Asked) => ask("POST", "/v1/ack", asked);
    const bob = started.token("bob");
    for (const _ of Array(3)) await post();
    const polled = await poll({ token: bob, body: { receiver: "p", wait: 0, max: 2 } });
    described.expect("poll", polled);
    const { epoch, cursor } = polled.body as { epoch: string; cursor: number };
    const seqs = (field(polled.body, "deliveries") as unknown[]).map((each) => Number(field(each, "seq")));
    described.expect("acknowledge", await ack({ token: bob, body: { receiver: "p", epoch, cursor, seqs } }));
    described.expect("poll", await poll({ token: bob, body: { receiver: "p", epoch: "other", cursor: 0, wait: 0 } }), "gaps and all");
    const taken = String(field((await post()).body, "id"));
    await ask("DELETE", `/v1/messages/${taken}`);
    described.expect("poll", await poll({ token: bob, body: { receiver: "p", epoch, cursor, wait: 0 } }), "a gap");
    described.expect("poll", await poll({ token: started.token("dora"), body: { receiver: "p", wait: 0 } }), "nothing");
    for (const [operation, method, path, body] of [
      ["poll", "POST", "/v1/poll", { receiver: "r", wait: 0 }],
      ["acknowledge", "POST", "/v1/ack", { receiver: "r", epoch, upto: 1 }],
      ["events", "GET", "/v1/events?receiver=r", undefined],
    ] as const) {
      described.expect(operation, await ask(method, path, { token: started.token("alice", { scope: "send:user:*" }), body }), "no receive");
    }
    described.expect("events", await ask("GET", "/v1/events?receiver=a%20b"));

    // Three receivers of one user are there; a fourth is too many.
    const carol = started.token("carol");
    const held = new AbortController();
    const streams = await Promise.all(
      ["a", "b", "c"].map((name) =>
        fetch(`${started.url}/v1/events?receiver=${name}`, { headers: { Authorization: `Bearer ${carol}` }, signal: held.signal }),
      ),
    );
    const [first] = streams;
    if (!first) throw new Error("no stream");
    described.expect("events", { status: first.status, headers: first.headers, body: "" });
    const [ready] = await streamUntil(first, "ready");
    described.expect("poll", await poll({ token: carol, body: { receiver: "d", wait: 0 } }), "one too many");
    described.expect("events", await ask("GET", "/v1/events?receiver=d", { token: carol }), "one too many");
    const body = { receiver: "d", epoch: field(ready?.data, "epoch"), upto: 1 };
    described.expect("acknowledge", await ack({ token: carol, body }), "one too many");
    held.abort();

    vi.spyOn(Hub.prototype, "isDraining", "get").mockReturnValue(true);
    vi.spyOn(Hub.prototype, "open").mockRejectedValue(new HandoverError("draining", "The server is about to stop."));
    described.expect("poll", await poll({ body: { receiver: "r", wait: 0 } }), "draining");
    described.expect("events", await ask("GET", "/v1/events"), "draining");
    described.expect("isReady", await call(`${started.url}/readyz`));
    described.expect("webSocket", await upgrade("Sec-WebSocket-Protocol: handover.v1.json\r\n"));
  });

  test("[A19] every answer, frame and event is as described, and every described one is given: sessions and cookies", async () => {
    for (const operation of ["createSession", "endSession", "keepToken"]) await identityProblems(operation);
    await bodyProblems("createSession");
    const sessions = (body: object, token = SERVICE_CREDENTIAL) => ask("POST", "/v1/sessions", { body, token });
    const made = await sessions({ user: "alice", ttl: 60, scope: "receive" });
    described.expect("createSession", made);
    described.expect("createSession", await sessions({ user: "alice" }, started.token("alice")), "not a service");
    described.expect("createSession", await sessions({ user: "alice", ttl: 2_147_483_647 }), "too long");
    const path = `/v1/sessions/${String(field(made.body, "session"))}`;
    described.expect("endSession", await ask("DELETE", path, service));
    described.expect("endSession", await ask("DELETE", path), "not a service");
    described.expect("keepToken", await ask("POST", "/v1/cookie"));
    described.expect("keepToken", await ask("POST", "/v1/cookie", service), "a service");
    described.expect("forgetToken", await ask("DELETE", "/v1/cookie"));
    const long = started.token("alice", { scope: `receive ${"x".repeat(3_500)}` });
    described.expect("keepToken", await ask("POST", "/v1/cookie", { token: long }), "too long for a browser");
    described.expect("forgetToken", await ask("DELETE", "/v1/cookie", { headers: { Origin: "https://other.example" } }));
    const plain = { Origin: "http://listed.example", "Sec-Fetch-Site": "cross-site" };
    described.expect("forgetToken", await ask("DELETE", "/v1/cookie", { headers: plain }), "of another site, without TLS");
    vi.spyOn(Authenticator.prototype, "createSession").mockRejectedValueOnce(
      new HandoverError("unsupported", "There is no secret here to sign with."),
    );
    described.expect("createSession", await sessions({ user: "alice" }), "without a secret");
  });

  test("[A19] every answer, frame and event is as described, and every described one is given: operators", async () => {
    await identityProblems("metrics");
    const get = async (id: string, path: string, asked: Asked = { token: "" }) => described.expect(id, await ask("GET", path, asked), path);
    await get("isLive", "/livez");
    await get("metrics", "/metrics");
    await get("metrics", "/metrics", { headers: { Via: "1.1 proxy" } });
    await identityProblems("backup");
    const backup = (asked: Asked) => get("backup", "/v1/backup", { ...service, ...asked });
    await backup({});
    await backup({ token: started.token("alice") });
    await backup({ headers: { Via: "1.1 proxy" } });
    const { engine } = started.server;
    engine.backup = async () => ({ bytes: 4, content: Readable.from(["SQLi"]) });
    await backup({});
    for (const code of ["rate-limited", "store-full", "store-unavailable"] as const) {
      engine.backup = () => Promise.reject(new HandoverError(code, "Made for this test, by hand."));
      await backup({});
    }
    await get("sdk", "/handover.js");
    await get("sdkPage", "/handover-page.js");
    for (const [id, path] of [
      ["openapi", "/openapi.json"],
      ["asyncapi", "/asyncapi.json"],
      ["sdk", "/handover.js"],
      ["sdkPage", "/handover-page.js"],
    ] as const) {
      const { headers } = await ask("GET", path);
      await get(id, path);
      await get(id, path, { headers: { "If-None-Match": headers.get("etag") ?? "" } });
    }
    const upgraded = await upgrade("Sec-WebSocket-Protocol: handover.v1.json\r\n");
    described.expect("webSocket", { ...upgraded, body: undefined });
    described.expect("webSocket", await upgrade(""));
    described.expect("webSocket", await upgrade("Sec-WebSocket-Protocol: handover.v1.json\r\nOrigin: https://other.example\r\n"));
    vi.spyOn(Hub.prototype, "isStoreFull", "get").mockReturnValue(true);
    await get("isReady", "/readyz");
    const off = await start("memory", { metrics: "off" });
    described.expect("metrics", await call(`${off.url}/metrics`));
    await off.stop();
    for (const headers of ["", "Host: x\r\n".repeat(2), `Host: x\r\n${"X: 1\r\n".repeat(101)}`]) {
      described.expect("isLive", await raw(started.url, `GET /livez HTTP/1.1\r\n${headers}\r\n`), headers.slice(0, 20));
    }
  });
});

test("[A19] every answer, frame and event is as described, and every described one is given: connections", async () => {
  const server = await start("memory", { drainMs: "1000" });
  const schemas = new Schemas(asyncapi, true);
  const seen = new Set<string>();
  const look = (channel: string, name: string, payload: unknown) => {
    const message = at(asyncapi, "components", "messages", `${channel}.${name}`);
    expect(schemas.fault(at(message, "payload"), payload), `${channel}.${name} ${JSON.stringify(payload)}`).toBe("");
    seen.add(`${channel}.${name}`);
  };
  const bob = server.token("bob");
  const first = await openSocket(server.url, { token: bob, receiver: "first" });
  const second = await openSocket(server.url, { token: bob, receiver: "second", window: 1 });
  const sender = await openSocket(server.url, { token: SERVICE_CREDENTIAL });
  const stream = await fetch(`${server.url}/v1/events?receiver=third`, { headers: { Authorization: `Bearer ${bob}` } });
  const events = streamUntil(stream, "drain");
  const urgent = { to: { user: "bob" }, type: "t", subject: "s", topic: "x", urgency: "low", correlationid: "c", replyto: "r" };
  const [taken] = await sender.send([urgent, { ...urgent, type: "" }, { ...urgent, topic: "y", data: null }]);
  sender.write({ op: "ack", ref: "a", epoch: null });
  await sender.frame(({ op }) => op === "error", "an error");
  await first.inbox.until(() => first.inbox.deliveries.length === 2, "two deliveries");
  first.write({ op: "ack", epoch: first.inbox.epoch, hold: [1] });
  first.write({ op: "ack", ref: 1, epoch: first.inbox.epoch, seqs: [2] });
  first.write({ op: "auth", token: bob });
  await first.frame(({ op }) => op === "ready", "ready again", 2);
  await second.inbox.until(() => second.inbox.settled.length > 0 || second.inbox.deliveries.length === 1, "news");

  // What ended while a receiver was away is a gap to it.
  const epoch = first.inbox.epoch;
  await call(`${server.url}/v1/messages/${String(taken?.id)}`, { method: "DELETE", token: SERVICE_CREDENTIAL });
  const back = await openSocket(server.url, { token: bob, receiver: "back", epoch, cursor: 0 });
  await back.frame(({ op }) => op === "gap", "a gap");
  const gapStream = await fetch(`${server.url}/v1/events?receiver=gap&cursor=0&epoch=${epoch}`, { headers: { Authorization: `Bearer ${bob}` } });
  const gapEvents = streamUntil(gapStream, "gap");
  const dying = await fetch(`${server.url}/v1/events`, {
    headers: { Authorization: `Bearer ${server.token("eve", { exp: Date.now() / 1000 + 0.5 })}` },
  });
  for (const { event, data } of [...(await gapEvents), ...(await streamUntil(dying, "problem"))]) look("events", event, data);

  await server.stop();
  for (const { event, data } of await events) look("events", event, data);
  for (const socket of [first, second, sender, back]) for (const frame of socket.frames) look("webSocket", String(frame.op), frame);
  const sent = Object.entries(at(asyncapi, "operations")).flatMap(([id, { action }]) => (String(action) === "send" ? id : []));
  expect([...seen].sort()).toEqual(sent.sort());
});

test("[A16] every example in the descriptions is valid by the schema that it stands beside, and those that go in are taken by the running server", async () => {
  let count = 0;
  const check = (document: Json, schemas: Schemas, part: unknown): void => {
    if (typeof part !== "object" || part === null) return;
    const { schema, payload, examples, ...rest } = part as Json;
    for (const example of Object.values(examples ?? {})) {
      const { value, payload: sent } = follow(document, example);
      expect(schemas.fault((schema ?? payload) as Json, value ?? sent), JSON.stringify(example).slice(0, 100)).toBe("");
      count += 1;
    }
    for (const each of Object.values(rest)) check(document, schemas, each);
  };
  const { document } = described;
  check(document, new Schemas(document, true), { paths: at(document, "paths"), responses: at(document, "components", "responses") });
  check(asyncapi, new Schemas(asyncapi, true), at(asyncapi, "components", "messages"));
  expect(count).toBeGreaterThan(50);

  const server = await start("memory");
  for (const { id, method, path, operation } of described.operations()) {
    if (!operation.requestBody) continue;
    const asks = Object.values(at(operation, "security")).flatMap((each) => Object.keys(each));
    const token = asks.includes("token") ? server.token("alice") : SERVICE_CREDENTIAL;
    for (const [name, example] of Object.entries(at(operation, "requestBody", "content", "application/json", "examples"))) {
      const answer = await call(server.url + path, { method: method.toUpperCase(), token, body: example.value });
      described.expect(id, answer, name);
      expect(answer.status, `${id} ${name} ${JSON.stringify(answer.body)}`).toBeLessThan(300);
    }
  }
  const socket = new FrameSocket(server.url);
  await socket.opened();
  const example = (op: string) =>
    at(asyncapi, "components", "messages", `webSocket.${op}`, "examples", "0", "payload") as unknown as { token?: string };
  for (const op of ["hello", "send", "ack", "auth"]) {
    const frame = example(op);
    socket.write(frame.token === undefined ? frame : { ...frame, token: server.token("alice") });
  }
  await socket.inbox.until(() => socket.frames.length >= 4 || socket.inbox.end !== undefined, "four answers");
  expect(socket.frames.map(({ op }) => op).sort()).toEqual(["acked", "ready", "ready", "sent"]);
  const sent = socket.frames.find(({ op }) => op === "sent")?.results;
  expect(Array.isArray(sent) && field(sent[0], "status")).toBe(201);
  await socket.terminate();
  await server.stop();
});
