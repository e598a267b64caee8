/**
 * The tabs of one user in a real browser: one connection, every tab's handlers, and what happens when the tab that has the connection goes.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect, it, vi } from "vitest";
import { connect } from "../../src/client/index.ts";
import { type App, type AppOptions, openApp, serveApp } from "../support/app.ts";
import { DEADLINE_MS, launchPlainChromium, type PlainBrowser } from "../support/browser.ts";
import { type Caller, type DemoServer, openCaller, startServer } from "../support/demo.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";
import { played } from "../support/soak.ts";

const ROUNDS = Number(process.env.HANDOVER_ROUNDS ?? 3);

const MESSAGES = Number(process.env.HANDOVER_MESSAGES ?? 2_000);

vi.setConfig({ testTimeout: MESSAGES * 10 + 40_000 + ROUNDS * 10_000, hookTimeout: 60_000 });

/** How many sends the page keeps. */
const KEPT = `indexedDB.databases().then(([{ name }]) => new Promise((resolve) => {
  const opening = indexedDB.open(name);
  opening.onsuccess = () => {
    const count = opening.result.transaction("outbox").objectStore("outbox").count();
    count.onsuccess = () => resolve(count.result);
    opening.result.close();
  };
}))`;

/** On the WebSocket they get lost. */
const LOSE_ACKS = `(() => {
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (text) { if (!String(text).includes('"op":"ack"')) send.call(this, text); };
})()`;

const eventually = (check: () => void | Promise<void>) => vi.waitFor(check, { timeout: DEADLINE_MS, interval: 25 });
const sorted = (texts: readonly string[]) => [...texts].sort();

