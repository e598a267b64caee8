/**
 * x0's page in Chromium with the script line, when something is in the way: servers that go, networks that break, pages that are left.
 * @module
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { CommandServer } from "../support/command.ts";
import { openRelay, type Relay } from "../support/demo.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";
import { freePort } from "../support/port.ts";
import { App, launchBrowser, type Tab } from "./app.ts";
import { FIXED, PER_LOAD } from "./mode.ts";
import { eventually, openScene, type Scene, sendTo, stateOf, texts, UNREACHABLE, valuesOf } from "./scripted.ts";
import { Supervised } from "./supervised.ts";

/** How long the server is away, s. The default keeps `npm test` short; the claim is for 60. */
const OUTAGE_S = Number(process.env.X0_OUTAGE_SECONDS ?? 3);
const BACK_MS = 5_000;

let browser: Browser;
beforeAll(async () => {
  if (CHROMIUM.isThere) browser = await launchBrowser();
});
afterAll(() => browser?.close());

const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function folder(): Promise<string> {
  const data = await mkdtemp(join(tmpdir(), "handover-x0-"));
  ends.push(() => rm(data, { recursive: true, force: true }));
  return data;
}

async function pages(server: string): Promise<App> {
  const app = await App.start({ browser, server, session: (user) => `sess-${user}`, script: { order: "after" } });
  ends.push(() => app.stop());
  return app;
}

/** A scene whose pages reach the server through a network that can be cut; the script itself comes straight from it. */
async function behindRelay(mode = FIXED): Promise<{ scene: Scene; relay: Relay }> {
  // The address is known before there is a server behind it.
  let relay: Relay | undefined;
  const scene = await openScene(mode, {
    browser,
    script: {
      order: "after",
      get origin() {
        return scene.started.url;
      },
      get attributes() {
        return `data-server="${relay?.url}"`;
      },
    },
  });
  ends.push(() => scene.stop());
  relay = await openRelay(scene.started.url);
  ends.push(() => relay?.close() ?? Promise.resolve());
  return { scene, relay };
}

const shownIn = async (tab: Tab) => (await tab.state()).shown.map(({ payload }) => payload.Form2);
const notice = (page: Page) => page.locator("#handover-notice");

describeWith(CHROMIUM, "x0's page with the script line while its server is restarted", () => {
  it("[X72] under --supervise: stopped, killed and replaced, nothing is missing and nothing shown twice", { timeout: 120_000 }, async () => {
    const supervised = await Supervised.start(await folder(), ["--x0", "demo", "--drain-ms", "500"]);
    ends.push(() => supervised.stop());
    const app = await pages(supervised.url);
    const [one, other] = [await app.open(await app.person(), "one"), await app.open(await app.person(), "two")];
    const wanted: string[] = [];
    for (const end of [() => supervised.signalServer("SIGTERM"), () => supervised.signalServer("SIGKILL"), () => supervised.signal("SIGHUP")]) {
      const round = wanted.length;
      wanted.push(`before ${round}`, `while ${round}`);
      expect(await one.send("sess-two", `before ${round}`)).toBe("successful");
      const next = end();
      expect(await one.send("sess-two", `while ${round}`)).toBe("successful");
      await supervised.servers(next);
      await eventually(async () => expect(await shownIn(other)).toEqual(wanted));
    }
  });

  it("[X72] without a held port: a send made while it is closed is accepted when it is open again, once; and pages are back", {
    timeout: 120_000,
  }, async () => {
    const [data, port] = [await folder(), await freePort()];
    const begin = () => CommandServer.start(port, data, ["--x0", "demo", "--drain-ms", "500"]);
    let server = await begin();
    ends.push(() => server.kill());
    const app = await pages(server.url);
    const [one, other] = [await app.open(await app.person(), "one"), await app.open(await app.person(), "two")];
    const wanted: string[] = [];
    for (const end of [() => server.terminate(), () => server.kill()]) {
      const round = wanted.length;
      wanted.push(`while ${round}`, `after ${round}`);
      await end();
      const failed = one.page.waitForEvent("requestfailed", (request) => request.url().includes("/python/MsgHandler.py"));
      const sending = one.send("sess-two", `while ${round}`);
      await failed;
      server = await begin();
      expect(await sending).toBe("successful");
      expect(await one.send("sess-two", `after ${round}`)).toBe("successful");
      await eventually(async () => expect(await shownIn(other)).toEqual(wanted));
    }
  });

  it(`[X73] after an outage of ${OUTAGE_S} s a page is back within 5 s, and shows what was sent meanwhile; it says that it is offline, and when it is not any more`, {
    timeout: OUTAGE_S * 1_000 + 60_000,
  }, async () => {
    const [data, port] = [await folder(), await freePort()];
    const begin = () => CommandServer.start(port, data, ["--x0", "demo"]);
    let server = await begin();
    ends.push(() => server.kill());
    const app = await pages(server.url);
    const tab = await app.open(await app.person(), "one");
    const before = tab.connections.length;
    await server.kill();
    const awayAtMs = performance.now();
    await eventually(async () => expect(await notice(tab.page).textContent()).toMatch(/No connection to the message server/));
    expect(await notice(tab.page).getAttribute("role")).toBe("status");
    await pause(Math.max(0, OUTAGE_S * 1_000 - (performance.now() - awayAtMs)));
    server = await begin();
    const backAtMs = performance.now();
    await sendTo(server.url, "sess-one", valuesOf("meanwhile"));
    await eventually(() => expect(tab.connections.length).toBeGreaterThan(before));
    await eventually(async () => expect(await shownIn(tab)).toEqual(["meanwhile"]));
    const tookMs = performance.now() - backAtMs;
    console.log(`x0's page after ${OUTAGE_S} s without a server: back, and what waited is shown, after ${tookMs.toFixed(0)} ms`);
    expect(tookMs).toBeLessThan(BACK_MS);
    await eventually(async () => expect(await notice(tab.page).count()).toBe(0));
    // And by WebSocket again.
    await eventually(() => expect(tab.connections.at(-1)).toBe("websocket"));
  });
});

