/**
 * The SDK as one classic script, as pages without a bundler have it: built here, and run in a real browser.
 * @module
 */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { type Browser, chromium } from "playwright-core";
import { type RolldownOptions, rolldown } from "rolldown";
import { afterAll, beforeAll, expect, it } from "vitest";
import { CHROMIUM, describeWith } from "../support/needs.ts";
import { rig, until } from "./rig.ts";

const CONFIG = new URL("../../rolldown.config.mjs", import.meta.url).href;
const MAX_GZIP_BYTES = 8 * 1024;
const test = rig();
let script: string;

beforeAll(async () => {
  const { default: config } = (await import(CONFIG)) as { default: RolldownOptions };
  const { output, ...input } = config;
  const bundle = await rolldown(input);
  const built = await bundle.generate(Array.isArray(output) ? output[0] : output);
  await bundle.close();
  script = built.output[0].code;
});

it("[C29] the script defines Handover and nothing else, and fits its budget", () => {
  expect(gzipSync(script, { level: 9 }).length).toBeLessThan(MAX_GZIP_BYTES);
  const names = new Function(`${script}; return Object.keys(Handover);`)() as string[];
  expect(names.sort()).toEqual(["HandoverError", "connect"]);
  // Newer than es2020: logical assignment, private members, class fields.
  expect(script).not.toMatch(/\?\?=|\|\|=|&&=|\.#|static\{/);
});

describeWith(CHROMIUM, "the classic script in Chromium", () => {
  let browser: Browser;
  let pages: Server;

  beforeAll(async () => {
    // A name that is not this machine's own makes the page an insecure context, as in most intranets: no crypto.randomUUID there.
    browser = await chromium.launch({
      executablePath: process.env.CHROMIUM_PATH ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP handover.test 127.0.0.1"],
    });
    // The page's own server, before the fake one: it passes on what is not the page.
    pages = createServer((_request, response) => {
      response.writeHead(200, { "content-type": "text/html" });
      response.end(`<!doctype html><title>Test</title><script>${script.replaceAll("</script", "<\\/script")}</script>`);
    });
    await new Promise<void>((resolve) => pages.listen(0, "127.0.0.1", resolve));
  });
  afterAll(async () => {
    await browser?.close();
    pages?.close();
  });

  it("[C29] works in a page on plain http: sends, receives, acknowledges, and comes back", async () => {
    const { server } = test;
    const page = await browser.newPage();
    const trouble: unknown[] = [];
    page.on("pageerror", (error) => trouble.push(error));
    await page.goto(`http://handover.test:${(pages.address() as AddressInfo).port}/`);
    expect(await page.evaluate("isSecureContext")).toBe(false);
    await page.evaluate((url) => {
      const page = globalThis as unknown as { Handover: typeof import("../../src/client/index.ts"); handover: unknown; got: unknown[] };
      page.got = [];
      const handover = page.Handover.connect(url, { token: () => "token-1" });
      handover.on("order", (message) => page.got.push(message.data));
      page.handover = handover;
    }, server.url);
    expect(await page.evaluate("handover.send('bob', 'echo', { a: '🍕' })")).toMatchObject({ id: "s1" });
    expect(server.sends[0]).toMatchObject({ via: "websocket", data: { a: "🍕" }, idempotencyKey: expect.stringMatching(/^[0-9a-f]{32}$/) });
    server.put("order", 1);
    await until(() => expect(server.entries).toEqual([]));
    server.cut();
    server.put("order", 2);
    await until(() => expect(server.entries).toEqual([]));
    expect(await page.evaluate("got")).toEqual([1, 2]);
    await page.evaluate("handover.close()");
    await until(() => expect(server.openSockets).toBe(0));
    expect(await page.evaluate("handover.status.state")).toBe("closed");
    expect(trouble).toEqual([]);
    await page.close();
  });
});
