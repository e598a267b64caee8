/**
 * The cookie in a real browser: what it keeps, what it sends along, and for which pages.
 * @module
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import { call } from "../../src/testing/wire.ts";
import { launchChromium, openContext } from "../support/browser.ts";
import { CHROMIUM, describeWith, OPENSSL } from "../support/needs.ts";
import { type Pages, startPages } from "../support/pages.ts";
import { type Started, start } from "../support/started.ts";

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

interface Seen {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
}

let browser: Browser;
let server: Started;
let context: BrowserContext;
let stops: (() => Promise<unknown>)[] = [];
/** What the server was asked, as `METHOD path`, and what it answered; the newest last. */
let seen: { readonly what: string; readonly is: Seen }[] = [];

const record = (message: unknown) => {
  const { request, response } = message as { request: IncomingMessage; response: ServerResponse };
  if (String(request.socket.localPort) !== new URL(server.url).port) return;
  seen.push({ what: `${request.method} ${request.url}`, is: { status: response.statusCode, headers: request.headers } });
};
const last = (what: string): Seen | undefined => seen.filter((each) => each.what === what).at(-1)?.is;

async function begin(origins: readonly string[]): Promise<void> {
  server = await start("memory", { origins: origins.join(",") });
  context = await openContext(browser, { ignoreHTTPSErrors: true });
  stops.push(
    () => context.close(),
    () => server.stop(),
  );
  seen = [];
}

async function pages(protocol: "http" | "https"): Promise<Pages> {
  const started = await startPages(protocol);
  stops.push(started.stop);
  return started;
}

async function open(address: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(address);
  return page;
}

/** @returns the status; 0 where the page may not see the answer */
function keepCookie(page: Page, user: string, url = server.url): Promise<number> {
  return page.evaluate(
    ([address = "", token]) =>
      fetch(`${address}/v1/cookie`, { method: "POST", headers: { Authorization: `Bearer ${token}` }, credentials: "include" }).then(
        ({ status }) => status,
        () => 0,
      ),
    [url, server.token(user)],
  );
}

/** A poll that carries nothing but what the browser adds. */
function poll(page: Page, url = server.url): Promise<{ status: number; epoch?: string; cursor?: number }> {
  return page.evaluate(async (address) => {
    const response = await fetch(`${address}/v1/poll`, {
      method: "POST",
      body: JSON.stringify({ receiver: "tab", wait: 0 }),
      headers: { "Content-Type": "application/json" },
      credentials: "include",
    });
    return { status: response.status, ...(response.status === 200 ? await response.json() : {}) };
  }, url);
}

/** Receives a message with the cookie, and acknowledges it by sendBeacon while the page is being left. */
async function receiveAndLeave(page: Page, url = server.url): Promise<void> {
  const sent = await call(`${server.url}/v1/messages`, { token: server.token("alice"), body: { to: { user: "bob" }, type: "t" } });
  expect(sent.status).toBe(201);
  const { status, epoch, cursor } = await poll(page, url);
  expect(status).toBe(200);
  await page.evaluate(
    ([address, text = ""]) => {
      addEventListener("pagehide", () => navigator.sendBeacon(`${address}/v1/ack`, new Blob([text], { type: "application/json" })));
    },
    [url, JSON.stringify({ receiver: "tab", epoch, cursor, upto: cursor })],
  );
  await page.goto("about:blank");
  await expect.poll(async () => (await server.server.engine.totals()).acked, { timeout: 10_000 }).toBe(1);
}

function withBrowser(): void {
  beforeAll(async () => {
    browser = await launchChromium();
    subscribe("http.server.response.finish", record);
  });
  afterAll(async () => {
    unsubscribe("http.server.response.finish", record);
    await browser?.close();
  });
  afterEach(async () => {
    for (const stop of stops) await stop();
    stops = [];
  });
}