describeWith(CHROMIUM, "x0's page with the script line on a bad network", () => {
  it("[X74] nothing is shown twice when the page is loaded again in the moment in which a message arrives", { timeout: 60_000 }, async () => {
    const scene = await openScene(FIXED, { browser });
    ends.push(() => scene.stop());
    const { app, started } = scene;
    const tab = await app.open(await app.person(), "moment");
    for (const text of texts(10, "moment")) {
      const loaded = tab.page.waitForEvent("load");
      // The page leaves while it processes the message: the acknowledgement may have got out or not.
      await tab.page.evaluate(() => {
        const { FormlistExchangeData: form } = (globalThis as unknown as { objects: Record<string, { RuntimeSetDataFunc(payload: unknown): void }> })
          .objects;
        const original = form?.RuntimeSetDataFunc;
        if (!form) return;
        form.RuntimeSetDataFunc = (payload) => {
          original?.(payload);
          location.reload();
        };
      });
      await sendTo(started.url, "sess-moment", valuesOf(text));
      await loaded;
      await scene.settled();
    }
    expect(await shownIn(tab)).toEqual([]);
    await eventually(() => expect(scene.shownTo("moment").map(({ payload }) => payload.Form2)).toEqual(texts(10, "moment")));
  });

  it("[X74] … nor is anything lost, with reloads and a message around each", { timeout: 900_000 }, async () => {
    const rounds = Number(process.env.HANDOVER_RUNS ?? 10);
    const scene = await openScene(FIXED, { browser });
    ends.push(() => scene.stop());
    const { app } = scene;
    const [one, other] = [await app.open(await app.person(), "f1"), await app.open(await app.person(), "f2")];
    for (let round = 0; round < rounds; round++) {
      const sending = (async () => {
        await pause(Math.random() * 60);
        return one.send("sess-f2", `around ${round}`);
      })();
      await pause(Math.random() * 60);
      await other.reload();
      expect(await sending).toBe("successful");
    }
    await eventually(() => expect(scene.shownTo("f2")).toHaveLength(rounds));
    await scene.settled();
    expect(scene.shownTo("f2").map(({ payload }) => payload.Form2)).toEqual(texts(rounds, "around"));
  });

  it("[X74] … nor when the connection is cut before the acknowledgement, whether the page stays or is loaded again meanwhile", {
    timeout: 60_000,
  }, async () => {
    const { scene, relay } = await behindRelay();
    const { app, started } = scene;
    const tab = await app.open(await app.person(), "cut");
    for (const [text, isLoadedAgain] of [
      ["stays", false],
      ["leaves", true],
    ] as const) {
      const letGo = await tab.workUntilLetGo();
      const id = await sendTo(started.url, "sess-cut", valuesOf(text));
      await eventually(() => expect(app.given.filter(({ message }) => (message.payload as { Form2: string }).Form2 === text)).toHaveLength(1));
      relay.cut();
      letGo();
      await eventually(() => expect(scene.shownTo("cut").map(({ payload }) => payload.Form2)).toContain(text));
      expect(await stateOf(started.url, id)).toBe("waiting");
      const loaded = isLoadedAgain ? tab.page.waitForEvent("load") : Promise.resolve();
      const again = isLoadedAgain ? tab.reload() : Promise.resolve();
      await loaded;
      relay.mend();
      await again;
      await eventually(async () => expect(await stateOf(started.url, id)).toBe("acked"));
    }
    await sendTo(started.url, "sess-cut", valuesOf("last"));
    // The page's own word, since its reports may still be on their way.
    await eventually(async () => expect(await shownIn(tab)).toContain("last"));
    expect(await shownIn(tab)).toEqual(["last"]);
    await eventually(() => expect(scene.shownTo("cut").map(({ payload }) => payload.Form2)).toEqual(["stays", "leaves", "last"]));
    // A connection that is back at once was not worth a word.
    expect(await notice(tab.page).count()).toBe(0);
  });

  it("[X75] a send whose answer is lost is made again, with the same name, body and session, and is one message", { timeout: 60_000 }, async () => {
    const { scene, relay } = await behindRelay();
    const { app, started } = scene;
    const tab = await app.open(await app.person(), "lost");
    const names: (string | null)[] = [];
    tab.page.on("request", (request) => {
      const { pathname, searchParams } = new URL(request.url());
      if (pathname === "/python/MsgHandler.py" && request.method() === "POST") names.push(searchParams.get("a__"));
    });
    const { engine } = started.server;
    const { accepted } = await engine.totals();
    // Cut when it is on the disk and not answered yet.
    const { append } = engine;
    engine.append = async (messages) => {
      const outcomes = await append.call(engine, messages);
      relay.cut();
      engine.append = append;
      return outcomes;
    };
    const sending = tab.send("sess-lost-2", "once");
    await eventually(() => expect(names.length).toBeGreaterThan(1));
    expect((await tab.state()).sent).toEqual(["sending"]);
    relay.mend();
    expect(await sending).toBe("successful");
    expect(new Set(names).size).toBe(1);
    expect((await engine.totals()).accepted - accepted).toBe(1);
    const other = await app.open(await app.person(), "lost-2");
    await eventually(async () => expect(await shownIn(other)).toEqual(["once"]));
  });

  it("[X75] … so is one that a proxy answers in the server's place", { timeout: 60_000 }, async () => {
    const scene = await openScene(FIXED, { browser });
    ends.push(() => scene.stop());
    const person = await scene.app.person();
    let refused = 0;
    await person.route(/\/python\/MsgHandler/, (route) => (refused++ < 2 ? route.fulfill(UNREACHABLE) : route.continue()));
    const tab = await scene.app.open(person, "proxy");
    expect(await tab.send("sess-proxy-2", "at last")).toBe("successful");
    expect(refused).toBeGreaterThan(2);
    expect((await scene.started.server.engine.totals()).accepted).toBe(1);
  });

  it("[X75] where the browser keeps nothing, a send that is never answered is unsuccessful after 30 s, and does not turn for ever", {
    timeout: 60_000,
  }, async () => {
    const { scene, relay } = await behindRelay();
    const { app } = scene;
    const person = await app.person();
    await person.addInitScript("Object.defineProperty(globalThis, 'indexedDB', { value: undefined })");
    // The page's own clock, so that nobody waits.
    await person.clock.install();
    const tab = await app.open(person, "never");
    relay.cut();
    const failed = tab.page.waitForEvent("requestfailed", (request) => request.url().includes("/python/MsgHandler.py"));
    const sending = tab.send("sess-never-2", "never");
    await failed;
    await person.clock.runFor(20_000);
    expect((await tab.state()).sent).toEqual(["sending"]);
    let seconds = 20;
    for (; seconds < 40 && (await tab.state()).sent[0] === "sending"; seconds++) {
      await person.clock.runFor(1_000);
      // In which a try fails, by the clock of the machine.
      await pause(50);
    }
    expect((await tab.state()).sent).toEqual(["unsuccessful"]);
    expect(await sending).toBe("unsuccessful");
  });
});

