/**
 * The cookie, and whose pages may use the server (RELIABILITY.md, R24).
 * @module
 */
import { afterEach, expect, test } from "vitest";
import { type Answer, call, FrameSocket, field } from "../src/testing/wire.ts";
import { ask, expectProblem } from "./support/raw.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "./support/started.ts";

const APP = "https://app.example.com";
const running: Started[] = [];
afterEach(async () => {
  for (const server of running.splice(0)) await server.stop();
});
async function started(origins = ""): Promise<Started> {
  const server = await start("memory", { origins });
  running.push(server);
  return server;
}

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

test("[H75] POST /v1/cookie keeps a user's token in the browser until it ends, for /v1 and not for scripts; DELETE removes it", async () => {
  const server = await started(`${APP}, https://www.example.com, http://lan.example`);
  const token = server.token("alice");
  const { host } = new URL(server.url);
  const make = (headers: Record<string, string | undefined> = {}) => ask(server, { path: "/v1/cookie", headers: { ...bearer(token), ...headers } });
  const attributes = async (answer: Promise<Answer>, value = token) => {
    const { status, headers } = await answer;
    const [pair, ...rest] = (headers.get("set-cookie") ?? "").split("; ");
    expect([status, pair]).toEqual([204, `handover=${value}`]);
    expect(rest).toContain("HttpOnly");
    expect(rest).toContain("Path=/v1");
    const seconds = Number(rest.find((each) => each.startsWith("Max-Age="))?.slice(8));
    return { seconds, rest: rest.filter((each) => /^(SameSite|Secure|Domain|Partitioned)/.test(each)) };
  };

  const plain = await attributes(make());
  expect(plain.rest).toEqual(["SameSite=Strict"]);
  expect(plain.seconds).toBeGreaterThan(3_500);
  expect(plain.seconds).toBeLessThanOrEqual(3_600);
  for (const [headers, expected] of [
    [{ Origin: APP }, ["SameSite=None", "Secure", "Partitioned"]],
    [{ Origin: APP, "Sec-Fetch-Site": "cross-site" }, ["SameSite=None", "Secure", "Partitioned"]],
    [{ Origin: APP, "Sec-Fetch-Site": "same-site" }, ["SameSite=Strict", "Secure"]],
    [{ Origin: APP, "Sec-Fetch-Site": "same-origin" }, ["SameSite=Strict", "Secure"]],
    [{ Origin: "https://www.example.com", Host: "www.example.com" }, ["SameSite=Strict", "Secure"]],
    [{ Origin: "http://lan.example" }, ["SameSite=Strict"]],
    [{ Origin: "http://lan.example", "Sec-Fetch-Site": "same-site" }, ["SameSite=Strict"]],
  ] as const) {
    expect((await attributes(make(headers))).rest, JSON.stringify(headers)).toEqual(expected);
    const removed = await attributes(ask(server, { method: "DELETE", path: "/v1/cookie", headers }), "");
    expect([removed.seconds, removed.rest], JSON.stringify(headers)).toEqual([0, expected]);
  }
  expectProblem(await make({ Origin: "http://lan.example", "Sec-Fetch-Site": "cross-site" }), "invalid", "no browser would keep it");

  for (const origin of ["https://evil.example", `http://${host}`, "null"]) {
    const refused = await make({ Origin: origin });
    expectProblem(refused, "forbidden", origin);
    expect(refused.headers.get("set-cookie")).toBeNull();
    expectProblem(await ask(server, { method: "DELETE", path: "/v1/cookie", headers: { Origin: origin } }), "forbidden", origin);
  }
  expectProblem(await make(bearer(SERVICE_CREDENTIAL)), "forbidden", "a service key");
  expectProblem(await make({ Authorization: undefined }), "token-invalid", "no token");
  expectProblem(await make({ Authorization: undefined, Cookie: `handover=${token}`, Origin: APP }), "token-invalid", "a cookie from a cookie");
  const long = server.token("alice", { more: "x".repeat(3_000) });
  expectProblem(await make(bearer(long)), "invalid", "larger than browsers keep");
});

