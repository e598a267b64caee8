/**
 * Tokens of an identity provider: which are good, what forgers try (RELIABILITY.md, R21), and what happens when the provider fails.
 * @module
 */
import { createHmac } from "node:crypto";
import type { ServerResponse } from "node:http";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Authenticator } from "../src/auth.ts";
import type { HandoverError } from "../src/errors.ts";
import type { UserId } from "../src/protocol.ts";
import { call, FrameSocket, field, openSocket, signToken, WEBSOCKET } from "../src/testing/wire.ts";
import { makeKey, type SigningKey, signWith, startProvider, type TestProvider } from "./support/provider.ts";
import { expectProblem } from "./support/raw.ts";
import { SERVICE_CREDENTIAL, type Started, start, TOKEN_SECRET } from "./support/started.ts";

const RSA = makeKey("RSA", "rsa-1");
const EC = makeKey("EC", "ec-1", { alg: "ES256", use: "sig" });
const ED = makeKey("Ed25519", "ed-1");
const ISSUER = "https://id.example.com/";
const nowSeconds = () => Math.floor(Date.now() / 1000);
const claims = (more: object = {}) => ({ sub: "alice", sid: "s1", aud: "handover", iss: ISSUER, exp: nowSeconds() + 600, ...more });
const rs256 = (more: object = {}, key: SigningKey = RSA, header: object = {}) =>
  signWith(key, claims(more), { alg: "RS256", typ: "JWT", kid: key.kid, ...header });

let provider: TestProvider;
let failures: HandoverError[];
const running: Started[] = [];
beforeEach(async () => {
  provider = await startProvider(RSA, EC, ED);
  failures = [];
});
afterEach(async () => {
  vi.useRealTimers();
  for (const server of running.splice(0)) await server.stop();
  await provider.stop();
});

const make = (options: { tokenSecret?: string; issuer?: string; url?: string } = {}) =>
  new Authenticator({
    tokenSecret: TOKEN_SECRET,
    audience: "handover",
    serviceKeys: [],
    ...options,
    provider: {
      jwksUrl: new URL(options.url ?? provider.url),
      issuer: options.issuer === "" ? undefined : ISSUER,
      onFailure: (failure) => failures.push(failure),
    },
  });
const outcome = (authenticator: Authenticator, token: string) =>
  Promise.resolve(authenticator.authenticate(token)).then(
    () => "accepted",
    (error: HandoverError) => error.code,
  );

describe("tokens that are good", () => {
  test("[H70] tokens that the identity provider signed with RS256, ES256 or EdDSA are good beside those of the secret, on every wire", async () => {
    const server = await start("memory", { jwksUrl: provider.url, issuer: ISSUER });
    running.push(server);
    const tokens = [
      rs256(),
      rs256({}, RSA, { typ: "at+jwt" }),
      signWith(EC, claims(), { alg: "ES256", kid: "ec-1" }),
      signWith(ED, claims(), { alg: "EdDSA", kid: "ed-1", typ: "application/at+jwt" }),
      // The only key for its algorithm needs no name.
      signWith(EC, claims(), { alg: "ES256" }),
      server.token("alice"),
    ];
    for (const token of tokens) {
      const sent = await call(`${server.url}/v1/messages`, { token, body: { to: { user: "bob" }, type: "t" } });
      expect(sent.status, JSON.stringify(sent.body)).toBe(201);
      const socket = await openSocket(server.url, { token, receiver: "r" });
      expect(socket.frames.at(0)?.op).toBe("ready");
      await socket.terminate();
    }
    expect(provider.fetches).toBe(1);
    const receiver = await WEBSOCKET.openReceiver({ url: server.url, token: rs256({ sub: "bob", scope: "receive" }), receiver: "r" });
    await expect.poll(() => receiver.deliveries.length).toBe(tokens.length);
    expectProblem(
      await call(`${server.url}/v1/messages`, { token: rs256({ scope: "openid" }), body: { to: { user: "bob" }, type: "t" } }),
      "forbidden",
    );
  });

  test("[H70] the issuer is held against the setting; without one, it is not looked at; a clock may differ by 30 s, the end is exact", async () => {
    expect(await outcome(make(), rs256({ iss: "https://id.example.com" }))).toBe("token-invalid");
    expect(await outcome(make(), rs256({ iss: undefined }))).toBe("token-invalid");
    expect(await outcome(make({ issuer: "" }), rs256({ iss: "https://other.example" }))).toBe("accepted");
    expect(await outcome(make(), rs256({ nbf: nowSeconds() + 20 }))).toBe("accepted");
    expect(await outcome(make(), rs256({ nbf: nowSeconds() + 60 }))).toBe("token-invalid");
    expect(await outcome(make(), rs256({ exp: nowSeconds() - 1 }))).toBe("token-expired");
    // The secret's tokens are the backend's: they name no issuer.
    expect(await outcome(make(), signToken(TOKEN_SECRET, claims({ iss: undefined })))).toBe("accepted");
  });
});

