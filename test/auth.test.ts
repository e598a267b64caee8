/**
 * Tokens and keys without a server around them. What the wire can reach is in http.test.ts.
 * @module
 */
import { expect, test } from "vitest";
import { Authenticator, parseServiceKeys, requireReceiver, requireSender, requireType } from "../src/auth.ts";
import type { Identity, SessionId, UserId } from "../src/protocol.ts";
import { signToken } from "../src/testing/wire.ts";

const SECRET = "a secret of at least 32 bytes, for tests";
let nowMs = 1_800_000_000_000;
const make = (keys = "") => new Authenticator({ tokenSecret: SECRET, audience: "handover", serviceKeys: parseServiceKeys(keys), now: () => nowMs });
const claims = { sub: "alice", sid: "s1", aud: "handover", exp: nowMs / 1000 + 60 };
const user = (...scopes: string[]): Identity => ({ kind: "user", user: "alice" as UserId, session: "s" as SessionId, scopes, expiresAtMs: 0 });

test("[H52] a token that was good is refused from the moment of its exp on, although its signature was checked before", async () => {
  const authenticator = make();
  const token = signToken(SECRET, claims);
  const identity = await authenticator.authenticate(token);
  expect(identity).toMatchObject({ kind: "user", user: "alice", session: "s1", scopes: ["receive", "send:user:*"], expiresAtMs: claims.exp * 1000 });
  nowMs += 59_999;
  expect(await authenticator.authenticate(token)).toMatchObject({ user: "alice", expiresAtMs: claims.exp * 1000 });
  nowMs += 1;
  await expect(authenticator.authenticate(token)).rejects.toMatchObject({ code: "token-expired" });
  await expect(make().authenticate(token)).rejects.toMatchObject({ code: "token-expired" });
  nowMs -= 60_000;
});

test("[N7] a token that was refused because it had ended stays refused when the clock is set back; one that was not is good", async () => {
  const authenticator = make();
  const [known, unknown] = [signToken(SECRET, claims), signToken(SECRET, { ...claims, sid: "s2" })];
  await authenticator.authenticate(known);
  nowMs += 7_200_000;
  for (const token of [known, unknown]) await expect(authenticator.authenticate(token)).rejects.toMatchObject({ code: "token-expired" });
  nowMs -= 7_200_000;
  for (const token of [known, unknown]) await expect(authenticator.authenticate(token)).rejects.toMatchObject({ code: "token-expired" });
  expect(await authenticator.authenticate(signToken(SECRET, { ...claims, sid: "s3" }))).toMatchObject({ session: "s3" });
});

test("[H53] what was made here is accepted here: sessions and tokens, with their scope and life", async () => {
  const authenticator = make();
  const made = await authenticator.createSession("bob" as UserId, 60, "receive notify");
  expect(Date.parse(made.expires)).toBe(nowMs + 60_000);
  expect(await authenticator.authenticate(made.token)).toMatchObject({ user: "bob", session: made.session, scopes: ["receive", "notify"] });
  const other = await authenticator.createSession("bob" as UserId, 60);
  expect(other.session).not.toBe(made.session);
  expect(other.session).toMatch(/^[A-Za-z0-9_-]{24}$/);
});

test("[H54] service keys: one or several, with a name or as backend; none is none", async () => {
  expect(parseServiceKeys("")).toEqual([]);
  expect(parseServiceKeys("key")).toEqual([{ name: "backend", key: "key" }]);
  expect(parseServiceKeys(" a:k1 , b:k2 ,k3")).toEqual([
    { name: "a", key: "k1" },
    { name: "b", key: "k2" },
    { name: "backend", key: "k3" },
  ]);
  const authenticator = make("a:k1,b:k2,k3");
  for (const [key, name] of [
    ["k1", "a"],
    ["k2", "b"],
    ["k3", "backend"],
  ] as const)
    expect(await authenticator.authenticate(key)).toEqual({ kind: "service", name });
  for (const wrong of ["a:k1", "k", "k11", "backend", ""]) {
    await expect(authenticator.authenticate(wrong)).rejects.toMatchObject({ code: "token-invalid" });
  }
  await expect(make().authenticate(undefined)).rejects.toMatchObject({ code: "token-invalid" });
});

test("[H55] scopes: exactly what they name, and an empty scope allows nothing", () => {
  const allows = (check: () => void) => {
    try {
      check();
      return true;
    } catch {
      return false;
    }
  };
  const sends = (scope: string, to: string) => allows(() => requireSender(user(scope), to as UserId));
  expect([sends("send:user:*", "bob"), sends("send:user:bob", "bob")]).toEqual([true, true]);
  for (const [scope, to] of [
    ["send:user:bob", "bobby"],
    ["send:user:bo", "bob"],
    ["send:user", "bob"],
    ["send:*", "bob"],
    ["receive", "bob"],
    ["", "bob"],
    ["SEND:USER:*", "bob"],
  ] as const)
    expect(sends(scope, to), scope).toBe(false);
  expect(allows(() => requireReceiver(user("receive")))).toBe(true);
  expect(allows(() => requireReceiver(user("send:user:*", "receiver")))).toBe(false);
  expect(allows(() => requireType(user("notify"), "handover.notification"))).toBe(true);
  expect(allows(() => requireType(user("notify"), "handover.receipt"))).toBe(false);
  expect(allows(() => requireType(user("send:user:*"), "handover.notification"))).toBe(false);
});

test("[H56] the number of remembered tokens is bounded, and a forgotten one is checked again", async () => {
  const authenticator = make();
  const first = signToken(SECRET, claims);
  await authenticator.authenticate(first);
  const tokens = Array.from({ length: 10_050 }, (_, n) => signToken(SECRET, { ...claims, jti: n }));
  for (let at = 0; at < tokens.length; at += 500) await Promise.all(tokens.slice(at, at + 500).map((token) => authenticator.authenticate(token)));
  expect(await authenticator.authenticate(first)).toMatchObject({ user: "alice" });
});
