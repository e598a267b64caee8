/**
 * The table of settings: what overrides what, and what is refused.
 * @module
 */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { ConfigError, type ConfigSources, describeConfig, loadConfig, optionOf, rows } from "../src/config.ts";
import { secretsOf } from "../src/server.ts";

const folder = mkdtempSync(join(tmpdir(), "handover-config-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = join(folder, "handover.json");

const load = (sources: Partial<ConfigSources> = {}) => loadConfig({ environment: {}, flags: {}, ...sources });
const withFile = (content: unknown) => {
  writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
  return load({ file });
};

test("[K1] defaults < file < environment < command line", () => {
  expect(load()).toMatchObject({ host: "127.0.0.1", port: 8080, data: "./data", engine: "sqlite:", dev: false });
  writeFileSync(file, JSON.stringify({ port: 1, host: "file", drainMs: 100, dev: true }));
  const environment = { HANDOVER_PORT: "2", HANDOVER_HOST: "environment", PATH: "/bin" };
  expect(load({ file })).toMatchObject({ port: 1, host: "file", drainMs: 100, dev: true });
  expect(load({ file, environment })).toMatchObject({ port: 2, host: "environment", drainMs: 100 });
  expect(load({ file, environment, flags: { port: "3" } })).toMatchObject({ port: 3, host: "environment", drainMs: 100 });
  expect(Object.isFrozen(load())).toBe(true);
});

test("[K2] an unknown key, variable or file is an error that names it, and the nearest one that there is", () => {
  expect(() => withFile({ prot: 1 })).toThrow(/there is no setting prot/);
  expect(() => withFile({ "max-ttl-ms": 1 })).toThrow(/Did you mean maxTtlMs\?/);
  expect(() => withFile({ constructor: 1 })).toThrow(/there is no setting constructor/);
  expect(() => withFile('{"__proto__":{"port":1}}')).toThrow(/there is no setting __proto__/);
  expect(() => load({ environment: { HANDOVER_PROT: "1" } })).toThrow(/There is no setting HANDOVER_PROT/);
  expect(() => load({ environment: { HANDOVER_TOKENSECRET: "x" } })).toThrow(/Did you mean HANDOVER_TOKEN_SECRET\?/);
  expect(() => load({ file: join(folder, "none.json") })).toThrow(ConfigError);
  for (const content of ["{", "[]", "null", "7"]) expect(() => withFile(content)).toThrow(ConfigError);
  for (const name of ["HANDOVER_URL", "HANDOVER_TOKEN", "HANDOVER_CONFIG"]) load({ environment: { [name]: "anything" } });
});

test("[Q18] a journal's name is letters, digits, `-` and `_`; a refill is asked for with 1", () => {
  const engine = (query: string) => load({ environment: { HANDOVER_ENGINE: `amqp://user:password@host/vhost${query}` } }).engine;
  for (const query of ["", "?journal=team-1_b", "?journal=main&refill=1"]) expect(engine(query)).toContain(query);
  for (const query of ["?journal=", "?journal=a.b", "?journal=a%20b", `?journal=${"x".repeat(65)}`])
    expect(() => engine(query)).toThrow(/journal must be a name/);
  for (const query of ["?refill=0", "?refill=yes", "?refill"]) expect(() => engine(query)).toThrow(/refill can only be 1/);
});

test("[K3] a value that is not allowed is an error that names the setting and what is", () => {
  const wrong: readonly (readonly [string, string, RegExp])[] = [
    ["HANDOVER_PORT", "eighty", /HANDOVER_PORT must be a whole number from 0 to 65535/],
    ["HANDOVER_PORT", "65536", /65535/],
    ["HANDOVER_PORT", "-1", /whole number/],
    ["HANDOVER_PORT", "80.5", /whole number/],
    ["HANDOVER_PORT", "0x50", /whole number/],
    ["HANDOVER_PORT", "", /whole number/],
    ["HANDOVER_DEV", "maybe", /true or false/],
    ["HANDOVER_ENGINE", "redis://x", /sqlite:, memory:/],
    ["HANDOVER_TOKEN_SECRET", "short", /at least 32 bytes/],
    ["HANDOVER_ORIGINS", "*", /not an origin/],
    ["HANDOVER_ORIGINS", "https://a.example/", /not an origin/],
    ["HANDOVER_ORIGINS", "https://a.example,app", /"app"/],
    ["HANDOVER_ORIGINS", "https://a.example:443", /not an origin/],
    ["HANDOVER_ORIGINS", "https://A.example", /not an origin/],
    ["HANDOVER_ORIGINS", "https://user@a.example", /not an origin/],
    ["HANDOVER_LOG_LEVEL", "loud", /must be one of trace, debug/],
    ["HANDOVER_X0", "on", /off, demo, registered/],
    ["HANDOVER_MAX_MESSAGE_BYTES", "1", /1024/],
  ];
  for (const [variable, value, message] of wrong) {
    expect(() => load({ environment: { [variable]: value } }), `${variable}=${value}`).toThrow(message);
    expect(() => load({ environment: { [variable]: value } })).toThrow(ConfigError);
  }
  expect(() => withFile({ port: "8080" })).toThrow(/port must be a whole number/);
  expect(() => withFile({ host: 7 })).toThrow(/host must be a text/);
  expect(() => withFile({ dev: "true" })).toThrow(/dev must be true or false/);
  expect(() => load({ flags: { port: "x" } })).toThrow(/--port must be/);
});

test("[K12] keys of an identity provider come over https, or from this machine; without them an issuer is refused, and nothing starts without anybody's tokens", () => {
  const jwks = (url: string) => load({ environment: { HANDOVER_JWKS_URL: url } });
  for (const good of [
    "https://id.example.com/keys",
    "https://id.example.com:8443/a?b=c",
    "http://127.0.0.1:9000/keys",
    "http://localhost/k",
    "http://[::1]:1/k",
  ])
    expect(jwks(good).jwksUrl).toBe(good);
  for (const wrong of [
    "http://id.example.com/keys",
    "http://127.0.0.1.evil.example/keys",
    "http://localhost@evil.example/keys",
    "http://0.0.0.0/keys",
    "https://user:password@id.example.com/keys",
    "https://user@id.example.com/keys",
    "file:///etc/keys",
    "data:application/json,{}",
    "id.example.com",
    "https://",
  ]) {
    expect(() => jwks(wrong), wrong).toThrow(/HANDOVER_JWKS_URL must be an address https/);
    expect(() => jwks(wrong), wrong).toThrow(ConfigError);
  }
  expect(() => secretsOf(load({ flags: { issuer: "https://id.example.com", tokenSecret: "x".repeat(32) } }))).toThrow(/HANDOVER_JWKS_URL/);
  expect(() => secretsOf(load())).toThrow(/HANDOVER_TOKEN_SECRET is not set.*HANDOVER_JWKS_URL/s);
  expect(secretsOf(load({ flags: { jwksUrl: "https://id.example.com/keys" } })).tokenSecret).toBe("");
});

test("[K4] every setting has its own variable and option, a default that it allows itself, and one sentence", () => {
  const all = rows();
  expect(new Set(all.map(([, { variable }]) => variable)).size).toBe(all.length);
  expect(new Set(all.map(([key]) => optionOf(key))).size).toBe(all.length);
  for (const [key, row] of all) {
    expect(row.variable).toBe(`HANDOVER_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`);
    expect(row.check(row.default), key).toEqual(row.default);
    expect(row.says, key).toMatch(/^[A-Z].*\.$/);
    if (/(Ms|Bytes)$/.test(key)) expect(row.unit, key).toBe(key.endsWith("Ms") ? "ms" : "bytes");
  }
});

test("[K5] the settings in force can be shown without their secrets", () => {
  const shown = describeConfig(load({ environment: { HANDOVER_SERVICE_KEY: "hush", HANDOVER_TOKEN_SECRET: "hush".repeat(8), HANDOVER_PORT: "9" } }));
  expect(shown).toContain("HANDOVER_PORT=9");
  expect(shown).toContain("HANDOVER_SERVICE_KEY=(set)");
  expect(shown).not.toContain("hush");
});

test("[K6] outside development mode there is no start without a secret; inside, one is made and kept, for its owner only, on this machine only", () => {
  expect(() => secretsOf(load())).toThrow(/HANDOVER_TOKEN_SECRET is not set/);
  const data = join(folder, "data");
  const dev = (more: object = {}) => load({ flags: { dev: true, data, ...more } });
  for (const host of ["0.0.0.0", "::", "192.168.1.2"]) expect(() => secretsOf(dev({ host }))).toThrow(/listens on 127\.0\.0\.1 only/);
  const made = secretsOf(dev());
  expect(Buffer.byteLength(made.tokenSecret)).toBeGreaterThanOrEqual(32);
  expect(made.serviceKey).not.toBe(made.tokenSecret);
  expect(secretsOf(dev())).toEqual(made);
  for (const name of ["token-secret", "service-key"]) {
    expect(statSync(join(data, name)).mode & 0o777).toBe(0o600);
    expect(readFileSync(join(data, name), "utf8").trim().length).toBeGreaterThan(30);
  }
  expect(secretsOf(dev({ serviceKey: "mine" })).serviceKey).toBe("mine");
});