describe("forgeries", () => {
  test("[H71] each source of keys has its own algorithms, and no token brings its own key: 401 for every forgery, and nothing is fetched from where it points", async () => {
    const eve = makeKey("RSA", "rsa-1");
    const evesProvider = await startProvider(eve);
    const weak = makeKey("RSA-1024", "weak");
    const enc = makeKey("RSA", "enc", { use: "enc" });
    const forOthers = makeKey("RSA", "rs512-only", { alg: "RS512" });
    const oct = { kty: "oct", kid: "oct", k: Buffer.from("a symmetric key that stands in the set").toString("base64url") };
    provider.keys = [...provider.keys, weak.jwk, enc.jwk, forOthers.jwk, oct, makeKey("RSA", "rsa-2").jwk];
    const header = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const body = header(claims());
    const hmac = (head: object, key: string | Buffer) => {
      const content = `${header(head)}.${body}`;
      return `${content}.${createHmac("sha256", key).update(content).digest("base64url")}`;
    };
    const publicPem = RSA.publicKey.export({ type: "spki", format: "pem" }).toString();
    const publicDer = RSA.publicKey.export({ type: "spki", format: "der" });
    const good = rs256();
    const [head, payload, signature] = good.split(".");
    const forgeries: Record<string, string> = {
      // alg
      "none, unsigned": `${header({ alg: "none", kid: "rsa-1" })}.${body}.`,
      "none, with a signature": `${header({ alg: "none", kid: "rsa-1" })}.${body}.${signature}`,
      nOnE: `${header({ alg: "nOnE", kid: "rsa-1" })}.${body}.${signature}`,
      "no alg": `${header({ kid: "rsa-1" })}.${body}.${signature}`,
      "alg that is a list": `${header({ alg: ["RS256"], kid: "rsa-1" })}.${body}.${signature}`,
      "HS256 with the public key as PEM": hmac({ alg: "HS256", kid: "rsa-1" }, publicPem),
      "HS256 with the public key as PEM, trimmed": hmac({ alg: "HS256", kid: "rsa-1" }, publicPem.trim()),
      "HS256 with the public key as DER": hmac({ alg: "HS256", kid: "rsa-1" }, publicDer),
      "HS256 with the public key as JWK": hmac({ alg: "HS256", kid: "rsa-1" }, JSON.stringify(RSA.jwk)),
      "HS256 with the modulus": hmac({ alg: "HS256", kid: "rsa-1" }, Buffer.from(String(RSA.jwk.n), "base64url")),
      "HS256 with a symmetric key of the set": hmac({ alg: "HS256", kid: "oct" }, Buffer.from(oct.k, "base64url")),
      "RS256 with the secret": hmac({ alg: "RS256", kid: "rsa-1" }, TOKEN_SECRET),
      "RS256 naming the symmetric key": hmac({ alg: "RS256", kid: "oct" }, Buffer.from(oct.k, "base64url")),
      "ES256 with the secret": hmac({ alg: "ES256", kid: "ec-1" }, TOKEN_SECRET),
      "HS512 with the secret": signToken(TOKEN_SECRET, claims(), { alg: "HS512" }),
      RS512: signWith(RSA, claims(), { alg: "RS512", kid: "rsa-1" }),
      PS256: signWith(RSA, claims(), { alg: "PS256", kid: "rsa-1" }),
      "ES256 naming the RSA key": signWith(EC, claims(), { alg: "ES256", kid: "rsa-1" }),
      "EdDSA naming the EC key": signWith(ED, claims(), { alg: "EdDSA", kid: "ec-1" }),
      "RS256 with a key for RS512": rs256({}, forOthers),
      "a key for encryption": rs256({}, enc),
      "a key of 1024 bits": rs256({}, weak),
      // whose key
      "another's key under a good kid": rs256({}, eve),
      "embedded jwk": rs256({}, eve, { jwk: eve.jwk, kid: undefined }),
      "embedded jwk and kid": rs256({}, eve, { jwk: eve.jwk }),
      jku: rs256({}, eve, { jku: evesProvider.url }),
      "jku and an unknown kid": rs256({}, eve, { jku: evesProvider.url, kid: "eve" }),
      x5u: rs256({}, eve, { x5u: evesProvider.url }),
      x5c: rs256({}, eve, { x5c: [eve.publicKey.export({ type: "spki", format: "der" }).toString("base64")] }),
      "iss that points elsewhere": rs256({ iss: evesProvider.url }, eve),
      // kid
      "no kid, where several keys fit": rs256({}, RSA, { kid: undefined }),
      ...Object.fromEntries(
        [
          "../../../../dev/null",
          "' OR 1=1 --",
          "\u0000",
          "__proto__",
          "constructor",
          "rsa-1\u0000",
          "RSA-1",
          "k".repeat(4_000),
          evesProvider.url,
        ].map((kid) => [`kid ${kid.slice(0, 30)}`, rs256({}, eve, { kid })]),
      ),
      "kid that is a number": rs256({}, RSA, { kid: 7 }),
      "kid that is an object": rs256({}, RSA, { kid: { kid: "rsa-1" } }),
      // crit and typ
      "unknown crit": rs256({}, RSA, { crit: ["x"], x: 1 }),
      "crit b64": rs256({}, RSA, { crit: ["b64"], b64: false }),
      "empty crit": rs256({}, RSA, { crit: [] }),
      "crit that is no list": rs256({}, RSA, { crit: "exp" }),
      "a logout token": rs256({}, RSA, { typ: "logout+jwt" }),
      "another typ": rs256({}, RSA, { typ: "secevent+jwt" }),
      "a typ that is no text": rs256({}, RSA, { typ: 7 }),
      // claims
      "another audience": rs256({ aud: "other" }),
      "no audience": rs256({ aud: undefined }),
      "no sub": rs256({ sub: undefined }),
      "no sid": rs256({ sid: undefined }),
      "no exp": rs256({ exp: undefined }),
      "exp 1e20": rs256({ exp: 1e20 }),
      "a sub that is no name": rs256({ sub: "auth0|alice" }),
      // form
      "16 KiB": rs256({ more: "x".repeat(16_384) }),
      "one byte over 8 KiB": longToken(8_193),
      "a padded signature": `${good}==`,
      "a signature in base64": `${head}.${payload}.${signature?.slice(0, -1)}+`,
      "a space in it": `${head}.${payload}. ${signature}`,
      "changed claims": `${head}.${header(claims({ sub: "bob" }))}.${signature}`,
      "no signature": `${head}.${payload}.`,
      "five parts": `${good}.x.y`,
    };
    const authenticator = make();
    for (const [what, token] of Object.entries(forgeries)) expect(await outcome(authenticator, token), what).toBe("token-invalid");
    const withoutSecret = make({ tokenSecret: "" });
    for (const token of [signToken("", claims()), signToken(TOKEN_SECRET, claims())])
      expect(await outcome(withoutSecret, token)).toBe("token-invalid");
    expect(Object.keys(forgeries).length).toBeGreaterThan(55);
    expect(await outcome(authenticator, good)).toBe("accepted");
    expect(await outcome(authenticator, longToken(8_192))).toBe("accepted");
    expect([evesProvider.fetches, provider.fetches]).toEqual([0, 1]);
    await evesProvider.stop();
  });

  test("[H71] over HTTP and in hello a forgery is 401 and 4401; one that is too large is refused before it is read", async () => {
    const server = await start("memory", { jwksUrl: provider.url, issuer: ISSUER });
    running.push(server);
    const forged = rs256({}, makeKey("RSA", "rsa-1"));
    expectProblem(await call(`${server.url}/v1/messages`, { token: forged, body: { to: { user: "bob" }, type: "t" } }), "token-invalid");
    expectProblem(await call(`${server.url}/v1/messages`, { token: rs256({ more: "x".repeat(8_192) }), body: {} }), "headers-too-large");
    for (const token of [forged, rs256({ more: "x".repeat(8_192) })]) {
      expect(await refusedHello(server, token)).toEqual([4401, "token-invalid"]);
    }
    expect((await server.server.engine.totals()).accepted).toBe(0);
  });
});

