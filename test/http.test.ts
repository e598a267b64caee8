/**
 * Bad input of every kind: each gets the problem document with its code, and nothing is stored or lost by it.
 * @module
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { call, field, signToken } from "../src/testing/wire.ts";
import { expectProblem, raw } from "./support/raw.ts";
import { SERVICE_CREDENTIAL, type Started, start, TOKEN_SECRET } from "./support/started.ts";

let started: Started;
beforeAll(async () => {
  started = await start("memory");
});
afterAll(() => started.stop());

const GOOD = { to: { user: "bob" }, type: "test", data: 1 };

const post = (body: unknown, headers: Record<string, string> = {}, token = started.token("alice")) =>
  call(`${started.url}/v1/messages`, { method: "POST", token, body, headers });

/** Runs the body and expects that the store is as before. */
async function storesNothing(body: () => Promise<void>): Promise<void> {
  const before = await started.server.engine.totals();
  await body();
  expect(await started.server.engine.totals()).toEqual(before);
}

function nested(levels: number): string {
  return "[".repeat(levels) + "]".repeat(levels);
}

describe("bodies", () => {
  test("[H1] what is not JSON is refused with bad-request, whatever is wrong with it", () =>
    storesNothing(async () => {
      const bodies = [
        "{",
        "nope",
        "{'to':1}",
        `${JSON.stringify(GOOD)}x`,
        '{"to":{"user":"bob"},"type":"t","data":NaN}',
        '{"to":{"user":"bob"},"type":"t","data":01}',
        '{"to":{"user":"bob"},"type":"t","data":"\t"}',
        `\ufeff${JSON.stringify(GOOD)}`,
        "[1,]",
        "[".repeat(500_000),
      ];
      for (const body of bodies) expectProblem(await post(body), "bad-request", body.slice(0, 60));
      expectProblem(await post(""), "bad-request", "an empty body");
      const token = started.token("alice");
      const head = `POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: `;
      const notUtf8 = Buffer.from('{"to":{"user":"bob"},"type":"t","data":"\xff"}', "latin1");
      expectProblem(await raw(started.url, [`${head}${notUtf8.length}\r\n\r\n`, notUtf8]), "bad-request", "not UTF-8");
      const halfSurrogate = Buffer.concat([
        Buffer.from('{"to":{"user":"bob"},"type":"t","data":"'),
        Buffer.from([0xed, 0xa0, 0x80]),
        Buffer.from('"}'),
      ]);
      expectProblem(await raw(started.url, [`${head}${halfSurrogate.length}\r\n\r\n`, halfSurrogate]), "bad-request", "a surrogate as UTF-8");
    }));

  test("[H2] an envelope with a wrong type, a field missing or a field unknown is refused, and the answer names the place", () =>
    storesNothing(async () => {
      const wrong: readonly (readonly [unknown, RegExp])[] = [
        [null, /./],
        [7, /./],
        ["text", /./],
        [true, /./],
        [{}, /to/],
        [{ type: "t" }, /to/],
        [{ to: { user: "bob" } }, /type/],
        [{ ...GOOD, to: {} }, /to/],
        [{ ...GOOD, to: "bob" }, /to/],
        [{ ...GOOD, to: null }, /to/],
        [{ ...GOOD, to: { user: 7 } }, /to\/user/],
        [{ ...GOOD, to: { user: "" } }, /to\/user/],
        [{ ...GOOD, to: { user: "bob smith" } }, /A-Z a-z 0-9/],
        [{ ...GOOD, to: { user: "b".repeat(129) } }, /to\/user/],
        [{ ...GOOD, to: { user: "böb" } }, /to\/user/],
        [{ ...GOOD, to: { user: "bob", users: ["carol"] } }, /to/],
        [{ ...GOOD, to: { users: [] } }, /users/],
        [{ ...GOOD, to: { users: ["bob", ""] } }, /users\/1/],
        [{ ...GOOD, to: { users: Array.from({ length: 1_001 }, (_, n) => `u${n}`) } }, /users/],
        [{ ...GOOD, to: { everybody: true } }, /everybody/],
        [{ ...GOOD, type: 7 }, /type/],
        [{ ...GOOD, type: "" }, /type/],
        [{ ...GOOD, type: "t".repeat(256) }, /type/],
        [{ ...GOOD, type: "a\nb" }, /type/],
        [{ ...GOOD, type: "\ud800" }, /type/],
        [{ ...GOOD, subject: 5 }, /subject/],
        [{ ...GOOD, subject: "half \udc00" }, /subject/],
        [{ ...GOOD, correlationid: "\u0000" }, /correlationid/],
        [{ ...GOOD, replyto: {} }, /replyto/],
        [{ ...GOOD, receipt: "yes" }, /receipt/],
        [{ ...GOOD, ttl: -1 }, /ttl/],
        [{ ...GOOD, ttl: 1.5 }, /ttl/],
        [{ ...GOOD, ttl: "60" }, /ttl/],
        [{ ...GOOD, ttl: null }, /ttl/],
        [{ ...GOOD, ttl: 1e15 }, /ttl/],
        [{ ...GOOD, urgency: "urgent" }, /urgency/],
        [{ ...GOOD, topic: "a b" }, /topic/],
        [{ ...GOOD, topic: "t".repeat(33) }, /topic/],
        [{ ...GOOD, idempotencyKey: "" }, /idempotencyKey/],
        [{ ...GOOD, idempotencyKey: "k\ud83d" }, /idempotencyKey/],
        [{ ...GOOD, idempotencyKey: 7 }, /idempotencyKey/],
        [{ ...GOOD, colour: "red" }, /colour/],
        [{ ...GOOD, id: "mine" }, /id/],
        [{ ...GOOD, source: "/users/eve" }, /source/],
        [{ ...GOOD, time: "2020-01-01T00:00:00Z" }, /time/],
        [{ ...GOOD, specversion: "1.0" }, /specversion/],
        [{ ...GOOD, constructor: 1 }, /constructor/],
        ['{"__proto__":{"type":"t"},"to":{"user":"bob"},"type":"t"}', /__proto__/],
        ['{"to":{"user":"bob","__proto__":{}},"type":"t"}', /__proto__/],
      ];
      for (const [body, place] of wrong) {
        const answer = await post(typeof body === "string" && !body.startsWith("{") ? JSON.stringify(body) : body === null ? "null" : body);
        expectProblem(answer, "bad-request", JSON.stringify(body)?.slice(0, 100));
        expect(field(answer.body, "detail")).toMatch(place);
      }
    }));

  test("[H3] data that could not be handed over unchanged is refused: 33 levels, __proto__, 1e400, lone surrogates", async () => {
    await storesNothing(async () => {
      const wrong = [
        nested(33),
        `{"a":${nested(32)}}`,
        nested(100_000),
        '{"__proto__":1}',
        '[{"x":{"__proto__":{"admin":true}}}]',
        "1e400",
        "[-1e400]",
        '{"n":1e309}',
        '"\\ud800"',
        '["a\\udfffb"]',
        '{"\\ud83d":1}',
        '"\\udc00\\ud800"',
      ];
      for (const data of wrong) {
        const answer = await post(`{"to":{"user":"bob"},"type":"t","data":${data}}`);
        expectProblem(answer, "bad-request", data.slice(0, 60));
        expect(field(answer.body, "detail")).toMatch(/^data holds /);
      }
    });
    for (const data of [nested(32), "-0", '"\\ud83d\\ude00"', "1e308", "5e-324"]) {
      expect((await post(`{"to":{"user":"depth"},"type":"t","data":${data}}`)).status, data).toBe(201);
    }
  });

  test("[H4] a message of more than 256 KiB and a body of more than 1 MiB are refused with too-large; the limit itself is not", async () => {
    let fits = 0;
    await storesNothing(async () => {
      const answer = await post({ ...GOOD, data: "ä".repeat(200_000) });
      expectProblem(answer, "too-large");
      const [, bytes] = /is (\d+) bytes as an event; at most 262144/.exec(String(field(answer.body, "detail"))) ?? [];
      fits = 400_000 - (Number(bytes) - 262_144);
      expectProblem(await post({ ...GOOD, data: "x".repeat(fits + 1) }), "too-large", "one byte more");
      expectProblem(await post({ ...GOOD, data: "x".repeat(1_048_576) }), "too-large", "a body of more than 1 MiB");
      const head = `POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${started.token("alice")}\r\nContent-Type: application/json\r\n`;
      expectProblem(await raw(started.url, `${head}Content-Length: 1048577\r\n\r\n`), "too-large", "said to be too large");
      const chunk = `10000\r\n${" ".repeat(65_536)}\r\n`;
      expectProblem(await raw(started.url, `${head}Transfer-Encoding: chunked\r\n\r\n${chunk.repeat(17)}`), "too-large", "without saying so");
    });
    expect((await post({ ...GOOD, to: { user: "large" }, data: "x".repeat(fits) })).status).toBe(201);
  });

  test("[H5] polls, acknowledgements and sessions are checked like messages", () =>
    storesNothing(async () => {
      const token = started.token("alice");
      const wrong: readonly (readonly [string, readonly unknown[]])[] = [
        [
          "poll",
          [
            {},
            [],
            { receiver: "" },
            { receiver: "a b" },
            { receiver: 7 },
            { receiver: "r", cursor: -1 },
            { receiver: "r", cursor: 1.5 },
            { receiver: "r", cursor: "1" },
            { receiver: "r", cursor: 2 ** 60 },
            { receiver: "r", epoch: "a b" },
            { receiver: "r", epoch: "" },
            { receiver: "r", epoch: "e".repeat(65) },
            { receiver: "r", wait: -1 },
            { receiver: "r", wait: 61 },
            { receiver: "r", wait: "10" },
            { receiver: "r", max: 0 },
            { receiver: "r", max: 1.5 },
            { receiver: "r", ack: [] },
            { receiver: "r", ack: { seq: 1 } },
            { receiver: "r", ack: { seqs: [-1] } },
            { receiver: "r", ack: { nack: [1] } },
            { receiver: "r", token },
          ],
        ],
        [
          "ack",
          [
            {},
            { receiver: "r" },
            { receiver: "r", epoch: "e", upto: -1 },
            { receiver: "r", epoch: "e", upto: "1" },
            { receiver: "r", epoch: "e", seqs: 1 },
            { receiver: "r", epoch: "e", seqs: Array.from({ length: 10_001 }, () => 1) },
            { receiver: "r", epoch: "e", nack: [{ seq: 1, retryAfter: -1 }] },
            { receiver: "r", epoch: "e", nack: [{ seq: 1, retryAfter: 86_401 }] },
            { receiver: "r", epoch: "e", nack: [{ retryAfter: 1 }] },
            { receiver: "r", epoch: "e", reject: [{ seq: 1, reason: 7 }] },
            { receiver: "r", epoch: "e", hold: [null] },
            { receiver: "r", epoch: "e", everything: true },
          ],
        ],
      ];
      for (const [route, bodies] of wrong) {
        for (const body of bodies) expectProblem(await call(`${started.url}/v1/${route}`, { token, body }), "bad-request", JSON.stringify(body));
        expectProblem(await call(`${started.url}/v1/${route}`, { method: "POST", token }), "bad-request", "no body");
      }
      for (const body of [
        {},
        { user: "" },
        { user: "bob", ttl: 0 },
        { user: "bob", ttl: 1.5 },
        { user: "bob", scope: [] },
        { user: "bob", admin: 1 },
      ]) {
        expectProblem(await call(`${started.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body }), "bad-request", JSON.stringify(body));
      }
      const tooLong = await call(`${started.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user: "bob", ttl: 31_536_001 } });
      expectProblem(tooLong, "invalid", "a session of more than a year");
    }));

  test("[H6] a body that is not application/json is refused with unsupported-media, a compressed one too", () =>
    storesNothing(async () => {
      for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx", "json"]) {
        expectProblem(await post(GOOD, { "Content-Type": type }), "unsupported-media", type);
      }
      for (const encoding of ["gzip", "br", "deflate", "aes128gcm"]) {
        expectProblem(await post(GOOD, { "Content-Encoding": encoding }), "unsupported-media", encoding);
      }
      const untyped = `POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${started.token("alice")}\r\nContent-Length: 2\r\n\r\n{}`;
      expectProblem(await raw(started.url, untyped), "unsupported-media", "no type");
    }));

  test("[H7] application/json is taken with its parameters and in any case", async () => {
    for (const type of ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]) {
      expect((await post({ ...GOOD, to: { user: "typed" } }, { "Content-Type": type })).status, type).toBe(201);
    }
  });
});