test("[H76] the cookie counts for requests of allowed pages only, and a bearer token wins over it", async () => {
  for (const origins of ["", APP]) {
    const server = await started(origins);
    const { host } = new URL(server.url);
    const allowed = origins === "" ? `http://${host}` : APP;
    const Cookie = `theme=dark; handover=${server.token("alice")}; handover2=x`;
    const status = async (headers: Record<string, string>) => {
      const answer = await ask(server, { headers: { Cookie, ...headers } });
      if (answer.status !== 204) expectProblem(answer, "token-invalid", JSON.stringify(headers));
      return answer.status;
    };
    for (const [headers, expected] of [
      [{ Origin: allowed }, 204],
      [{ Origin: allowed, "Sec-Fetch-Site": "cross-site" }, 204],
      [{ "Sec-Fetch-Site": "same-origin" }, 204],
      [{ Referer: `${allowed}/page?x=1` }, 204],
      [{}, 401],
      [{ Origin: "https://evil.example" }, 401],
      [{ Origin: "null" }, 401],
      [{ Origin: "https://evil.example", "Sec-Fetch-Site": "same-origin" }, 401],
      [{ Origin: "https://evil.example", Referer: `${allowed}/` }, 401],
      [{ "Sec-Fetch-Site": "same-site" }, 401],
      [{ "Sec-Fetch-Site": "cross-site" }, 401],
      [{ "Sec-Fetch-Site": "none" }, 401],
      [{ "Sec-Fetch-Site": "cross-site", Referer: `${allowed}/` }, 401],
      [{ Referer: "https://evil.example/" }, 401],
      [{ Referer: `https://evil.example/?${allowed}/` }, 401],
      [{ Referer: `${allowed}.evil.example/` }, 401],
      [{ Referer: "nothing" }, 401],
    ] as const) {
      expect(await status(headers), `${origins} ${JSON.stringify(headers)}`).toBe(expected);
    }
    const good = { Origin: allowed };
    // Whoever sends Authorization is asking by it, right or wrong.
    expectProblem(await ask(server, { headers: { Cookie, ...good, ...bearer("wrong") } }), "token-invalid", "a wrong bearer token");
    expectProblem(await ask(server, { headers: { Cookie, ...good, Authorization: "Basic eA==" } }), "token-invalid", "another scheme");
    const sent = await ask(server, {
      path: "/v1/messages",
      headers: { Cookie, ...good, ...bearer(server.token("carol")) },
      body: { to: { user: "bob" }, type: "t" },
    });
    expect(sent.status).toBe(201);
    const polled = await ask(server, { headers: { Cookie: `handover=${server.token("bob")}`, ...good } });
    const { epoch, cursor, deliveries } = polled.body as { epoch: string; cursor: number; deliveries: unknown[] };
    expect(field(field(deliveries[0], "event"), "source")).toBe("/users/carol");
    const ack = { path: "/v1/ack", body: { receiver: "r", epoch, cursor, upto: cursor } };
    expectProblem(await ask(server, { ...ack, headers: { Cookie: `handover=${server.token("bob")}` } }), "token-invalid", "an ack without Origin");
    expect((await ask(server, { ...ack, headers: { Cookie: `handover=${server.token("bob")}`, ...good } })).body).toEqual({ acked: 1 });
  }
});

test("[H76] a cookie that comes twice, holds no user's token, or is there instead of a hello's token, does not count", async () => {
  const server = await started();
  const { host } = new URL(server.url);
  const token = server.token("alice");
  const good = { Origin: `http://${host}` };
  const poll = (Cookie: string) => ask(server, { headers: { ...good, Cookie } });
  expect((await poll(`handover=${token}`)).status).toBe(204);
  for (const twice of [
    `handover=${token}; handover=${token}`,
    `handover=${token};handover=x`,
    `handover=; x=1; handover=${token}`,
    `handover=${token}\r\nCookie: handover=${token}`,
  ])
    expectProblem(await poll(twice), "bad-request", twice.slice(0, 30));
  const expired = server.token("alice", { exp: Math.floor(Date.now() / 1000) - 1 });
  expectProblem(await poll(`handover=${expired}`), "token-expired");
  for (const wrong of [
    "handover=",
    "handover",
    `Handover=${token}`,
    `xhandover=${token}`,
    `handover=${token}x`,
    `handover="${token}"`,
    `x=handover=${token}`,
  ])
    expectProblem(await poll(wrong), "token-invalid", wrong.slice(0, 30));
  const key = await ask(server, {
    path: "/v1/messages",
    headers: { ...good, Cookie: `handover=${SERVICE_CREDENTIAL}` },
    body: { to: { user: "b" }, type: "t" },
  });
  expectProblem(key, "token-invalid", "a service key");
  const plain = await ask(server, { path: "/v1/messages", headers: { ...good, Cookie: `handover=${token}`, "Content-Type": "text/plain" } });
  expectProblem(plain, "unsupported-media", "what a form of any page can send");

  const socket = new FrameSocket(server.url, { Cookie: `handover=${token}`, ...good });
  await socket.opened();
  socket.write({ op: "hello", receiver: "r" });
  await socket.inbox.until(() => socket.inbox.end !== undefined, "the end");
  expect(socket.inbox.end).toBe(4400);
});