/** What a `hello` that is refused gets: close code and code. */
async function refusedHello(server: Started, token: string): Promise<unknown[]> {
  const socket = new FrameSocket(server.url);
  await socket.opened();
  socket.write({ op: "hello", token, receiver: "r" });
  await socket.inbox.until(() => socket.inbox.end !== undefined, "the end");
  return [socket.inbox.end, field(socket.frames.at(-1), "code")];
}

/** A good token of exactly so many characters. */
function longToken(length: number): string {
  for (let padding = Math.floor((length * 3) / 4) - 700; ; padding++) {
    const token = rs256({ more: "x".repeat(padding) });
    if (token.length === length) return token;
    // Base64 skips one length in four: the header makes up for it.
    const other = rs256({ more: "x".repeat(padding) }, RSA, { a: 12 });
    if (other.length === length) return other;
    if (token.length > length) throw new Error(`no token of ${length} characters`);
  }
}

describe("a provider that fails", () => {
  test("[H72] a provider that does not answer as it should: 503, retryable, and no token accepted; those checked before stay good until their exp", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const authenticator = make();
    const known = rs256({ exp: nowSeconds() + 3_600 });
    await authenticator.authenticate(known);
    // From now on the keys are too old to be used.
    vi.setSystemTime(Date.now() + 601_000);
    const failing: Record<string, (response: ServerResponse) => void> = {
      "500": (response) => void response.writeHead(500).end(),
      "404": (response) => void response.writeHead(404).end(JSON.stringify({ keys: provider.keys })),
      "a redirect": (response) => void response.writeHead(302, { Location: provider.url }).end(),
      "no JSON": (response) => void response.end("<html>"),
      "no key set": (response) => void response.end('{"keys": 7}'),
      "half an answer": (response) => {
        response.writeHead(200, { "Content-Length": 1_000 });
        response.write('{"keys": [');
        setTimeout(() => response.destroy(), 20);
      },
      "a reset": (response) => void response.destroy(),
    };
    for (const [what, answer] of Object.entries(failing)) {
      provider.answer = answer;
      const fresh = make();
      await expect(fresh.authenticate(rs256()), what).rejects.toMatchObject({ code: "timeout", status: 503, retryable: true, retryAfterMs: 1_000 });
      expect(await outcome(fresh, rs256({}, makeKey("RSA", "rsa-1"))), what).toBe("timeout");
      expect(failures.length, what).toBe(1);
      failures = [];
    }
    expect(await outcome(authenticator, rs256({ jti: "not seen before" }))).toBe("timeout");
    expect(await outcome(authenticator, known)).toBe("accepted");
    // What needs no provider goes on.
    expect(await outcome(authenticator, signToken(TOKEN_SECRET, claims()))).toBe("accepted");
    expect(await outcome(authenticator, signToken("another", claims()))).toBe("token-invalid");
    vi.setSystemTime(Date.now() + 3_600_000);
    expect(await outcome(authenticator, known)).toBe("token-expired");
  });

  test("[H72] one that hangs is given up after 5 s, one that is not there at once; when it is back, its tokens are good", async () => {
    const startedMs = performance.now();
    provider.answer = () => {};
    const hanging = make();
    expect(await outcome(hanging, rs256())).toBe("timeout");
    expect(performance.now() - startedMs).toBeGreaterThan(4_500);
    expect(performance.now() - startedMs).toBeLessThan(8_000);
    const gone = await startProvider();
    await gone.stop();
    expect(await outcome(make({ url: gone.url }), rs256())).toBe("timeout");
    expect(failures.at(-1)?.cause).toMatchObject({ cause: { code: "ECONNREFUSED" } });
    provider.answer = undefined;
    await expect.poll(() => outcome(hanging, rs256()), { timeout: 5_000, interval: 100 }).toBe("accepted");
  });

  test("[H72] over the wire it is 503 with Retry-After, and 4508, which brings a client back", async () => {
    const server = await start("memory", { jwksUrl: provider.url });
    running.push(server);
    provider.answer = (response) => void response.writeHead(500).end();
    const answer = await call(`${server.url}/v1/messages`, { token: rs256(), body: { to: { user: "bob" }, type: "t" } });
    expectProblem(answer, "timeout");
    expect(answer.headers.get("retry-after")).toBe("1");
    expect(await refusedHello(server, rs256())).toEqual([4508, "timeout"]);
    expect((await server.server.engine.totals()).accepted).toBe(0);
  });
});