describe("who asks", () => {
  const now = () => Math.floor(Date.now() / 1000);

  test("[H102] a request that needs no body is taken with an empty one that is called JSON; one that needs a body is not", async () => {
    const json = { "Content-Type": "application/json" };
    const { id } = (await post(JSON.stringify(GOOD))).body as { id: string };
    const token = started.token("alice");
    const taken = await call(`${started.url}/v1/messages/${id}`, { method: "DELETE", token, headers: json });
    expect([taken.status, taken.body]).toEqual([200, { evicted: 1 }]);
    expect((await call(`${started.url}/v1/sessions/over`, { method: "DELETE", token: SERVICE_CREDENTIAL, headers: json })).status).toBe(204);
    expect((await call(`${started.url}/v1/cookie`, { method: "POST", token, headers: json })).status).toBe(204);
    expect((await call(`${started.url}/v1/cookie`, { method: "DELETE", headers: json })).status).toBe(204);
    for (const path of ["messages", "poll", "ack"])
      expectProblem(await call(`${started.url}/v1/${path}`, { method: "POST", token, headers: json }), "bad-request", path);
    expectProblem(await call(`${started.url}/v1/sessions`, { method: "POST", token: SERVICE_CREDENTIAL, headers: json }), "bad-request", "sessions");
  });

  test("[H8] without a token, or with one that is not valid here, every route says 401 and nothing is stored", () =>
    storesNothing(async () => {
      const claims = { sub: "alice", sid: "s", aud: "handover", exp: now() + 600 };
      const { sub: _sub, ...noSub } = claims;
      const { sid: _sid, ...noSid } = claims;
      const { exp: _exp, ...noExp } = claims;
      const { aud: _aud, ...noAud } = claims;
      const good = signToken(TOKEN_SECRET, claims);
      const [head, body, signature] = good.split(".");
      const other = Buffer.from(JSON.stringify({ ...claims, sub: "admin" })).toString("base64url");
      const wrong: Record<string, string> = {
        "alg none, unsigned": `${Buffer.from('{"alg":"none"}').toString("base64url")}.${body}.`,
        "alg none, signed": signToken(TOKEN_SECRET, claims, { alg: "none" }),
        "alg None": signToken(TOKEN_SECRET, claims, { alg: "None", typ: "JWT" }),
        HS512: signToken(TOKEN_SECRET, claims, { alg: "HS512", typ: "JWT" }),
        "RS256 signed with the secret": signToken(TOKEN_SECRET, claims, { alg: "RS256" }),
        "no alg": signToken(TOKEN_SECRET, claims, { typ: "JWT" }),
        "an unknown crit": signToken(TOKEN_SECRET, claims, { alg: "HS256", crit: ["x"], x: 1 }),
        "another secret": signToken(`${TOKEN_SECRET}!`, claims),
        "empty secret": signToken("", claims),
        "an empty signature": `${head}.${body}.`,
        "no signature": `${head}.${body}`,
        "changed claims": `${head}.${other}.${signature}`,
        "a cut signature": good.slice(0, -2),
        "another audience": signToken(TOKEN_SECRET, { ...claims, aud: "other" }),
        "no audience": signToken(TOKEN_SECRET, noAud),
        "no sub": signToken(TOKEN_SECRET, noSub),
        "no sid": signToken(TOKEN_SECRET, noSid),
        "no exp": signToken(TOKEN_SECRET, noExp),
        "a sub that is no name": signToken(TOKEN_SECRET, { ...claims, sub: "alice smith" }),
        "an empty sub": signToken(TOKEN_SECRET, { ...claims, sub: "" }),
        "a sub that is no text": signToken(TOKEN_SECRET, { ...claims, sub: 7 }),
        "a sid that is no name": signToken(TOKEN_SECRET, { ...claims, sid: "a/b" }),
        "exp 1e20": signToken(TOKEN_SECRET, { ...claims, exp: 1e20 }),
        "exp as text": signToken(TOKEN_SECRET, { ...claims, exp: String(now() + 600) }),
        "exp infinite": `${head}.${Buffer.from('{"sub":"a","sid":"s","aud":"handover","exp":1e999}').toString("base64url")}.x`,
        "not yet valid": signToken(TOKEN_SECRET, { ...claims, nbf: now() + 300 }),
        "a scope that is no text": signToken(TOKEN_SECRET, { ...claims, scope: ["receive"] }),
        "claims that are no object": signToken(TOKEN_SECRET, [1]),
        "a word": "password",
        dots: "..",
        "another service key": `${SERVICE_CREDENTIAL}x`,
        "the key with its name": `desk:${SERVICE_CREDENTIAL}`,
      };
      for (const [what, token] of Object.entries(wrong)) expectProblem(await post(GOOD, {}, token), "token-invalid", what);
      const expired = [now() - 1, now() - 1e9, 0, -1];
      for (const exp of expired) expectProblem(await post(GOOD, {}, signToken(TOKEN_SECRET, { ...claims, exp })), "token-expired", String(exp));
      const routes: readonly (readonly [string, string, unknown])[] = [
        ["POST", "/v1/messages", GOOD],
        ["GET", "/v1/messages/x", undefined],
        ["DELETE", "/v1/messages/x", undefined],
        ["POST", "/v1/poll", { receiver: "r", wait: 0 }],
        ["POST", "/v1/ack", { receiver: "r", epoch: null }],
        ["POST", "/v1/sessions", { user: "alice" }],
      ];
      for (const [method, path, body] of routes) {
        expectProblem(await call(started.url + path, { method, body }), "token-invalid", `${method} ${path}`);
        // A URL is written into logs: a token there is none.
        const inUrl = await call(`${started.url}${path}?token=${good}&access_token=${good}`, { method, body });
        expectProblem(inUrl, "token-invalid", `${method} ${path} with the token in the URL`);
      }
      for (const header of [good, `Basic ${good}`, "Bearer", "Bearer ", `Bearer ${good} ${good}`, `Token ${good}`]) {
        expectProblem(
          await call(`${started.url}/v1/messages`, { body: GOOD, headers: { Authorization: header } }),
          "token-invalid",
          header.slice(0, 20),
        );
      }
    }));

  test("[H9] a token is good with a fractional exp, with several audiences, with other claims, and until its last second", async () => {
    const claims = {
      sub: "alice",
      sid: "s",
      aud: ["other", "handover"],
      exp: Date.now() / 1000 + 30,
      iat: now(),
      iss: "x",
      jti: "y",
      nbf: now() - 1,
    };
    expect((await post({ ...GOOD, to: { user: "claims" } }, {}, signToken(TOKEN_SECRET, claims))).status).toBe(201);
    const lower = await call(`${started.url}/v1/messages`, {
      body: { ...GOOD, to: { user: "claims" } },
      headers: { authorization: `bearer  ${started.token("alice")}` },
    });
    expect(lower.status).toBe(201);
  });

  test("[H10] a service key does not read mail, and a user's token makes no sessions", () =>
    storesNothing(async () => {
      const service = { token: SERVICE_CREDENTIAL };
      expectProblem(await call(`${started.url}/v1/poll`, { ...service, body: { receiver: "r", wait: 0 } }), "forbidden");
      expectProblem(await call(`${started.url}/v1/ack`, { ...service, body: { receiver: "r", epoch: null, upto: 1 } }), "forbidden");
      expectProblem(await call(`${started.url}/v1/sessions`, { token: started.token("alice"), body: { user: "alice" } }), "forbidden");
    }));

  test("[H11] sessions: a token for any user whom the backend names, with the life and scope it asks for", async () => {
    const askedMs = Date.now();
    const answer = await call(`${started.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user: "zoe", ttl: 60, scope: "receive" } });
    expect(answer.status).toBe(201);
    // A session of one second lives one.
    expect(Date.parse(String(field(answer.body, "expires"))) - askedMs).toBeGreaterThanOrEqual(60_000);
    expect(Object.keys(answer.body as object).sort()).toEqual(["expires", "session", "token"]);
    expect(Math.abs(Date.parse(String(field(answer.body, "expires"))) - Date.now() - 60_000)).toBeLessThan(5_000);
    const token = String(field(answer.body, "token"));
    expectProblem(await post(GOOD, {}, token), "forbidden", "scope receive sends nothing");
    expect((await call(`${started.url}/v1/poll`, { token, body: { receiver: "r", wait: 0 } })).status).toBe(204);
  });

  test("[H90] a session that was made here can be addressed as soon as the backend hears of it", async () => {
    const answer = await call(`${started.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user: "yan" } });
    const session = String(field(answer.body, "session"));
    const sent = await post({ to: { session }, type: "t" }, {}, SERVICE_CREDENTIAL);
    expect([sent.status, field(sent.body, "recipients")]).toEqual([201, ["yan"]]);
    await storesNothing(async () => expectProblem(await post({ to: { session }, type: "t" }), "forbidden", "a user does not address sessions"));
  });

  test("[H91] sessions are ended by services, under any name that a session can have; no other name is taken", async () => {
    const end = (session: string, token = SERVICE_CREDENTIAL) =>
      call(`${started.url}/v1/sessions/${encodeURIComponent(session)}`, { method: "DELETE", token });
    for (const sid of ["s", "a.b_c:d@e-f", "@".repeat(128)]) {
      const token = started.token("xena", { sid });
      const poll = () => call(`${started.url}/v1/poll`, { token, body: { receiver: "r", wait: 0 } });
      expect((await poll()).status).toBe(204);
      expectProblem(await end(sid, token), "forbidden");
      expect((await poll()).status).toBe(204);
      for (let n = 0; n < 2; n++) {
        const answer = await end(sid);
        expect([answer.status, answer.body], sid).toEqual([204, undefined]);
      }
      expectProblem(await poll(), "token-invalid", sid);
    }
    for (const sid of ["", "a b", "ä", "a/b", "\u0000", "x".repeat(129), "x".repeat(5_000)]) {
      expectProblem(await end(sid), "bad-request", sid.slice(0, 20));
    }
    expectProblem(await call(`${started.url}/v1/sessions/s`, { method: "DELETE" }), "token-invalid", "nobody");
  });

  test("[H12] types that begin with handover. are the server's; notifications need the scope notify", async () => {
    await storesNothing(async () => {
      for (const type of ["handover.receipt", "handover.", "handover.notification"]) expectProblem(await post({ ...GOOD, type }), "forbidden", type);
      expectProblem(await post({ ...GOOD, type: "handover.receipt" }, {}, SERVICE_CREDENTIAL), "forbidden", "a service neither");
    });
    const notifier = started.token("alice", { scope: "send:user:* notify" });
    expect((await post({ to: { user: "told" }, type: "handover.notification" }, {}, notifier)).status).toBe(201);
    expect((await post({ to: { user: "told" }, type: "handover.notification" }, {}, SERVICE_CREDENTIAL)).status).toBe(201);
    expect((await post({ to: { user: "told" }, type: "handoverx" })).status).toBe(201);
  });

  test("[H13] what this version or store does not offer is refused with unsupported, and nothing of it is stored", () =>
    storesNothing(async () => {
      expectProblem(await post({ ...GOOD, to: { group: "team" } }), "unsupported", "a group");
      expectProblem(await post({ ...GOOD, receipt: true }), "unsupported", "a receipt");
    }));

  test("[H14] a user whom nobody has seen is accepted, and a message nobody sent is unknown", async () => {
    const answer = await post({ ...GOOD, to: { user: "nobody-has-seen-me" } });
    expect(answer.status).toBe(201);
    expect(answer.headers.get("location")).toBe(`/v1/messages/${String(field(answer.body, "id"))}`);
    const token = started.token("alice");
    expectProblem(await call(`${started.url}/v1/messages/${"a".repeat(500)}`, { token }), "bad-request", "an id that cannot be one");
    for (const id of ["x", "0".repeat(36), "%F0%9F%91%8D", "..%2f..%2fetc"]) {
      expectProblem(await call(`${started.url}/v1/messages/${id}`, { token }), "unknown", id);
      expectProblem(await call(`${started.url}/v1/messages/${id}`, { method: "DELETE", token }), "unknown", id);
    }
  });
});

