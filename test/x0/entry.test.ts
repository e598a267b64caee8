/**
 * How x0's pages come to `/v1`: the script, the token, and whose pages may.
 * @module
 */
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { call, field } from "../../src/testing/wire.ts";
import { CommandServer } from "../support/command.ts";
import { freePort } from "../support/port.ts";
import { ask, expectProblem } from "../support/raw.ts";
import { type Started, start } from "../support/started.ts";
import { Tab } from "./tab.ts";

const APP = "http://x0-app.x0.localnet";
const SCRIPT = "/x0/handover.js";
const SESSION = "/x0/session";
const MAX_GZIP_BYTES = 12.5 * 1024;

let demo: Started;
let registered: Started;
beforeAll(async () => {
  demo = await start("memory", { x0: "demo" });
  registered = await start("memory", { x0: "registered", origins: APP });
});
afterAll(async () => {
  await demo.stop();
  await registered.stop();
});

const askSession = (server: Started, value: unknown, headers: Record<string, string> = { Origin: APP }) =>
  ask(server, { path: SESSION, headers, body: { session_src: value } });

const UPGRADE = {
  method: "GET",
  path: "/v1/ws",
  headers: {
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "handover.v1.json",
  },
} as const;

/** What a token says. */
const claimsOf = (token: unknown) => JSON.parse(Buffer.from(String(token).split(".")[1] ?? "", "base64url").toString());