describe("keys that change", () => {
  test("[H73] a new key of the provider is found when a token names it, and a withdrawn one checks nothing any more after 10 minutes", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const authenticator = make();
    await authenticator.authenticate(rs256());
    const next = makeKey("RSA", "rsa-2");
    provider.keys = [next.jwk];
    vi.setSystemTime(Date.now() + 10_001);
    expect(await outcome(authenticator, rs256({}, next))).toBe("accepted");
    expect(await outcome(authenticator, rs256({ jti: "again" }))).toBe("token-invalid");
    const other = make();
    provider.keys = [next.jwk, RSA.jwk];
    await other.authenticate(rs256());
    provider.keys = [next.jwk];
    vi.setSystemTime(Date.now() + 599_000);
    expect(await outcome(other, rs256({ jti: "still" }))).toBe("accepted");
    vi.setSystemTime(Date.now() + 1_001);
    expect(await outcome(other, rs256({ jti: "no more" }))).toBe("token-invalid");
  });

  test("[H74] neither a flood of unknown key ids nor one of tokens while the provider fails becomes a flood of fetches", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const eve = makeKey("EC", "eve");
    const forged = (n: number) => signWith(eve, claims(), { alg: "ES256", kid: `eve-${n}` });
    const flood = async (authenticator: Authenticator, count: number) => {
      const codes = new Set<string>();
      for (let at = 0; at < count; at += 100) {
        for (const code of await Promise.all(Array.from({ length: 100 }, (_, n) => outcome(authenticator, forged(at + n))))) codes.add(code);
      }
      return [...codes];
    };
    const authenticator = make();
    expect(await flood(authenticator, 1_000)).toEqual(["token-invalid"]);
    expect(provider.fetches).toBe(1);
    vi.setSystemTime(Date.now() + 10_001);
    expect(await flood(authenticator, 1_000)).toEqual(["token-invalid"]);
    expect(provider.fetches).toBe(2);
    expect(await outcome(authenticator, rs256())).toBe("accepted");

    provider.answer = (response) => void response.writeHead(500).end();
    const before = provider.fetches;
    const startedMs = performance.now();
    expect(await flood(make(), 1_000)).toEqual(["timeout"]);
    const seconds = Math.ceil((performance.now() - startedMs) / 1_000);
    expect(provider.fetches - before).toBeLessThanOrEqual(seconds);
    expect(failures.length).toBe(provider.fetches - before);
  });
});

test("[K11] with a JWKS address and no secret the server starts, takes the provider's tokens, and makes no sessions", async () => {
  const server = await start("memory", { jwksUrl: provider.url, issuer: ISSUER, tokenSecret: "" });
  running.push(server);
  const send = (token: string) => call(`${server.url}/v1/messages`, { token, body: { to: { user: "bob" }, type: "t" } });
  expect((await send(rs256())).status).toBe(201);
  expect((await send(SERVICE_CREDENTIAL)).status).toBe(201);
  expectProblem(await send(server.token("alice")), "token-invalid");
  const refused = await call(`${server.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user: "bob" } });
  expectProblem(refused, "unsupported");
  expect(field(refused.body, "detail")).toMatch(/HANDOVER_TOKEN_SECRET/);
  expectProblem(await call(`${server.url}/v1/sessions`, { token: rs256(), body: { user: "bob" } }), "forbidden");
  await expect(make({ tokenSecret: "" }).createSession("bob" as UserId, 60)).rejects.toMatchObject({ code: "unsupported" });
});