describe("arrays and headers", () => {
  test("[H15] an array is all or none: the first refusal is the answer, the results say what became of each, and nothing is stored", async () => {
    await storesNothing(async () => {
      const answer = await post([GOOD, { ...GOOD, type: "handover.x" }, { ...GOOD, ttl: -1 }]);
      expectProblem(answer, "forbidden");
      const codes = (field(answer.body, "results") as unknown[]).map((result) => [field(result, "status"), field(result, "code")]);
      expect(codes).toEqual([
        [422, "invalid"],
        [403, "forbidden"],
        [400, "bad-request"],
      ]);
      for (const wrong of [[], [[]], [null], Array.from({ length: 101 }, () => GOOD)]) expectProblem(await post(wrong), "bad-request");
      expectProblem(await post([GOOD, GOOD], { "Idempotency-Key": "k" }), "bad-request", "one key for two messages");
      expectProblem(await post(Array.from({ length: 5 }, () => ({ ...GOOD, data: "x".repeat(250_000) }))), "too-large", "more than 1 MiB");
    });
    const results = await post([1, 2, 3].map((data) => ({ to: { user: "listed" }, type: "t", data })));
    expect(results.status).toBe(201);
    expect((results.body as unknown[]).map((each) => field(each, "recipients"))).toEqual([["listed"], ["listed"], ["listed"]]);
    const polled = await call(`${started.url}/v1/poll`, { token: started.token("listed"), body: { receiver: "r", wait: 0 } });
    expect((field(polled.body, "deliveries") as unknown[]).map((each) => field(field(each, "event"), "data"))).toEqual([1, 2, 3]);
  });

  test("[H16] an array whose idempotency keys were used is repeated as a whole, and stores nothing twice", async () => {
    const batch = ["k1", "k2"].map((idempotencyKey, n) => ({ to: { user: "keyed" }, type: "t", data: n, idempotencyKey }));
    const first = await post(batch);
    expect(first.status).toBe(201);
    await storesNothing(async () => {
      expect((await post(batch)).body).toEqual(first.body);
      const conflict = await post([
        { ...batch[0], idempotencyKey: "k3" },
        { ...batch[1], data: "else" },
      ]);
      expectProblem(conflict, "key-reuse");
      const twice = await post([
        { ...GOOD, idempotencyKey: "k4" },
        { ...GOOD, data: 2, idempotencyKey: "k4" },
      ]);
      expectProblem(twice, "key-reuse", "the same key twice in one array");
    });
    // Nothing was stored under k3 and k4, so they are free.
    expect((await post({ ...GOOD, to: { user: "keyed" }, idempotencyKey: "k3" })).status).toBe(201);
    expect((await post({ ...GOOD, to: { user: "keyed" }, idempotencyKey: "k4" })).status).toBe(201);
  });

  test("[H60] an idempotency key is the same with and without quotes, as header and as field", async () => {
    const ids = [];
    for (const [headers, fields] of [
      [{ "Idempotency-Key": '"quoted"' }, {}],
      [{ "Idempotency-Key": "quoted" }, {}],
      [{}, { idempotencyKey: '"quoted"' }],
      [{ "Idempotency-Key": '"quoted"' }, { idempotencyKey: "quoted" }],
    ] as const) {
      const answer = await post({ ...GOOD, to: { user: "quoted" }, ...fields }, headers);
      expect(answer.status).toBe(201);
      ids.push(field(answer.body, "id"));
    }
    expect(new Set(ids).size).toBe(1);
  });

  test("[H61] a header that means something comes once, a target is a path, a body is UTF-8", async () => {
    const head = (lines: string) => `POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${started.token("alice")}\r\n${lines}\r\n`;
    const body = JSON.stringify(GOOD);
    const length = `Content-Length: ${body.length}\r\n`;
    const json = "Content-Type: application/json\r\n";
    await storesNothing(async () => {
      for (const [what, text, status] of [
        ["two content types", head(`${json}Content-Type: text/plain\r\n${length}`) + body, 400],
        ["two keys", head(`${json}Idempotency-Key: a\r\nIdempotency-Key: b\r\n${length}`) + body, 400],
        ["absolute target", head(json + length).replace("/v1", "http://evil/v1") + body, 400],
        ["HTTP/2.0", head(json + length).replace("HTTP/1.1", "HTTP/2.0") + body, 400],
        ["another charset", head(`Content-Type: application/json; charset=iso-8859-1\r\n${length}`) + body, 415],
      ] as const) {
        const answer = await raw(started.url, text);
        expectProblem(answer, status === 415 ? "unsupported-media" : "bad-request", what);
      }
    });
  });

  test("[H17] headers stand for fields; both and different, or a value that is not allowed, is refused", async () => {
    await storesNothing(async () => {
      const wrong: readonly (readonly [Record<string, string>, object])[] = [
        [{ TTL: "60" }, { ttl: 61 }],
        [{ Topic: "a" }, { topic: "b" }],
        [{ Urgency: "low" }, { urgency: "high" }],
        [{ "Idempotency-Key": "a" }, { idempotencyKey: "b" }],
        [{ TTL: "-1" }, {}],
        [{ TTL: "soon" }, {}],
        [{ TTL: "1.5" }, {}],
        [{ TTL: "" }, {}],
        [{ TTL: "60, 61" }, {}],
        [{ Topic: "a b" }, {}],
        [{ Topic: "t".repeat(33) }, {}],
        [{ Urgency: "urgent" }, {}],
        [{ "Idempotency-Key": "" }, {}],
        [{ "Idempotency-Key": "k".repeat(256) }, {}],
      ];
      for (const [headers, fields] of wrong) {
        expectProblem(await post({ ...GOOD, ...fields }, headers), "bad-request", JSON.stringify([headers, fields]).slice(0, 80));
      }
    });
    const to = { user: "headed" };
    const both = await post({ ...GOOD, to, ttl: 60, topic: "a", urgency: "low" }, { TTL: "60", Topic: "a", Urgency: "low" });
    expect([both.status, field(both.body, "ttl")]).toEqual([201, 60]);
    const capped = await post({ ...GOOD, to }, { TTL: "99999999999999999999" });
    expect([capped.status, field(capped.body, "ttl")]).toEqual([201, 30 * 24 * 3600]);
    const polled = await call(`${started.url}/v1/poll`, { token: started.token("headed"), body: { receiver: "r", wait: 0 } });
    expect(field(field((field(polled.body, "deliveries") as unknown[])[0], "event"), "urgency")).toBe("low");
  });
});