/** How many sends the page keeps. */
const KEPT = `new Promise((resolve) => {
  const opening = indexedDB.open("handover-x0 " + document.querySelector("[data-server]").dataset.server);
  opening.onsuccess = () => {
    const count = opening.result.transaction("outbox").objectStore("outbox").count();
    count.onsuccess = () => resolve(count.result);
    opening.result.close();
  };
})`;
const keeps = (tab: Tab, count: number) => eventually(async () => expect(await tab.page.evaluate(KEPT)).toBe(count));

describeWith(CHROMIUM, "what x0's page with the script line sends while the server cannot be reached", () => {
  it.each([FIXED, PER_LOAD])(
    "[X79] it arrives once and in order, after a reload in between, also what had been accepted already, $name",
    {
      timeout: 60_000,
    },
    async (mode) => {
      const { scene, relay } = await behindRelay(mode);
      const { app, started } = scene;
      const to = mode.address("kept-2");
      const tab = await app.open(await app.person(), "kept");
      const { engine } = started.server;
      const { accepted } = await engine.totals();
      const { append } = engine;
      // Cut when it is on the disk and not answered yet.
      const isCut = new Promise<void>((resolve) => {
        engine.append = async (messages) => {
          const outcomes = await append.call(engine, messages);
          relay.cut();
          engine.append = append;
          resolve();
          return outcomes;
        };
      });
      const wanted = texts(4, "kept");
      for (const [index, text] of wanted.entries()) {
        await tab.press(to, text);
        await isCut;
        await keeps(tab, index + 1);
      }
      expect((await tab.state()).sent).toEqual(wanted.map(() => "sending"));
      // Loaded without the server, and then with it.
      await tab.page.reload();
      await tab.press(to, "later");
      await keeps(tab, 5);
      await tab.page.reload();
      expect((await engine.totals()).accepted - accepted).toBe(1);
      relay.mend();
      await keeps(tab, 0);
      const other = await app.open(await app.person(), "kept-2");
      await eventually(async () => expect(await shownIn(other)).toEqual([...wanted, "later"]));
      expect((await engine.totals()).accepted - accepted).toBe(5);
      // And what comes now goes as ever.
      expect(await tab.send(to, "now")).toBe("successful");
      await keeps(tab, 0);
    },
  );

  it("[X79] a page that is offline says that it sends until it has sent, however long that is, and another tab sends what a closed one has left", {
    timeout: 60_000,
  }, async () => {
    const { scene, relay } = await behindRelay();
    const { app, started } = scene;
    const person = await app.person();
    const [tab, beside] = [await app.open(person, "away"), await app.open(person, "away")];
    await person.setOffline(true);
    await tab.press("sess-away-2", "stays");
    await beside.press("sess-away-2", "closes");
    await keeps(tab, 2);
    await beside.page.close();
    // Half a minute later, by the page's own clock.
    await tab.page.evaluate("{ const now = Date.now; Date.now = () => now() + 40_000; }");
    relay.cut();
    await person.setOffline(false);
    await eventually(async () => expect(await notice(tab.page).textContent()).toMatch(/Messages go and arrive when it is back/));
    expect((await tab.state()).sent).toEqual(["sending"]);
    relay.mend();
    await eventually(async () => expect((await tab.state()).sent).toEqual(["successful"]));
    await keeps(tab, 0);
    const other = await app.open(await app.person(), "away-2");
    await eventually(async () => expect((await shownIn(other)).sort()).toEqual(["closes", "stays"]));
    expect((await started.server.engine.totals()).accepted).toBe(2);
  });

  it("[X79] one that is refused for good by then is told to the console, and holds up nothing; nobody sends another's", {
    timeout: 60_000,
  }, async () => {
    const { scene, relay } = await behindRelay(PER_LOAD);
    const { app, started } = scene;
    const person = await app.person();
    const tab = await app.open(person, "first");
    relay.cut();
    await tab.press("two words", "refused");
    await tab.press("first-2", "good");
    await keeps(tab, 2);
    // No key to anything is left in the browser.
    const session = await tab.page.evaluate("sysFactory.SysSessionValue");
    const all = await tab.page.evaluate(KEPT.replace("count()", "getAll()"));
    expect(JSON.stringify(all)).toContain("two words");
    expect(JSON.stringify(all)).not.toContain(session);
    await tab.page.reload();
    relay.mend();
    await keeps(tab, 0);
    expect(tab.console.filter((line) => line.includes("a message of an earlier page was not sent"))).toHaveLength(1);
    const other = await app.open(await app.person(), "first-2");
    await eventually(async () => expect(await shownIn(other)).toEqual(["good"]));
    relay.cut();
    await tab.press("first-2", "left behind");
    await keeps(tab, 1);
    await tab.page.close();
    // A try of this page's own can lie in the relay's queue; mended at once, the relay would still take it.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    relay.mend();
    const { accepted } = await started.server.engine.totals();
    const next = await app.open(person, "second");
    await keeps(next, 0);
    expect(await next.send("first-2", "the next one's")).toBe("successful");
    expect((await started.server.engine.totals()).accepted - accepted).toBe(1);
  });
});