/** What a page's `Origin` can be, and whether `https://app.example.com, http://localhost:3000` allows it. */
const ORIGINS: readonly (readonly [string | undefined, boolean])[] = [
  [APP, true],
  ["http://localhost:3000", true],
  [undefined, false],
  ["null", false],
  ["", false],
  ["*", false],
  ["https://evil.example", false],
  ["http://evil.example", false],
  ["https://app.example.com.evil", false],
  ["https://app.example.com.evil.example", false],
  ["https://evilapp.example.com", false],
  ["https://evil.app.example.com", false],
  ["https://example.com", false],
  ["https://appXexample.com", false],
  ["http://app.example.com", false],
  ["wss://app.example.com", false],
  ["https://app.example.com:443", false],
  ["https://app.example.com:8443", false],
  ["https://APP.example.com", false],
  ["HTTPS://app.example.com", false],
  ["https://app.example.com.", false],
  ["https://app.example.com/", false],
  ["https://evil.example@app.example.com", false],
  ["https://app.example.com, https://evil.example", false],
  ["http://localhost", false],
  ["http://localhost:30000", false],
  ["http://127.0.0.1:3000", false],
  ["file://", false],
];

test("[H77] only exact entries of the list are answered as allowed, on upgrade, poll, send, cookie and preflight, whatever the origin looks like", async () => {
  const server = await started(`${APP}, http://localhost:3000`);
  const { host } = new URL(server.url);
  const token = server.token("alice");
  const upgrade = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==" };
  const send = { path: "/v1/messages", body: { to: { user: "bob" }, type: "t" } };
  const own = [`http://${host}`, `https://${host}`].map((origin) => [origin, false] as const);
  const all = [...ORIGINS, ...own];
  expect(all.filter(([, isAllowed]) => !isAllowed).length).toBeGreaterThanOrEqual(24);
  for (const [origin, isAllowed] of all) {
    const what = String(origin);
    const headers = { Origin: origin };
    const withCookie = { ...headers, Cookie: `handover=${token}` };
    const answers = {
      poll: await ask(server, { headers: withCookie }),
      send: await ask(server, { ...send, headers: withCookie }),
      "send with a bearer token": await ask(server, { ...send, headers: { ...headers, ...bearer(token) } }),
      cookie: await ask(server, { path: "/v1/cookie", headers: { ...headers, ...bearer(token) } }),
      "cookie removed": await ask(server, { method: "DELETE", path: "/v1/cookie", headers }),
      preflight: await ask(server, { method: "OPTIONS", path: "/v1/messages", headers: { ...headers, "Access-Control-Request-Method": "POST" } }),
      "preflight of a page": await ask(server, {
        method: "OPTIONS",
        path: "/handover.js",
        headers: { ...headers, "Access-Control-Request-Method": "GET" },
      }),
    };
    const upgraded = await ask(server, {
      method: "GET",
      path: "/v1/ws",
      headers: { ...headers, ...upgrade, "Sec-WebSocket-Protocol": "handover.v1.json" },
    });
    // Not a page's: a token in Authorization or in hello is all it takes, and a cookie is nothing.
    const isNoPage = origin === undefined;
    expect([upgraded.status, answers.poll.status, answers.send.status, answers.cookie.status, answers["cookie removed"].status], what).toEqual(
      isAllowed ? [101, 204, 201, 204, 204] : isNoPage ? [101, 401, 401, 204, 204] : [403, 401, 401, 403, 403],
    );
    expect(answers["send with a bearer token"].status, what).toBe(201);
    expect(answers.preflight.status, what).toBe(isAllowed ? 204 : 404);
    for (const [which, answer] of Object.entries(answers)) {
      const allow = ["access-control-allow-origin", "access-control-allow-credentials"].map((name) => answer.headers.get(name));
      expect(allow, `${which} for ${what}`).toEqual(isAllowed ? [origin, "true"] : [null, null]);
      expect(answer.headers.get("vary"), `${which} for ${what}`).toBe("Origin");
      if (!isAllowed && !isNoPage) expect(answer.headers.get("set-cookie"), `${which} for ${what}`).toBeNull();
    }
  }
  const preflight = await ask(server, { method: "OPTIONS", headers: { Origin: APP, "Access-Control-Request-Method": "POST" } });
  expect(preflight.headers.get("access-control-allow-headers")).toContain("Last-Event-ID");
  const script = await call(`${server.url}/handover.js`, { headers: { Origin: APP } });
  // It is for every page, so it allows nobody credentials.
  expect(script.headers.get("access-control-allow-credentials")).toBeNull();
});

test("[H77] without a list, only the server's own origin is allowed, and nobody is answered with CORS headers", async () => {
  const server = await started();
  const { host, port } = new URL(server.url);
  const poll = (origin: string) => ask(server, { headers: { Origin: origin, Cookie: `handover=${server.token("alice")}` } });
  for (const origin of [`http://${host}`, `https://${host}`]) expect((await poll(origin)).status, origin).toBe(204);
  for (const origin of [`http://localhost:${port}`, "http://127.0.0.1", `http://${host}.evil`, `ws://${host}`, "null", APP, ""]) {
    const answer = await poll(origin);
    expectProblem(answer, "token-invalid", origin);
    expect(answer.headers.get("access-control-allow-origin")).toBeNull();
  }
});
