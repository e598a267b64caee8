/**
 * Who may do what on x0's wire: `demo`, `registered`, and what may run in a page.
 * @module
 */
import { setTimeout as pause } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { loadConfig, type SettingKey } from "../../src/config.ts";
import { type Server, startServer } from "../../src/server.ts";
import { call, field } from "../../src/testing/wire.ts";
import { CommandServer } from "../support/command.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL, type Started, start, TOKEN_SECRET } from "../support/started.ts";
import { directOf, pollOf, setDataOf, Tab, valuesOf } from "./tab.ts";

let demo: Started;
let registered: Started;
beforeAll(async () => {
  demo = await start("memory", { x0: "demo" });
  registered = await start("memory", { x0: "registered" });
});
afterAll(async () => {
  await demo.stop();
  await registered.stop();
});

const tab = (server = registered) => new Tab(server.url);
const send = (server: Started, token: string, message: object) => call(`${server.url}/v1/messages`, { token, body: message });

/** Kinds that run code or markup in the page that gets them (X0.md, bug 8). */
const RUNNING = [
  { "msg-type": "net-phone", "phonenr-src": "<img src=x onerror=alert(1)>" },
  { "msg-type": "net-message", "txt-id": "<img src=x onerror=alert(1)>" },
  { ...setDataOf({ n: 1 }), "fire-events": ["Event1"] },
  { ...setDataOf({ n: 1 }), "switch-screen-id": "Screen2" },
  { ...setDataOf({ n: 1 }), "txt-id": "x" },
  { "msg-type": "sys-indicator", "notify-id": "1", "notify-status": "x" },
  { "fire-events": ["Event1"] },
  {},
];

test("[X40] registered: the sender that a page sees is the user's id, never a token; the destination is a user's id", async () => {
  const [alice, bob] = [registered.token("alice"), registered.token("bob")];
  expect((await tab().send(alice, "bob", { n: 1 })).body).toEqual({ messages: null, status: "ok" });
  const got = await tab().poll(bob);
  expect(got.body.messages).toEqual([{ ...setDataOf({ n: 1 }), session_src: "alice" }]);
  expect((await tab().send(bob, got.body.messages?.[0]?.session_src, { n: 2 })).body).toEqual({ messages: null, status: "ok" });
  expect(valuesOf(await tab().poll(alice))).toEqual([{ n: 2 }]);
  const claims = { ...setDataOf({ n: 3 }), session_src: "mallory" };
  await tab().post(directOf(alice, "carol", claims));
  expect((await tab().poll(registered.token("carol"))).body.messages?.[0]?.session_src).toBe("alice");
  for (const to of ["two words", registered.token("bob"), "x".repeat(129)]) {
    const { body } = await tab().send(alice, to, { n: 1 });
    expect([body.error, body.exception_id]).toEqual([true, "unknown"]);
  }
});

test("[X40] registered: a destination that is a session known here is its user, in all of whose pages it is shown", async () => {
  const make = async (user: string) => {
    const { body } = await call(`${registered.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user } });
    return { session: String(field(body, "session")), token: String(field(body, "token")) };
  };
  const [first, second] = [await make("frank"), await make("frank")];
  expect((await tab().send(registered.token("alice"), first.session, { n: 1 })).body).toEqual({ messages: null, status: "ok" });
  for (const { token } of [first, second]) expect(valuesOf(await tab().poll(token))).toEqual([{ n: 1 }]);
});

test.concurrent("[X59] registered: a session that its backend ends has its polls let go within a second, and gets nothing any more", {
  timeout: 40_000,
}, async () => {
  const { body } = await call(`${registered.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user: "gone" } });
  const [session, token] = [String(field(body, "session")), String(field(body, "token"))];
  const page = tab();
  const held = await page.begin(pollOf(token));
  await pause(200);
  const endedAtMs = performance.now();
  expect((await call(`${registered.url}/v1/sessions/${session}`, { method: "DELETE", token: SERVICE_CREDENTIAL })).status).toBe(204);
  expect((await held.answer).text).toBe('{"messages":null}');
  expect(performance.now() - endedAtMs).toBeLessThan(1_000);
  await send(registered, SERVICE_CREDENTIAL, { to: { user: "gone" }, type: "x0.set-data", data: { "dst-object": "F", payload: { n: 1 } } });
  const { text, tookMs } = await page.poll(token);
  expect(text).toBe('{"messages":null}');
  expect(tookMs).toBeGreaterThan(9_900);
  expect((await page.send(token, "bob", { n: 1 })).body).toMatchObject({ error: true, exception_id: "token-invalid" });
  expect(valuesOf(await tab().poll(registered.token("gone")))).toEqual([{ n: 1 }]);
});

