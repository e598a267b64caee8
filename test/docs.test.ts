/**
 * What the documents say, and what the code does, are the same.
 * @module
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeConfigDoc } from "../src/config.ts";
import { ERRORS } from "../src/errors.ts";
import { call, field } from "../src/testing/wire.ts";
import { raw } from "./support/raw.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "./support/started.ts";

const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
const PROTOCOL = read("PROTOCOL.md");

let started: Started;
beforeAll(async () => {
  started = await start("memory");
});
afterAll(() => started.stop());

test("[A6] every error code is in PROTOCOL.md with its HTTP status and close code, and PROTOCOL.md has no other", () => {
  const table = [...PROTOCOL.matchAll(/^\| `([a-z-]+)` \| (\d{3}) \| (4\d{3}) \|/gm)].map(([, code, status, close]) => [
    code,
    Number(status),
    Number(close),
  ]);
  const known = Object.entries(ERRORS).map(([code, { status, close }]) => [code, status, close]);
  expect(table.sort()).toEqual(known.sort());
});

test("[A7] every address in PROTOCOL.md is there, and what it says is not in this version is not", async () => {
  const addresses = [...PROTOCOL.matchAll(/^\| `([A-Z]+)` \| `([^`]+)` \|/gm)].map(([, method = "", path = ""]) => ({ method, path }));
  expect(addresses.length).toBeGreaterThan(8);
  for (const { method, path } of addresses) {
    // The page is for development mode.
    if (path === "/") continue;
    const answer =
      path === "/v1/ws"
        ? await raw(started.url, `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`)
        : await call(started.url + path.replace("{id}", "x"), { method, token: SERVICE_CREDENTIAL });
    // An address that there is may know no message `x`, or miss its body; it does not say that it is not an address.
    expect(String(field(answer.body, "detail")), `${method} ${path} → ${answer.status}`).not.toMatch(/not an address/);
    expect(answer.status, `${method} ${path}`).not.toBe(0);
  }
  const section = PROTOCOL.slice(PROTOCOL.indexOf("## 8."));
  for (const [, path = ""] of section.matchAll(/`(\/[^`]+)`/g)) {
    for (const method of ["GET", "POST"]) expect((await call(started.url + path, { method })).status, `${method} ${path}`).toBe(404);
  }
});

test("[A8] docs/config.md is what the table of settings says now (if not: npm run build && node scripts/config-doc.mjs)", () => {
  expect(read("docs/config.md")).toBe(writeConfigDoc());
});