describeWith(CHROMIUM, "the cookie in Chromium", () => {
  withBrowser();

  it("[H78] a page of the server's own origin keeps the cookie, its scripts cannot read it, and it goes along with EventSource, fetch and sendBeacon", async () => {
    await begin([]);
    const page = await open(`${server.url}/livez`);
    expect((await poll(page)).status).toBe(401);
    expect(await keepCookie(page, "bob")).toBe(204);
    expect(await page.evaluate(() => document.cookie)).toBe("");
    expect(await context.cookies(`${server.url}/v1/ack`)).toMatchObject([{ name: "handover", httpOnly: true, sameSite: "Strict", path: "/v1" }]);
    expect(await context.cookies(server.url)).toEqual([]);

    // What a GET of the same origin looks like: no Origin, but Sec-Fetch-Site. A message that nobody sent is 404, for whoever is known.
    await page.evaluate((url) => new Promise((resolve) => (new EventSource(`${url}/v1/messages/x`).onerror = resolve)), server.url);
    const { status, headers } = last("GET /v1/messages/x") ?? { status: 0, headers: {} as IncomingHttpHeaders };
    expect([status, headers.origin, headers["sec-fetch-site"], headers.cookie?.startsWith("handover=")]).toEqual([
      404,
      undefined,
      "same-origin",
      true,
    ]);

    await receiveAndLeave(page);
    const beacon = last("POST /v1/ack");
    expect([beacon?.status, beacon?.headers.origin, beacon?.headers.authorization]).toEqual([200, server.url, undefined]);
    expect(last("OPTIONS /v1/ack")).toBeUndefined();

    // Text needs no preflight from any page: it stays refused.
    const again = await open(`${server.url}/livez`);
    await again.evaluate((url) => navigator.sendBeacon(`${url}/v1/ack`, "{}"), server.url);
    await expect.poll(() => last("POST /v1/ack")?.status).toBe(415);

    expect(await again.evaluate(async (url) => (await fetch(`${url}/v1/cookie`, { method: "DELETE" })).status, server.url)).toBe(204);
    expect(await context.cookies(`${server.url}/v1/ack`)).toEqual([]);
    expect((await poll(again)).status).toBe(401);
  });

  it("[H78] a page of a listed origin of the same site keeps it too, by way of preflights; a neighbour that is not listed gets 401 although the browser sends it", async () => {
    const [neighbour, evil] = [await pages("http"), await pages("http")].map(({ port }) => `http://127.0.0.1:${port}`);
    await begin([String(neighbour)]);
    const page = await open(`${neighbour}/page.html`);
    expect(await keepCookie(page, "bob")).toBe(204);
    expect(await context.cookies(`${server.url}/v1/ack`)).toMatchObject([{ sameSite: "Strict", secure: false }]);

    const other = await open(`${evil}/page.html`);
    expect(await keepCookie(other, "eve")).toBe(0);
    const sneak = (path: string, init: RequestInit) =>
      other.evaluate(
        ([address = "", options]) => fetch(address, { ...(options as RequestInit), mode: "no-cors", credentials: "include" }).then(() => {}),
        [server.url + path, init] as const,
      );
    await sneak("/v1/poll", { method: "POST", body: '{"receiver":"tab"}' });
    await sneak("/v1/messages/x", { method: "GET" });
    for (const [what, origin] of [
      ["POST /v1/poll", evil],
      ["GET /v1/messages/x", undefined],
    ] as const) {
      const { status, headers } = last(what) ?? { status: 0, headers: {} as IncomingHttpHeaders };
      expect([status, headers.origin, headers["sec-fetch-site"], headers.cookie?.startsWith("handover=")], what).toEqual([
        401,
        origin,
        "same-site",
        true,
      ]);
    }

    await receiveAndLeave(page);
    expect(last("OPTIONS /v1/ack")?.status).toBe(204);
    expect([last("POST /v1/ack")?.status, last("POST /v1/ack")?.headers.origin]).toEqual([200, neighbour]);
  });
});

describeWith(CHROMIUM.isThere ? OPENSSL : CHROMIUM, "the cookie in Chromium, over https", () => {
  withBrowser();

  it("[H78] a page of another site keeps it over https only, and then pages of that site alone can use it", async () => {
    const [tls, plain] = [await pages("https"), await pages("http")];
    const app = `https://app.localhost:${tls.port}`;
    const url = `https://handover.localhost:${tls.port}`;
    const other = `https://other.localhost:${tls.port}`;
    await begin([app, other, `http://localhost:${plain.port}`]);
    tls.target = server.url;
    const http = await open(`http://localhost:${plain.port}/page.html`);
    expect(await keepCookie(http, "bob")).toBe(422);
    const page = await open(`${app}/page.html`);
    expect(await keepCookie(page, "bob", url)).toBe(204);
    expect(await context.cookies(`${url}/v1/ack`)).toMatchObject([{ name: "handover", httpOnly: true, sameSite: "None", secure: true }]);
    expect((await poll(await open(`${other}/page.html`), url)).status).toBe(401);
    expect(last("POST /v1/poll")?.headers.cookie).toBeUndefined();
    await receiveAndLeave(page, url);
    expect([last("POST /v1/ack")?.headers.origin, last("POST /v1/ack")?.headers["sec-fetch-site"]]).toEqual([app, "cross-site"]);
  });
});