test.concurrent("[X41] registered: a value that is no token of this server's gets nothing: its polls are held and empty, its sends and DEL are refused", {
  timeout: 40_000,
}, async () => {
  await send(registered, SERVICE_CREDENTIAL, { to: { user: "dora" }, type: "x0.set-data", data: { "dst-object": "F", payload: { n: 1 } } });
  const unknown = [
    "dora",
    registered.token("dora").slice(0, -2),
    registered.token("dora", { exp: Math.floor(Date.now() / 1000) - 10 }),
    registered.token("dora", { aud: "another" }),
    registered.token("dora", { scope: "send:user:*" }),
    SERVICE_CREDENTIAL,
    `${"e30".repeat(300)}.e30.x`,
  ];
  await Promise.all(
    unknown.map(async (value, index) => {
      const { status, text, tookMs } = await tab().poll(value);
      expect([status, text], `value ${index}`).toEqual([200, '{"messages":null}']);
      expect(tookMs).toBeGreaterThan(9_900);
    }),
  );
  for (const value of unknown.slice(0, 4)) {
    const sent = await tab().send(value, "dora", { n: 2 });
    expect([sent.status, sent.body.error]).toEqual([200, true]);
    expect(String(sent.body.exception_id)).toMatch(/^token-/);
    expect((await tab().post({ type: "DEL", session_src: value })).body.error).toBe(true);
  }
  const page = tab();
  expect(valuesOf(await page.poll(registered.token("dora")))).toEqual([{ n: 1 }]);
  await page.post({ type: "DEL", session_src: registered.token("dora") });
  expect(await page.glance(registered.token("dora"))).toBeUndefined();
});

test.concurrent("[X42] registered: a token that expires while its poll is held ends the poll, and what comes afterwards is not given to it", async () => {
  const brief = registered.token("brief", { exp: Date.now() / 1000 + 1.2 });
  const page = tab();
  const { text, tookMs } = await page.poll(brief);
  expect(text).toBe('{"messages":null}');
  expect(tookMs).toBeLessThan(5_000);
  await send(registered, SERVICE_CREDENTIAL, { to: { user: "brief" }, type: "x0.set-data", data: { "dst-object": "F", payload: { n: 1 } } });
  expect(await page.glance(brief)).toBeUndefined();
});

test.concurrent("[X43] registered: what a token's scope does not allow is refused in words, and the server's users are the only ones where it knows them", async () => {
  const narrow = registered.token("narrow", { scope: "receive send:user:bob" });
  expect((await tab().send(narrow, "alice", { n: 1 })).body).toMatchObject({ error: true, exception_id: "forbidden" });
  expect((await tab().send(narrow, "bob", { n: 1 })).body).toEqual({ messages: null, status: "ok" });
  const known = await start("memory", { x0: "registered", users: "alice,bob" });
  try {
    const page = new Tab(known.url);
    expect((await page.send(known.token("alice"), "bob", { n: 1 })).body).toEqual({ messages: null, status: "ok" });
    expect((await page.send(known.token("alice"), "nobody", { n: 1 })).body).toMatchObject({ error: true, exception_id: "unknown" });
  } finally {
    await known.stop();
  }
});

test("[X44] what runs code or markup in a page is refused from pages, on x0's wire and on /v1/messages, and nothing of it is stored", async () => {
  const before = [(await demo.server.engine.totals()).accepted, (await registered.server.engine.totals()).accepted];
  const token = registered.token("alice");
  for (const message of RUNNING) {
    for (const [server, session] of [
      [demo, "alice"],
      [registered, token],
    ] as const) {
      const { body } = await tab(server).post(directOf(session, "bob", message));
      expect(body, JSON.stringify(message)).toMatchObject({ error: true, exception_id: "forbidden" });
    }
    const answer = await send(registered, token, { to: { user: "bob" }, type: "x0.message", data: message });
    expect([answer.status, field(answer.body, "code")]).toEqual([403, "forbidden"]);
  }
  expect([(await demo.server.engine.totals()).accepted, (await registered.server.engine.totals()).accepted]).toEqual(before);
});

test("[X44] data that is more than set-data is not given to a page under its type, by whatever way it came", async () => {
  const token = registered.token("alice");
  const page = tab();
  const wrong = [null, "text", [], {}, { "dst-object": 1, payload: {} }, { "dst-object": "F", payload: [] }, { "dst-object": "F" }];
  for (const data of wrong) {
    expect((await send(registered, token, { to: { user: "victim" }, type: "x0.set-data", data })).status).toBe(201);
  }
  const more = {
    "dst-object": "F",
    payload: { n: 1 },
    "fire-events": ["Event1"],
    "msg-type": "net-phone",
    "phonenr-src": "<b>",
    session_src: "mallory",
  };
  await send(registered, token, { to: { user: "victim" }, type: "x0.set-data", data: more });
  expect((await page.poll(registered.token("victim"))).body.messages).toEqual([{ ...setDataOf({ n: 1 }), "dst-object": "F", session_src: "alice" }]);
});