describe("HTTP itself", () => {
  const get = (headers: string, path = "/livez") => raw(started.url, `GET ${path} HTTP/1.1\r\n${headers}\r\n`);

  test("[H18] a request has exactly one Host, and it is a name or an address", async () => {
    for (const headers of [
      "",
      "Host: a\r\nHost: a\r\n",
      "Host: a\r\nHost: b\r\n",
      "Host: \r\n",
      "Host: a b\r\n",
      "Host: a/b\r\n",
      "Host: a@b\r\n",
      "Host: a:b\r\n",
    ]) {
      expectProblem(await get(headers), "bad-request", JSON.stringify(headers));
    }
    for (const host of ["localhost", "127.0.0.1:8080", "[::1]:80", "chat.example.com"])
      expect((await get(`Host: ${host}\r\n`)).status, host).toBe(200);
  });

  test("[H19] at most 100 headers and 8 KiB of them", async () => {
    const many = (count: number) => `Host: x\r\n${Array.from({ length: count - 1 }, (_, n) => `X-${n}: 1\r\n`).join("")}`;
    expect((await get(many(100))).status).toBe(200);
    expectProblem(await get(many(101)), "headers-too-large");
    expectProblem(await get(many(300)), "headers-too-large");
    expectProblem(await get(`Host: x\r\nX-Long: ${"x".repeat(9_000)}\r\n`), "headers-too-large");
  });

  test("[H20] what is not HTTP/1.1, and an address that cannot be, get a problem document too, and the server goes on", async () => {
    for (const bytes of [
      "GARBAGE\r\n\r\n",
      "GET /livez HTTP/9.9\r\n\r\n",
      "\u0016\u0003\u0001\u0000\u0000\r\n\r\n",
      "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ]) {
      expectProblem(await raw(started.url, bytes), "bad-request", JSON.stringify(bytes));
    }
    const smuggled = "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    expectProblem(await raw(started.url, smuggled), "bad-request", "two lengths");
    expectProblem(await get("Host: x\r\n", "/v1/messages/%zz"), "bad-request", "a bad escape");
    expect((await get("Host: x\r\n")).status).toBe(200);
  });

  test("[H21] an address that there is not, and a method that it has not, are unknown", async () => {
    const token = started.token("alice");
    const wrong = [
      ["GET", "/v1/nothing"],
      ["GET", "/v1/messages"],
      ["PUT", "/v1/messages"],
      ["PATCH", "/v1/messages/x"],
      ["GET", "/v1/poll"],
      ["POST", "/v1/events"],
      ["POST", "/v1/messages/"],
      ["GET", "/../etc/passwd"],
      ["GET", "/demo/session"],
    ] as const;
    for (const [method, path] of wrong) expectProblem(await call(started.url + path, { method, token }), "unknown", `${method} ${path}`);
    expectProblem(await call(`${started.url}/demo/session`, { body: {} }), "unknown", "the demonstration, outside development mode");
  });

  test("[H22] WebSocket: another origin is 403, another subprotocol 400, another address 404, before the upgrade", async () => {
    const { host } = new URL(started.url);
    const upgrade = (headers: string, path = "/v1/ws") =>
      raw(
        started.url,
        `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${headers}\r\n`,
      );
    const offered = "Sec-WebSocket-Protocol: handover.v1.json\r\n";
    for (const origin of ["http://evil.example", `http://${host}.evil.example`, "null", "http://localhost:1", `http://${host}/`, "file://"]) {
      expectProblem(await upgrade(`${offered}Origin: ${origin}\r\n`), "forbidden", origin);
    }
    for (const protocols of [
      "",
      "Sec-WebSocket-Protocol: chat\r\n",
      "Sec-WebSocket-Protocol: handover.v2.json\r\n",
      "Sec-WebSocket-Protocol: HANDOVER.V1.JSON\r\n",
    ]) {
      expectProblem(await upgrade(protocols), "bad-request", protocols);
    }
    expectProblem(await upgrade(offered, "/v1/other"), "unknown");
    expectProblem(await upgrade(`${offered}Host: x\r\n`), "bad-request", "two Hosts");
    expectProblem(await upgrade(offered + Array.from({ length: 101 }, (_, n) => `X-${n}: 1\r\n`).join("")), "headers-too-large");
    for (const good of [offered, `${offered}Origin: http://${host}\r\n`, "Sec-WebSocket-Protocol: chat, handover.v1.json\r\n"]) {
      const answer = await upgrade(good);
      expect([answer.status, answer.headers.get("sec-websocket-protocol")], good).toEqual([101, "handover.v1.json"]);
    }
  });

  test("[H103] an offer to go on with another protocol than WebSocket is ignored, and the request answered as it is", async () => {
    const body = JSON.stringify({ to: { user: "bob" }, type: "t" });
    const answer = await raw(
      started.url,
      `POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${SERVICE_CREDENTIAL}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    expect([answer.status, answer.headers.get("upgrade")]).toEqual([201, null]);
  });
});