describeWith(CHROMIUM, "The tabs of one user", () => {
  let browser: PlainBrowser;
  let server: DemoServer;
  let caller: Caller;
  let apps: App[];

  beforeAll(async () => {
    browser = await launchPlainChromium();
  });
  afterAll(async () => {
    await browser?.close();
  });
  beforeEach(async () => {
    apps = [];
    // Of another address each time: nothing that a page keeps is another test's.
    server = await startServer();
    caller = await openCaller(server.url, "user1");
  });
  afterEach(async () => {
    await Promise.all(apps.map((app) => app.page.close()));
    await server?.remove();
  });

  const tokenOf = async (user: string) => {
    const answer = await fetch(`${server.url}/demo/session`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user }),
    });
    return ((await answer.json()) as { token: string }).token;
  };
  const serve = async (options: Partial<AppOptions> = {}) => serveApp(browser.context, server.url, { token: await tokenOf("user2"), ...options });
  const open = async (): Promise<App> => {
    const app = await openApp(browser.context, server.url);
    apps.push(app);
    await app.online();
    return app;
  };
  const openMany = async (count: number): Promise<void> => {
    for (let index = 0; index < count; index += 1) apps.push(await openApp(browser.context, server.url));
    await Promise.all(apps.map((app) => app.online()));
  };
  const close = async (app: App) => {
    apps.splice(apps.indexOf(app), 1);
    await app.page.close();
  };
  const connected = () => apps.filter((app) => app.isConnected());
  /** The one tab that has the connection. */
  const leader = async (among: () => readonly App[] = () => apps) => {
    await eventually(() => expect(among().filter((app) => app.isConnected())).toHaveLength(1));
    return among().find((app) => app.isConnected()) as App;
  };
  /** What waits in a user's mailbox, in order. */
  const readAll = async (user: string, count: number): Promise<unknown[]> => {
    const got: unknown[] = [];
    const handover = connect(server.url, { token: () => tokenOf(user) });
    handover.on("note", (message) => got.push(message.data));
    await eventually(() => expect(got.length).toBeGreaterThanOrEqual(count));
    await handover.close();
    return got;
  };
  const send = (text: string, type = "note") => caller.send("user2", text, type);
  const shows = (app: App, texts: readonly string[]) => eventually(async () => expect(sorted(await app.shown())).toEqual(sorted(texts)));
  const acked = (id: string) => eventually(async () => expect(await caller.state(id)).toBe("acked"));

  it("[C31] 20 tabs share one connection over HTTP/1.1, and each shows each message once", async () => {
    await serve();
    await openMany(20);
    await leader();
    const sent: string[] = [];
    for (const text of ["a", "b", "c"]) sent.push(await send(text));
    for (const app of apps) await eventually(async () => expect(await app.shown()).toEqual(["a", "b", "c"]));
    for (const id of sent) await acked(id);
    expect(connected()).toHaveLength(1);
    expect(apps.flatMap((app) => app.problems)).toEqual([]);
  });

  it("[C32] the leader closes, crashes, is frozen or hangs: another tab takes over; nothing is lost and nothing shown twice", async () => {
    await serve();
    await openMany(4);
    /** What each tab must have shown. */
    const due = new Map(apps.map((app) => [app, [] as string[]]));
    const slowest = new Map<string, number>();
    const sent: string[] = [];
    let count = 0;
    const sendAll = async (to: readonly App[], texts: number) => {
      for (let index = 0; index < texts; index += 1) {
        const text = `number ${++count}`;
        sent.push(await send(text));
        for (const app of to) due.get(app)?.push(text);
      }
    };
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const how of ["close", "crash", "freeze", "hang"] as const) {
        const first = await leader();
        await sendAll(apps, 2);
        if (how !== "freeze") for (const app of apps) await shows(app, due.get(app) ?? []);
        const startedMs = performance.now();
        if (how === "close") void close(first);
        else if (how === "crash") void first.crash().then(() => close(first));
        else if (how === "freeze") await first.freeze();
        else first.hang(2_500);
        const others = apps.filter((app) => app !== first);
        // What comes in the middle of it; a tab that is frozen or hangs shows it when it can again.
        await sendAll(how === "close" || how === "crash" ? others : apps, 3);
        await leader(() => others);
        slowest.set(how, Math.max(slowest.get(how) ?? 0, performance.now() - startedMs));
        for (const app of others) await shows(app, due.get(app) ?? []);
        if (how === "freeze") await first.thaw();
        if (how === "close" || how === "crash") due.set(await open(), []);
        else await shows(first, due.get(first) ?? []);
      }
    }
    for (const app of apps) await shows(app, due.get(app) ?? []);
    for (const id of sent) await acked(id);
    expect(apps.flatMap((app) => app.problems)).toEqual([]);
    const times = [...slowest].map(([how, ms]) => `${how} ${Math.round(ms)} ms`).join(", ");
    played(`${ROUNDS} rounds, ${count} messages; slowest takeover: ${times}`);
  });

  it("[C34] what a page sends while the server is away arrives once, also after a reload in between, and onQueued says that it waits", async () => {
    await serve();
    const app = await open();
    await server.kill();
    await app.until("handover.status.state !== 'online'");
    // In this page, and then, with its answer still open, in the next one.
    await app.page.evaluate(`(async () => {
      for (const text of ["one", "two", "three"]) await new Promise((kept) => void handover.send("user3", "note", text, { onQueued: kept }).catch(() => {}));
    })()`);
    await app.page.reload();
    await app.page.evaluate(
      `new Promise((kept) => void handover.send("user3", "note", "four", { onQueued: kept }).then(() => { globalThis.isAccepted = true; }))`,
    );
    server = await server.restart();
    await app.until("globalThis.isAccepted === true");
    const got = await readAll("user3", 4);
    // Those of one page in their order.
    expect(got.filter((text) => text !== "four")).toEqual(["one", "two", "three"]);
    expect(got).toContain("four");
    await eventually(async () => expect(await app.page.evaluate(KEPT)).toBe(0));
  });

  it("[C35] a kept send that the server refuses for good is given back, with the reason, to the page that is there by then", async () => {
    await serve();
    const app = await open();
    await server.kill();
    await app.until("handover.status.state !== 'online'");
    await app.page.evaluate(`new Promise((kept) => void handover.send("nobody but spaces", "note", "wrong", { onQueued: kept }).catch(() => {}))`);
    await app.page.reload();
    server = await server.restart();
    await app.until("unsent.length === 1");
    expect(await app.page.evaluate("({ ...unsent[0].message, code: unsent[0].error.code })")).toMatchObject({
      to: { user: "nobody but spaces" },
      type: "note",
      data: "wrong",
      code: "bad-request",
    });
    expect(await app.page.evaluate(KEPT)).toBe(0);
  });

  it("[C36] another user finds nothing of the last one's", async () => {
    await serve();
    const app = await open();
    await server.kill();
    await app.until("handover.status.state !== 'online'");
    await app.page.evaluate(`new Promise((kept) => void handover.send("user1", "note", "mine", { onQueued: kept }).catch(() => {}))`);
    expect(await app.page.evaluate(KEPT)).toBe(1);
    server = await server.restart();
    await app.page.goto("about:blank");
    await browser.context.unroute(`${server.url}/app*`);
    await serveApp(browser.context, server.url, { token: await tokenOf("user3") });
    await app.page.goto(`${server.url}/app`);
    await app.online();
    const names = await app.page.evaluate("indexedDB.databases().then((all) => all.map(({ name }) => name))");
    expect(names).toEqual([`handover ${server.url} user3`]);
  });

  it("[C37] a message that was processed is not shown again after a reload, nor in a tab that is opened later, although its acknowledgement was lost", async () => {
    await serve();
    const app = await open();
    // The page's last word too.
    await app.page.evaluate(LOSE_ACKS);
    await app.page.evaluate("(() => { globalThis.fetch = () => new Promise(() => {}); })()");
    const id = await send("once");
    await shows(app, ["once"]);
    expect(await caller.state(id)).toBe("waiting");
    await app.page.reload();
    await acked(id);
    const later = await open();
    await send("next");
    await shows(app, ["once", "next"]);
    await shows(later, ["next"]);
  });

  it("[C38] acknowledged when the handlers of all tabs are done: one that fails in a tab comes again there and nowhere else", async () => {
    await serve();
    await openMany(3);
    const [slow, failing] = apps as [App, App, App];
    await slow.evaluate((scope) => {
      scope.work = () => new Promise<void>((resolve) => Object.assign(scope, { finish: resolve }));
    });
    await failing.evaluate((scope) => {
      let calls = 0;
      scope.work = () => {
        calls += 1;
        if (calls === 1) throw new Error("not yet");
      };
    });
    const id = await send("for all");
    await shows(apps[2] as App, ["for all"]);
    await slow.until("globalThis.finish !== undefined");
    expect(await caller.state(id)).toBe("waiting");
    await slow.page.evaluate("finish()");
    await acked(id);
    for (const app of apps) await shows(app, ["for all"]);
  });

  it("[C38] a tab that closes in the middle is waited for no longer; what only it wanted waits for the next tab that does", async () => {
    await serve();
    await openMany(2);
    const first = await leader();
    const other = apps.find((app) => app !== first) as App;
    await other.evaluate((scope) => {
      scope.work = () => new Promise(() => {});
      scope.handover.on("rare", () => new Promise(() => {}));
    });
    const [id, rare] = [await send("a"), await send("b", "rare")];
    await shows(first, ["a"]);
    expect([await caller.state(id), await caller.state(rare)]).toEqual(["waiting", "waiting"]);
    await close(other);
    await acked(id);
    expect(await caller.state(rare)).toBe("waiting");
    await first.evaluate((scope) => {
      scope.handover.on("rare", () => {});
    });
    await acked(rare);
  });

  it("[C39] without Web Locks, or with share: false, every tab has a connection of its own, and shows each message once", async () => {
    await serve({ share: false });
    await openMany(2);
    await browser.context.unroute(`${server.url}/app*`);
    await serve();
    await browser.context.addInitScript("if (location.search === '?bare') Object.defineProperty(navigator, 'locks', { value: undefined })");
    const bare = await openApp(browser.context, server.url, "?bare");
    apps.push(bare);
    await bare.online();
    expect(connected()).toHaveLength(3);
    const id = await send("each");
    for (const app of apps) await shows(app, ["each"]);
    await acked(id);
  });

  it("[C66] where the browser keeps nothing the page says what that means, once, and works, with its other tabs", async () => {
    await serve();
    await browser.context.addInitScript("if (location.search === '?forgetful') Object.defineProperty(globalThis, 'indexedDB', { value: undefined })");
    for (let count = 0; count < 2; count += 1) {
      const app = await openApp(browser.context, server.url, "?forgetful");
      apps.push(app);
      await app.online();
    }
    const first = await leader();
    const id = await send("shown");
    for (const app of apps) await shows(app, ["shown"]);
    await acked(id);
    await first.page.evaluate("handover.send('user3', 'note', 'sent')");
    expect(await readAll("user3", 1)).toEqual(["sent"]);
    await server.kill();
    await first.until("handover.status.state === 'offline'");
    server = await server.restart();
    await first.online();
    const warned = await first.page.evaluate("warnings");
    expect(warned).toEqual([expect.stringMatching(/keeps nothing: after a reload, messages may be shown again, and sends that waited are lost/)]);
  });

  it("[C67] without its own part of the SDK a page says so, once, and works, as a receiver of its own; with it again it shares", async () => {
    await serve();
    const usual = await open();
    let isMissing = true;
    await browser.context.route(`${server.url}/handover-page.js*`, (route) => (isMissing ? route.abort() : route.fallback()));
    const app = await open();
    expect(connected()).toHaveLength(2);
    const id = await send("each");
    for (const each of apps) await shows(each, ["each"]);
    await acked(id);
    await app.page.evaluate("handover.send('user3', 'note', 'sent')");
    expect(await readAll("user3", 1)).toEqual(["sent"]);
    // Not said while there is no server, nor again after it.
    await server.kill();
    await app.until("handover.status.state === 'offline'");
    server = await server.restart();
    await app.online();
    expect(await app.page.evaluate("warnings")).toEqual([expect.stringMatching(/alone and keeps nothing: .*handover-page\.js/)]);
    isMissing = false;
    await server.kill();
    await app.until("handover.status.state === 'offline'");
    server = await server.restart();
    for (const each of apps) await each.online();
    await leader();
    const next = await send("shared");
    for (const each of apps) await shows(each, ["each", "shared"]);
    await acked(next);
    expect([...usual.problems, ...app.problems]).toEqual([]);
  });

  it("[C40] a page that is left says once more what it has processed, and one that comes back from the back/forward cache goes on", async () => {
    await serve();
    const app = await open();
    await app.page.evaluate(LOSE_ACKS);
    const first = await send("first");
    await shows(app, ["first"]);
    expect(await caller.state(first)).toBe("waiting");
    await app.page.evaluate("globalThis.isSame = true");
    await app.page.goto("about:blank");
    await acked(first);
    const second = await send("meanwhile");
    await app.page.goBack({ waitUntil: "commit" });
    await shows(app, ["first", "meanwhile"]);
    expect(await app.page.evaluate("globalThis.isSame")).toBe(true);
    await app.page.evaluate("dispatchEvent(new Event('pagehide'))");
    await acked(second);
    expect(app.problems).toEqual([]);
  });

  it("[C41] very many messages through a page: each handled once, its memory stays flat, and no task is long", async () => {
    await serve({ types: ["note"] });
    const app = await open();
    await app.page.evaluate("globalThis.count = 0; handover.on('count', () => void count++)");
    const heapBytes = await app.heap();
    const token = await tokenOf("user1");
    const sender = connect(server.url, { token: () => token });
    let middle = 0;
    let longest: Awaited<ReturnType<App["tasks"]>> | undefined;
    for (let sent = 0; sent < MESSAGES; ) {
      await Promise.all(Array.from({ length: 100 }, () => sender.send("user2", "count", { number: sent++ })));
      // The mailbox holds 10,000.
      if (sent % 2_000 === 0) await vi.waitFor(async () => expect(await app.page.evaluate("count")).toBeGreaterThanOrEqual(sent - 1_000), 120_000);
      // By then what is remembered has its full size.
      if (sent === Math.min(20_000, MESSAGES / 2)) {
        middle = await heapBytes();
        // From here on, since collecting the garbage takes its time.
        longest = await app.tasks();
      }
    }
    await sender.close();
    await eventually(async () => expect(await app.page.evaluate("count")).toBe(MESSAGES));
    const { wallMs, cpuMs } = (await longest?.()) ?? { wallMs: Number.NaN, cpuMs: Number.NaN };
    const growth = (await heapBytes()) - middle;
    played(
      `${MESSAGES} messages, heap ${Math.round(growth / 1024)} KiB more at the end than in the middle, longest task ${Math.round(cpuMs)} ms (${Math.round(wallMs)} ms with its waiting for a core)`,
    );
    expect(growth).toBeLessThan(4 * 1_048_576);
    expect(cpuMs).toBeGreaterThan(0);
    // By the time that it had a core: what others have of the machine is no work of the page's.
    expect(cpuMs).toBeLessThanOrEqual(50);
  });
});