test("[X45] services send every kind, and tokens with the scope x0:any; in demo pages only where HANDOVER_X0_ANY_KIND says so", async () => {
  const receiver = tab();
  // By word, not by the next poll: on a slow machine that may come too late to be taken for it, and the message is given again.
  const acknowledge = () => receiver.post({ type: "DEL", session_src: registered.token("eve") });
  const free = registered.token("alice", { scope: "receive send:user:* x0:any" });
  for (const message of RUNNING) {
    expect((await receiver.post(directOf(free, "eve", message))).body, JSON.stringify(message)).toEqual({ messages: null, status: "ok" });
    expect((await receiver.poll(registered.token("eve"))).body.messages).toEqual([{ ...message, session_src: "alice" }]);
    await acknowledge();
    expect((await send(registered, SERVICE_CREDENTIAL, { to: { user: "eve" }, type: "x0.message", data: message })).status).toBe(201);
    expect((await receiver.poll(registered.token("eve"))).body.messages).toEqual([{ ...message, session_src: "/services/desk" }]);
    await acknowledge();
  }
  const open = await start("memory", { x0: "demo", x0AnyKind: "true" });
  try {
    const page = new Tab(open.url);
    expect((await page.post(directOf("a", "b", RUNNING[0]))).body).toEqual({ messages: null, status: "ok" });
    expect((await page.poll("b")).body.messages).toEqual([{ ...RUNNING[0], session_src: "a" }]);
  } finally {
    await open.stop();
  }
});

test("[X47] mail of other types is left for other receivers, and x0's mail is read by clients of /v1 like any other", async () => {
  const page = tab();
  const others = 40;
  for (let n = 0; n < others; n++) await send(registered, SERVICE_CREDENTIAL, { to: { user: "mixed" }, type: "form.data", data: { n } });
  await tab().send(registered.token("alice"), "mixed", { n: "x0" });
  const got = await page.poll(registered.token("mixed"));
  expect(valuesOf(got)).toEqual([{ n: "x0" }]);
  (await page.begin(pollOf(registered.token("mixed")))).cut();
  const token = registered.token("mixed");
  const settledByPage = async () => {
    const { body } = await call(`${registered.url}/v1/poll`, { token, body: { receiver: `r${Math.random()}`, wait: 0, max: 100 } });
    return (field(body, "deliveries") as unknown[]).map((delivery) => field(field(delivery, "event"), "type"));
  };
  await expect.poll(settledByPage).toEqual(Array.from({ length: others }, () => "form.data"));
  await tab().send(registered.token("alice"), "reader", { n: 1 });
  const { body } = await call(`${registered.url}/v1/poll`, { token: registered.token("reader"), body: { receiver: "r", wait: 0 } });
  expect(field(field((field(body, "deliveries") as unknown[])[0], "event"), "type")).toBe("x0.set-data");
  expect(field(field((field(body, "deliveries") as unknown[])[0], "event"), "data")).toEqual({
    "dst-object": "FormlistExchangeData",
    payload: { n: 1 },
  });
});

test("[X48] demo listens on this machine only, unless HANDOVER_X0_PUBLIC says so, and warns at every start", async () => {
  const failed = (cause: Error) => {
    throw cause;
  };
  const begin = (flags: Partial<Record<SettingKey, string>>): Promise<Server> =>
    startServer(
      loadConfig({ environment: {}, flags: { engine: "memory:", port: "0", tokenSecret: TOKEN_SECRET, logLevel: "silent", ...flags } }),
      failed,
    );
  for (const host of ["0.0.0.0", "::"]) await expect(begin({ x0: "demo", host })).rejects.toThrow(/127\.0\.0\.1 only.*HANDOVER_X0_PUBLIC/);
  for (const flags of [{ x0: "demo", x0Public: "true" }, { x0: "registered" }] as const) {
    const server = await begin({ host: "0.0.0.0", ...flags });
    await server.close();
  }
  const command = await CommandServer.start(await freePort(), "unused", ["--engine", "memory:", "--x0", "demo"]);
  expect(command.output).toMatch(/HANDOVER_X0=demo: whoever reaches this port reads the mail of every x0 session/);
  await command.kill();
});

test("[X49] sessions do not see one another's mail, whatever they send meanwhile", async () => {
  const names = Array.from({ length: 8 }, (_, n) => `apart-${n}`);
  const pages = names.map((name) => ({ name, page: tab(demo), got: [] as unknown[] }));
  await Promise.all(
    pages.map(async ({ name, page, got }, index) => {
      const next = names[(index + 1) % names.length] ?? "";
      for (let n = 0; n < 10; n++) await page.send(name, next, { for: next, n });
      await pause(Math.random() * 20);
      while (new Set(got.map((values) => JSON.stringify(values))).size < 10) got.push(...valuesOf(await page.poll(name)));
    }),
  );
  for (const { name, got } of pages) for (const values of got) expect(field(values, "for")).toBe(name);
});
