/**
 * The tabs of one user in a real browser: one connection, every tab's handlers, and what happens when the tab that has the connection goes.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect, it, vi } from "vitest";
import { type App, type AppOptions, openApp, serveApp } from "../support/app.ts";
import { DEADLINE_MS, launchPlainChromium, type PlainBrowser } from "../support/browser.ts";
import { type Caller, type DemoServer, openCaller, startServer } from "../support/demo.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";
import { played } from "../support/soak.ts";

const ROUNDS = Number(process.env.HANDOVER_ROUNDS ?? 3);

vi.setConfig({ testTimeout: 40_000 + ROUNDS * 10_000, hookTimeout: 60_000 });

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
    await eventually(() => expect(among().filter((app) => app.isConnected())).toHaveLength(1)).catch(async (error) => {
      for (const app of apps) console.log(app.log.slice(-12).join(" | "));
      for (const app of apps)
        console.log(
          app.isConnected(),
          await Promise.race([
            app.page.evaluate("JSON.stringify([handover.status, handover.id, errors, document.visibilityState])"),
            new Promise((r) => setTimeout(() => r("no answer"), 1000)),
          ]),
        );
      console.log(await apps.at(-1)?.page.evaluate("navigator.locks.query().then(l=>JSON.stringify(l, null, 1))"));
      throw error;
    });
    return among().find((app) => app.isConnected()) as App;
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
        console.log(round, how);
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
});
