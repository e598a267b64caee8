/**
 * The browser's own EventSource, which knows nothing of this protocol: it has the cookie, comes back by itself, and says what it received last.
 * @module
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { IncomingMessage } from "node:http";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it, vi } from "vitest";
import { call, type Delivered, field } from "../../src/testing/wire.ts";
import { DEADLINE_MS, launchChromium, openContext } from "../support/browser.ts";
import { openRelay, type Relay } from "../support/demo.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";
import { type Started, start } from "../support/started.ts";

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

/** What the page of this test keeps of its stream. */
interface Kept {
  source: EventSource;
  /** The receiver's name and the epoch, as the last `ready` said. */
  ready: { receiver: string; epoch: string } | undefined;
  readonly events: { readonly name: string; readonly id: string; readonly value: unknown }[];
}

describeWith(CHROMIUM, "EventSource in Chromium", () => {
  let browser: Browser;
  let context: BrowserContext;
  let server: Started;
  /** Between the browser and the server. */
  let line: Relay;
  /** `Last-Event-ID` of each stream that was asked for, in order. */
  let lastIds: (string | undefined)[] = [];

  const record = (message: unknown) => {
    const { request } = message as { request: IncomingMessage };
    if (request.url?.startsWith("/v1/events")) lastIds.push(request.headers["last-event-id"] as string | undefined);
  };
  beforeAll(async () => {
    browser = await launchChromium();
    subscribe("http.server.request.start", record);
  });
  afterAll(async () => {
    unsubscribe("http.server.request.start", record);
    await browser?.close();
  });
  beforeEach(async () => {
    server = await start("sqlite", { drainMs: "200" });
    line = await openRelay(server.url);
    context = await openContext(browser);
    lastIds = [];
  });
  afterEach(async () => {
    await context.close();
    await line.close();
    await server.stop();
  });

  const until = (condition: () => unknown) => vi.waitFor(condition, { timeout: DEADLINE_MS, interval: 20 });
  const send = async (data: unknown): Promise<string> => {
    const answer = await call(`${server.url}/v1/messages`, { token: server.token("alice"), body: { to: { user: "bob" }, type: "t", data } });
    expect(answer.status).toBe(201);
    return String(field(answer.body, "id"));
  };

  /** A page with the cookie, and nothing of ours in it. */
  async function openPage(): Promise<Page> {
    const page = await context.newPage();
    await page.goto(`${line.url}/livez`);
    const status = await page.evaluate(
      async (token) => (await fetch("/v1/cookie", { method: "POST", headers: { Authorization: `Bearer ${token}` } })).status,
      server.token("bob"),
    );
    expect(status).toBe(204);
    return page;
  }

  const listen = (page: Page, path: string) =>
    page.evaluate((address) => {
      const kept: Kept = { source: new EventSource(address), ready: undefined, events: [] };
      Object.assign(globalThis, { kept });
      for (const name of ["ready", "message", "settled", "gap", "drain", "problem"]) {
        kept.source.addEventListener(name, ({ data, lastEventId }: MessageEvent<string>) => {
          const value = JSON.parse(data);
          if (name === "ready") kept.ready = value;
          // As PROTOCOL.md says: what comes back to no purpose is closed.
          if (name === "problem" && !value.retryable) kept.source.close();
          kept.events.push({ name, id: lastEventId, value });
        });
      }
    }, path);
  const kept = (page: Page) =>
    page.evaluate(() => {
      const { ready, events, source } = (globalThis as unknown as { kept: Kept }).kept;
      return { ready, events, readyState: source.readyState };
    });
  const messages = async (page: Page) => (await kept(page)).events.filter(({ name }) => name === "message");
  const data = async (page: Page) => (await messages(page)).map(({ value }) => (value as Delivered).event.data);
  /** Acknowledges beside the stream, with the cookie alone. */
  const acknowledge = (page: Page, forms: object) =>
    page.evaluate(async (body) => {
      const { ready } = (globalThis as unknown as { kept: Kept }).kept;
      const answer = await fetch("/v1/ack", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ receiver: ready?.receiver, epoch: ready?.epoch, ...body }),
      });
      return { status: answer.status, ...(await answer.json()) };
    }, forms);

  it("[H79] receives with the cookie, acknowledges beside it, and comes back by itself with Last-Event-ID: after a cut, and after a restart", async () => {
    const page = await openPage();
    await listen(page, "/v1/events");
    await until(async () => expect((await kept(page)).ready).toBeDefined());
    const { receiver = "", epoch = "" } = (await kept(page)).ready ?? {};
    await send(1);
    await send(2);
    await until(async () => expect(await data(page)).toEqual([1, 2]));
    expect((await messages(page)).map(({ id }) => id)).toEqual([`${epoch}:1`, `${epoch}:2`]);
    expect(await acknowledge(page, { seqs: [1] })).toEqual({ status: 200, acked: 1 });

    line.cut();
    await send(3);
    line.mend();
    await until(async () => expect(await data(page)).toEqual([1, 2, 3]));
    expect(lastIds).toEqual([undefined, `${epoch}:2`]);
    // It named no receiver, so it has a new name now, and has received what it had received.
    expect((await kept(page)).ready?.receiver).not.toBe(receiver);
    expect(await acknowledge(page, { cursor: 3, upto: 3 })).toEqual({ status: 200, acked: 2 });

    await server.restart();
    await send(4);
    await until(async () => expect(await data(page)).toEqual([1, 2, 3, 4]));
    expect((await kept(page)).events.map(({ name }) => name)).toContain("drain");
    expect(lastIds.slice(2).every((id) => id === `${epoch}:3`)).toBe(true);

    // A page that is loaded anew knows no id, and gets what was not acknowledged.
    await page.reload();
    await listen(page, "/v1/events");
    await send(5);
    await until(async () => expect(await data(page)).toEqual([4, 5]));
    expect(lastIds.at(-1)).toBeUndefined();
    expect(await acknowledge(page, { upto: 5 })).toEqual({ status: 200, acked: 2 });
    expect(await server.server.engine.totals()).toMatchObject({ accepted: 5, acked: 5, unsettled: 0 });
  });

  it("[H79] of two pages under one name the older is told so and stays away; a page whose cookie is gone is refused, and does not come back", async () => {
    const [older, newer] = [await openPage(), await openPage()];
    await listen(older, "/v1/events?receiver=tab");
    await until(async () => expect((await kept(older)).ready).toBeDefined());
    await listen(newer, "/v1/events?receiver=tab");
    await until(async () => expect((await kept(older)).readyState).toBe(2));
    expect((await kept(older)).events.at(-1)).toMatchObject({ name: "problem", value: { code: "replaced", retryable: false } });
    await send(1);
    await until(async () => expect(await data(newer)).toEqual([1]));
    expect(await data(older)).toEqual([]);
    expect(lastIds).toHaveLength(2);

    expect(await newer.evaluate(async () => (await fetch("/v1/cookie", { method: "DELETE" })).status)).toBe(204);
    line.cut();
    line.mend();
    await until(async () => expect((await kept(newer)).readyState).toBe(2));
    expect(lastIds).toHaveLength(3);
  });
});
