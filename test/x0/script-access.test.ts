/**
 * x0's page in Chromium with the script line, where the server is elsewhere, or may not be used as the line would: https, origins, proxies, tokens.
 * @module
 */
import { setTimeout as pause } from "node:timers/promises";
import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { blockWebSocket } from "../support/browser.ts";
import { openRelay } from "../support/demo.ts";
import { both, CHROMIUM, describeWith, OPENSSL } from "../support/needs.ts";
import { makeCertificate } from "../support/pages.ts";
import { launchBrowser, MESSAGE_HOST, type Tab } from "./app.ts";
import { FIXED, type Mode, PER_LOAD } from "./mode.ts";
import { eventually, openScene, type Scene, type SceneOptions, sendTo, texts, UNREACHABLE, valuesOf } from "./scripted.ts";

let browser: Browser;
beforeAll(async () => {
  if (CHROMIUM.isThere) browser = await launchBrowser();
});
afterAll(() => browser?.close());

const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function open(mode: Mode, options: SceneOptions = {}): Promise<Scene> {
  const scene = await openScene(mode, { browser, ...options });
  ends.push(() => scene.stop());
  return scene;
}

const shownIn = async (tab: Tab) => (await tab.state()).shown.map(({ payload }) => payload.Form2);

describeWith(both(CHROMIUM, OPENSSL), "x0's page with the script line, over https", () => {
  it.each([FIXED, PER_LOAD])("[X76] it sends and receives, although the address in x0's files is http, $name", { timeout: 60_000 }, async (mode) => {
    const tls = makeCertificate();
    let port = "";
    const script: SceneOptions["script"] = {
      order: "after",
      get origin() {
        return `https://${MESSAGE_HOST}:${port}`;
      },
    };
    const scene = await open(mode, { tls, script });
    const proxy = await openRelay(scene.started.url, tls);
    ends.push(() => proxy.close());
    ({ port } = new URL(proxy.url));
    const { app } = scene;
    const [one, other] = [await app.open(await app.person(), "s1"), await app.open(await app.person(), "s2")];
    expect(one.page.url()).toMatch(/^https:/);
    for (const text of texts(3, "secure")) expect(await one.send(mode.address("s2"), text)).toBe("successful");
    await eventually(async () => expect(await shownIn(other)).toEqual(texts(3, "secure")));
    expect([one, other].map(({ connections }) => connections)).toEqual([["websocket"], ["websocket"]]);
    await scene.settled();
    expect([...one.console, ...other.console].filter((line) => /mixed content/i.test(line))).toEqual([]);
    // Without the line, nothing leaves such a page.
    const plain = await app.open(await app.person(), "s3", true);
    await eventually(() => expect(plain.console.join()).toMatch(/mixed content/i));
  });
});

describeWith(CHROMIUM, "x0's page with the script line, where /v1 cannot be used", () => {
  it("[X77] where the page's origin is not listed x0's own polling goes on, and the console says what to do; it outlives a closed port", {
    timeout: 60_000,
  }, async () => {
    const { app, started } = await open(PER_LOAD, { flags: { origins: "" } });
    const [one, other] = [await app.open(await app.person(), "o1"), await app.open(await app.person(), "o2")];
    await eventually(async () => expect((await other.state()).polls).toBeGreaterThan(0));
    const said = other.console.filter((line) => line.startsWith("Handover:"));
    expect(said).toHaveLength(1);
    expect(said[0]).toContain(`Name their origin in HANDOVER_ORIGINS`);
    expect(said[0]).toContain(app.origin);
    for (const text of texts(3, "polled")) expect(await one.send("o2", text)).toBe("successful");
    await eventually(async () => expect(await shownIn(other)).toEqual(texts(3, "polled")));
    // x0's own client would be deaf after this.
    await started.server.close();
    await eventually(async () => expect(await other.page.locator("#handover-notice").textContent()).toMatch(/No connection/));
    await started.restart();
    await sendTo(started.url, "o2", valuesOf("afterwards"));
    await eventually(async () => expect(await shownIn(other)).toEqual([...texts(3, "polled"), "afterwards"]));
    expect((await other.state()).isDeaf).toBe(false);
    await eventually(async () => expect(await other.page.locator("#handover-notice").count()).toBe(0));
  });

  it("[X77] … likewise where a proxy passes on x0's address only; a server that is not there at all is waited for", { timeout: 60_000 }, async () => {
    // By its own polling, a page with a fixed value may be shown a message twice when the machine is slow (X21).
    const { app, started } = await open(PER_LOAD);
    const person = await app.person();
    await blockWebSocket(person);
    await person.route(/\/(v1|x0\/session)/, (route) => route.abort("connectionrefused"));
    const tab = await app.open(person, "proxied");
    await eventually(async () => expect((await tab.state()).polls).toBeGreaterThan(0));
    expect(tab.console.join()).toContain("must pass on /v1/ and /x0/ too");
    await sendTo(started.url, "proxied", valuesOf("polled"));
    await eventually(async () => expect(await shownIn(tab)).toEqual(["polled"]));

    const another = await app.person();
    let isThere = false;
    await another.route(/\/(v1|x0\/session|python)/, (route) => {
      if (isThere) return route.continue();
      // As deploy/nginx answers in its place.
      return route.request().url().includes("/python/") ? route.fulfill(UNREACHABLE) : route.abort("connectionrefused");
    });
    const page = await another.newPage();
    await page.goto(`${app.origin}/?user=absent`);
    await eventually(async () => expect(await page.locator("#handover-notice").textContent()).toMatch(/No connection/));
    expect(await page.evaluate("x0.polls")).toBe(0);
    isThere = true;
    await sendTo(started.url, "absent", valuesOf("at last"));
    await eventually(async () => expect(await page.inputValue("#Form2")).toBe("at last"));
    expect(await page.evaluate("x0.polls")).toBe(0);
  });

  it("[X77] a page without a session polls as x0's client does", { timeout: 60_000 }, async () => {
    const { app } = await open({ ...FIXED, session: async () => "" });
    const tab = await app.open(await app.person(), "none");
    expect((await tab.state()).polls).toBeGreaterThan(0);
    expect(tab.connections).toEqual([]);
  });

  it("[X78] when the token ends the person is told to load the page again, in the page's own words; with a newer one it goes on", {
    timeout: 60_000,
  }, async () => {
    const { app, started } = await open(
      { ...PER_LOAD, session: async (user) => started.token(user, { exp: Math.floor(Date.now() / 1000) + 3 }) },
      { script: { order: "after", attributes: 'data-ended="Bitte neu laden." data-offline="Keine Verbindung."' } },
    );
    const tab = await app.open(await app.person(), "brief");
    expect(tab.connections).toEqual(["websocket"]);
    await eventually(async () => expect(await tab.page.locator("#handover-notice").textContent()).toBe("Bitte neu laden."));
    await sendTo(started.url, "brief", valuesOf("waits"));
    await pause(100);
    expect(await shownIn(tab)).toEqual([]);
    await tab.reload();
    // The application may give the page a newer one.
    await tab.page.evaluate((token) => {
      (globalThis as unknown as { sysFactory: { SysSessionValue: string } }).sysFactory.SysSessionValue = token;
    }, started.token("brief"));
    await eventually(async () => expect(await shownIn(tab)).toEqual(["waits"]));
    await eventually(() => expect(tab.connections).toHaveLength(3));
    await sendTo(started.url, "brief", valuesOf("renewed"));
    await eventually(async () => expect(await shownIn(tab)).toEqual(["waits", "renewed"]));
  });
});