describeWith(CHROMIUM, "Tabs of one user that are hidden, with the browser's slowest timers", () => {
  it("[C68] they receive, acknowledge and send, and one takes over from another, without a timer; after an outage they are back when they are shown", async () => {
    // Once a minute, after a second instead of five minutes.
    const browser = await launchPlainChromium("--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/1");
    let server = await startServer();
    try {
      const caller = await openCaller(server.url, "user1");
      const answer = await fetch(`${server.url}/demo/session`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ user: "user2" }),
      });
      await serveApp(browser.context, server.url, { token: ((await answer.json()) as { token: string }).token });
      const apps = [await openApp(browser.context, server.url), await openApp(browser.context, server.url)];
      for (const app of apps) await app.online();
      const front = await browser.context.newPage();
      await front.bringToFront();
      for (const { page } of apps) {
        expect(await page.evaluate("document.visibilityState")).toBe("hidden");
        await page.evaluate("globalThis.beats = 0, setInterval(() => { beats += 1; }, 50)");
      }
      const stoodFor2s = async ({ page }: App) => {
        const before = await page.evaluate("beats");
        await front.waitForTimeout(2_000);
        return (await page.evaluate("beats")) === before;
      };
      /** Whether its timers stand still: none in two seconds, or, where the one of the minute came, in the next two. */
      const stands = async (app: App) => (await stoodFor2s(app)) || (await stoodFor2s(app));
      for (const app of apps) await vi.waitFor(async () => expect(await stands(app)).toBe(true), { timeout: 40_000, interval: 100 });
      const startedMs = performance.now();
      const first = await caller.send("user2", "one", "note");
      for (const app of apps) await eventually(async () => expect(await app.shown()).toEqual(["one"]));
      await eventually(async () => expect(await caller.state(first)).toBe("acked"));
      const leading = apps.find((app) => app.isConnected()) as App;
      const other = apps.find((app) => app !== leading) as App;
      for (const { page } of apps) await page.evaluate("handover.send('user3', 'note', 'sent')");
      // One that is under way when the leader goes, too.
      await other.page.evaluate("globalThis.isSent = false; void handover.send('user3', 'note', 'under way').then(() => { isSent = true; })");
      await leading.page.close();
      await eventually(() => expect(other.isConnected()).toBe(true));
      const second = await caller.send("user2", "two", "note");
      await eventually(async () => expect(await other.shown()).toEqual(["one", "two"]));
      await eventually(async () => expect(await caller.state(second)).toBe("acked"));
      await eventually(async () => expect(await other.page.evaluate("isSent")).toBe(true));
      expect(performance.now() - startedMs).toBeLessThan(DEADLINE_MS);
      expect(await stands(other)).toBe(true);
      await server.kill();
      server = await server.restart();
      await other.page.bringToFront();
      await other.online();
      await (await openCaller(server.url, "user1")).send("user2", "three", "note");
      await eventually(async () => expect(await other.shown()).toEqual(["one", "two", "three"]));
      expect(other.problems).toEqual([]);
    } finally {
      await browser.close();
      await server.remove();
    }
  });
});