test("[X60] the script is there for every page, under any name, with HANDOVER_X0 only; it defines nothing and fits its budget", async () => {
  const off = await start("memory");
  const dev = await start("memory", { x0: "demo", dev: "true" });
  const { headers, body } = await call(demo.url + SCRIPT, { headers: { Origin: "http://any.example" } });
  expect([headers.get("content-type"), headers.get("access-control-allow-origin")]).toEqual(["text/javascript; charset=utf-8", "*"]);
  const named = { Host: "x0-msg-server.x0.localnet:8080", "If-None-Match": headers.get("etag") ?? "" };
  try {
    for (const server of [demo, registered, dev]) expect((await ask(server, { method: "GET", path: SCRIPT, headers: named })).status).toBe(304);
    for (const path of [SCRIPT, SESSION]) expect((await call(off.url + path)).status, path).toBe(404);
    expect((await askSession(off, "a")).status).toBe(404);
  } finally {
    await off.stop();
    await dev.stop();
  }
  const script = String(body);
  const bytes = gzipSync(script, { level: 9 }).length;
  console.log(`x0's script: ${bytes} bytes gzipped`);
  expect(bytes).toBeLessThan(MAX_GZIP_BYTES);
  expect(script).toMatch(/^\(function\(\) ?\{/);
  // Newer than es2020: logical assignment, private members, class fields.
  expect(script).not.toMatch(/\?\?=|\|\|=|&&=|\.#|static\{/);
});

test("[X61] demo: a page is given a token of the user and session that x0's wire takes its value for, for a while", async () => {
  for (const value of ["plain-1", "ä b/c", "x".repeat(365)]) {
    const { status, headers, body } = await askSession(demo, value);
    expect([status, headers.get("access-control-allow-origin")], value).toEqual([201, "*"]);
    const { sub, sid, scope, exp } = claimsOf(field(body, "token"));
    expect([sid, scope], value).toEqual([sub, "receive send:user:*"]);
    expect(exp * 1000).toBe(Date.parse(String(field(body, "expires"))));
    // A token ends at a whole second.
    expect(exp * 1000 - Date.now()).toBeLessThanOrEqual(demo.config.sessionTtlMs + 1_000);
    // What x0's wire sends to that value comes to that token.
    expect((await new Tab(demo.url).send("somebody", value, { to: value })).body.status).toBe("ok");
    const got = await call(`${demo.url}/v1/poll`, { token: String(field(body, "token")), body: { receiver: "r", wait: 0 } });
    expect(JSON.stringify(got.body), value).toContain(JSON.stringify({ payload: { to: value } }).slice(1, -1));
  }
  const open = await start("memory", { x0: "demo", x0AnyKind: "true" });
  const noSecret = await start("memory", { x0: "demo", tokenSecret: "", jwksUrl: "http://127.0.0.1:1/" });
  try {
    expect(claimsOf(field((await askSession(open, "a")).body, "token")).scope).toBe("receive send:user:* x0:any");
    expectProblem(await askSession(noSecret, "a"), "unsupported");
  } finally {
    await open.stop();
    await noSecret.stop();
  }
  for (const body of [{}, { session_src: "" }, { session_src: null }, { session_src: "x".repeat(9_000) }, []])
    expectProblem(await ask(demo, { path: SESSION, headers: { Origin: APP }, body }), "bad-request", JSON.stringify(body));
});

test("[X61] registered: the value is the token; a page of an origin that may not use /v1 is told so, and what to do", async () => {
  const { status, body, headers } = await askSession(registered, registered.token("alice"));
  expect([status, body, headers.get("access-control-allow-origin")]).toEqual([204, undefined, "*"]);
  const unset = await start("memory", { x0: "registered" });
  const listed = await start("memory", { x0: "demo", origins: "https://app.example.com" });
  try {
    for (const server of [unset, listed]) {
      const answer = await askSession(server, "a");
      expectProblem(answer, "forbidden");
      expect(String(field(answer.body, "detail"))).toMatch(/x0-app\.x0\.localnet.*HANDOVER_ORIGINS/);
      // Or the page could not read it.
      expect(answer.headers.get("access-control-allow-origin")).toBe("*");
    }
    // A page of the server's own.
    const own = new URL(unset.url).host;
    expect((await askSession(unset, "a", { Origin: `http://${own}` })).status).toBe(204);
  } finally {
    await unset.stop();
    await listed.stop();
  }
  const preflight = await ask(registered, {
    method: "OPTIONS",
    path: SESSION,
    headers: { Origin: "http://any.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type" },
  });
  expect([preflight.status, preflight.headers.get("access-control-allow-origin"), preflight.headers.get("access-control-allow-headers")]).toEqual([
    204,
    "*",
    "*",
  ]);
});

test("[X62] demo without HANDOVER_ORIGINS: pages of every origin may use /v1 with a bearer token, never with the cookie, and nothing else", async () => {
  const dev = await start("memory", { x0: "demo", dev: "true" });
  try {
    for (const [server, host] of [
      [demo, new URL(demo.url).host],
      // Development mode answers to loopback names elsewhere.
      [dev, "x0-msg-server.x0.localnet:8080"],
    ] as const) {
      const token = String(field((await askSession(server, "anybody", { Origin: APP, Host: host })).body, "token"));
      for (const origin of [APP, "https://x0-app.x0.localnet", "null"]) {
        const page = { Host: host, Origin: origin };
        const preflight = { ...page, "Access-Control-Request-Method": "POST" };
        const allowed = (answer: { readonly headers: Headers }) =>
          ["access-control-allow-origin", "access-control-allow-credentials"].map((name) => answer.headers.get(name));
        const asked = await ask(server, { method: "OPTIONS", headers: preflight });
        expect([asked.status, ...allowed(asked)], origin).toEqual([204, "*", null]);
        expect(asked.headers.get("access-control-allow-headers")).toContain("Authorization");
        const polled = await ask(server, { headers: { ...page, Authorization: `Bearer ${token}` } });
        expect([polled.status, ...allowed(polled)], origin).toEqual([204, "*", null]);
        expectProblem(await ask(server, { headers: { ...page, Cookie: `handover=${token}` } }), "token-invalid", origin);
        expectProblem(await ask(server, { path: "/v1/cookie", headers: { ...page, Authorization: `Bearer ${token}` } }), "forbidden", origin);
        const upgraded = await ask(server, { ...UPGRADE, headers: { ...UPGRADE.headers, ...page, Cookie: `handover=${token}` } });
        expect(upgraded.status, origin).toBe(101);
        for (const path of ["/metrics", "/livez", "/demo/session"]) {
          const other = await ask(server, { method: "OPTIONS", path, headers: { ...preflight, Host: new URL(server.url).host } });
          expect([other.status, ...allowed(other)], path).toEqual([404, null, null]);
        }
        expect(allowed(await ask(server, { method: "GET", path: "/livez", headers: { Origin: origin } }))).toEqual([null, null]);
      }
    }
    expectProblem(await ask(dev, { method: "GET", path: "/livez", headers: { Host: "x0-msg-server.x0.localnet:8080" } }), "forbidden");
  } finally {
    await dev.stop();
  }
});

test("[X62] with HANDOVER_ORIGINS, and in registered mode, only the pages of the list may", async () => {
  const listed = await start("memory", { x0: "demo", origins: "https://app.example.com" });
  const unset = await start("memory", { x0: "registered" });
  try {
    for (const server of [listed, unset, registered]) {
      const headers = { Origin: "http://another.example", "Access-Control-Request-Method": "POST" };
      const preflight = await ask(server, { method: "OPTIONS", headers });
      expect([preflight.status, preflight.headers.get("access-control-allow-origin")]).toEqual([404, null]);
      expect((await ask(server, { ...UPGRADE, headers: { ...UPGRADE.headers, Origin: "http://another.example" } })).status).toBe(403);
    }
    const { status, headers } = await ask(registered, { method: "OPTIONS", headers: { Origin: APP, "Access-Control-Request-Method": "POST" } });
    expect([status, headers.get("access-control-allow-origin")]).toEqual([204, APP]);
  } finally {
    await listed.stop();
    await unset.stop();
  }
});

test("[X62] the start says whose pages may: in demo that every page can be any user, in registered what is missing", async () => {
  const said = async (...flags: string[]) => {
    const command = await CommandServer.start(await freePort(), "unused", ["--engine", "memory:", ...flags]);
    await command.kill();
    return command.output;
  };
  expect(await said("--x0", "demo")).toMatch(
    /HANDOVER_X0=demo: whoever reaches this port .* can be any user; so can every page that a browser shows/,
  );
  expect(await said("--x0", "demo", "--origins", APP)).not.toMatch(/so can every page/);
  expect(await said("--x0", "registered")).toMatch(/HANDOVER_ORIGINS is not set: x0's pages poll as ever/);
  expect(await said("--x0", "registered", "--origins", APP)).not.toMatch(/HANDOVER_ORIGINS is not set/);
});
