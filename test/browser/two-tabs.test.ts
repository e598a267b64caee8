import type { Browser, BrowserContext } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import {
  blockAllButPolling,
  blockWebSocket,
  connected,
  DEADLINE_MS,
  type FormValues,
  type Handled,
  launchChromium,
  openContext,
  openTab,
  readForm,
  received,
  sendForm,
  sent,
  type Tab,
} from "../support/browser.ts";
import { type DemoServer, openCaller, openRelay, startServer } from "../support/demo.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";

const ORDER: FormValues = { urgent: true, subject: "Order 4711", state: "Value2", notes: "Before noon, please." };
const SPECIAL: FormValues = {
  urgent: false,
  subject: `<b>bold</b> <img src=x onerror=alert(1)> "double" 'single' \\ & &amp; %20 😀👩‍👩‍👧 zażółć`,
  state: "Value3",
  notes: 'first line\n\n  third, indented\t<script>alert("no")</script>\n日本語 עברית 🏳️‍🌈\nend\\n',
};

// Each of several waits in a test has its own deadline; together they may take longer than one test usually does.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000 });

const ids = (handled: readonly Handled[]) => handled.map(({ id }) => id);

/** Waits until `check` stops throwing. */
const eventually = (check: () => void | Promise<void>) => vi.waitFor(check, { timeout: DEADLINE_MS, interval: 25 });

/** What the list shows, newest first. */
const subjects = (tab: Tab) =>
  tab.page.locator("#received > li").evaluateAll((items) => items.map((item) => item.querySelector("dd")?.textContent ?? ""));

describeWith(CHROMIUM, "Two tabs", () => {
  let browser: Browser;
  let server: DemoServer;
  let contexts: BrowserContext[];

  beforeAll(async () => {
    browser = await launchChromium();
  });
  afterAll(async () => {
    await browser?.close();
  });
  beforeEach(async () => {
    contexts = [];
    server = await startServer();
  });
  afterEach(async () => {
    await Promise.all(contexts.map((context) => context.close()));
    await server?.remove();
  });

  describe.each([{ transport: "websocket" }, { transport: "sse" }, { transport: "poll" }])("over $transport", ({ transport }) => {
    /** Another person's browser, in which only the tested transport gets through. */
    async function person(): Promise<BrowserContext> {
      const context = await openContext(browser);
      contexts.push(context);
      if (transport === "sse") await blockWebSocket(context);
      if (transport === "poll") await blockAllButPolling(context);
      return context;
    }

    async function twoTabs(): Promise<[Tab, Tab]> {
      const [first, second] = await Promise.all([person(), person()]);
      return Promise.all([openTab(first, server.url, { user: "user1" }), openTab(second, server.url, { user: "user2" })]);
    }

    it("[B1] the form's values appear in the other tab, both ways, and each side is told", async () => {
      const [one, two] = await twoTabs();
      expect(await one.page.getAttribute("#connection", "data-transport")).toBe(transport);

      await sendForm(one.page, "user2", ORDER);
      await received(two.page, ORDER.subject);
      expect(await readForm(two.page)).toEqual(ORDER);
      expect(await two.page.getAttribute("#received > li", "data-from")).toBe("user1");
      expect(await two.page.innerText("#received > li summary")).toMatch(/^user1 sent you data at \d\d:\d\d:\d\d$/m);
      expect(await two.page.innerText("#form-note")).toMatch(/^user1 sent this at \d\d:\d\d:\d\d\.$/);
      await sent(one.page, "acked");
      expect(await one.page.innerText("#sent-state")).toMatch(/^user2 had it at \d\d:\d\d:\d\d\.$/);

      const answer = { ...ORDER, urgent: false, subject: "Order 4711, confirmed", state: "Value3" };
      await sendForm(two.page, "user1", answer);
      await received(one.page, answer.subject);
      expect(await readForm(one.page)).toEqual(answer);
      await sent(two.page, "acked");

      expect(one.handled).toHaveLength(1);
      expect(two.handled).toHaveLength(1);
      expect([...one.problems, ...two.problems]).toEqual([]);
    });

    it("[B2] typed text arrives as it was: markup, quotes, emoji, newlines", async () => {
      const [one, two] = await twoTabs();
      await sendForm(one.page, "user2", SPECIAL);
      await received(two.page, SPECIAL.subject);
      expect(await readForm(two.page)).toEqual(SPECIAL);
      const shown = await two.page.locator("#received dd").evaluateAll((values) => values.map((value) => value.textContent));
      expect(shown).toEqual([SPECIAL.subject, "Done", "no", SPECIAL.notes]);
      expect(await two.page.locator("#received :is(img, script, dd b)").count()).toBe(0);
      expect([...one.problems, ...two.problems]).toEqual([]);
    });

    it("[B3] across reloads the handler runs for every message, and never for one that was acknowledged", async () => {
      const [one, two] = await twoTabs();
      await sendForm(one.page, "user2", { ...ORDER, subject: "acknowledged before" });
      await sent(one.page, "acked");

      const caller = await openCaller(server.url, "user1");
      const accepted: string[] = [];
      let isReloading = true;
      const sending = (async () => {
        while (isReloading || accepted.length < 20) {
          accepted.push(await caller.send("user2", { Form2: `number ${accepted.length}` }));
        }
      })();
      for (let times = 0; times < 4; times += 1) {
        const before = accepted.length;
        await eventually(() => expect(accepted.length).toBeGreaterThan(before + 3));
        await two.page.reload();
        await connected(two.page);
      }
      isReloading = false;
      await sending;
      expect(await two.page.innerText("#user-id")).toBe("user2");

      await eventually(() => expect(accepted.filter((id) => !ids(two.handled).includes(id))).toEqual([]));
      const first = two.handled[0]?.id;
      expect(ids(two.handled).filter((id) => id === first)).toHaveLength(1);
      for (const id of accepted) {
        const loads = two.handled.filter((run) => run.id === id).map(({ load }) => load);
        // Twice only for what was in hand: in one load of the page and in the very next one, and never twice in the same.
        expect(loads, `loads in which ${id} was handled`).toEqual(loads.map((_load, index) => (loads[0] ?? 0) + index));
      }

      await eventually(async () => expect(await Promise.all(accepted.map((id) => caller.state(id)))).toEqual(accepted.map(() => "acked")));
      const load = Math.max(...two.handled.map((run) => run.load)) + 1;
      await two.page.reload();
      await connected(two.page);
      const last = await caller.send("user2", { Form2: "the last" });
      await received(two.page, "the last");
      expect(ids(two.handled.filter((run) => run.load >= load))).toEqual([last]);
      expect([...one.problems, ...two.problems]).toEqual([]);
    });

    it("[B4] mail waits for a closed tab, in order, and the sender sees that it waits", async () => {
      const [one, two] = await twoTabs();
      const theirs = two.page.context();
      await two.page.close();
      for (const subject of ["first", "second", "third"]) await sendForm(one.page, "user2", { ...ORDER, subject });
      expect(await one.page.innerText("#sent-state")).toBe("Accepted: on disk. Waiting for user2…");

      const again = await openTab(theirs, server.url, { user: "user2" });
      await received(again.page, "third");
      expect(await subjects(again)).toEqual(["third", "second", "first"]);
      expect(again.handled).toHaveLength(3);
      await sent(one.page, "acked");
      expect([...one.problems, ...again.problems]).toEqual([]);
    });

    it("[B5] two tabs of one user both show it, once each", async () => {
      const [one, two] = await twoTabs();
      const twin = await openTab(two.page.context(), server.url, { user: "user2" });
      for (const subject of ["for both", "and this"]) {
        await sendForm(one.page, "user2", { ...ORDER, subject });
        await Promise.all([received(two.page, subject), received(twin.page, subject)]);
      }
      await sent(one.page, "acked");
      expect(two.handled).toHaveLength(2);
      expect(ids(twin.handled)).toEqual(ids(two.handled));
      expect([...one.problems, ...two.problems, ...twin.problems]).toEqual([]);
    });

    it("[B6] the server is killed between acceptance and delivery, and started again: it is delivered", async () => {
      const [one, two] = await twoTabs();
      const theirs = two.page.context();
      await two.page.close();
      await sendForm(one.page, "user2", ORDER);
      await server.kill();
      server = await server.restart();

      const again = await openTab(theirs, server.url, { user: "user2" });
      await received(again.page, ORDER.subject);
      expect(await readForm(again.page)).toEqual(ORDER);
      expect(again.handled).toHaveLength(1);
      // The sender's tab was open all the time; it comes back by itself and learns the ending.
      await connected(one.page);
      await sent(one.page, "acked");
    });

    it("[B7] an open tab that was cut off gets what was accepted before the server was killed, without a reload", async () => {
      const relay = await openRelay(server.url);
      try {
        const [first, second] = await Promise.all([person(), person()]);
        const [one, two] = await Promise.all([openTab(first, server.url, { user: "user1" }), openTab(second, relay.url, { user: "user2" })]);
        await sendForm(one.page, "user2", { ...ORDER, subject: "before" });
        await sent(one.page, "acked");
        relay.cut();
        await two.page.waitForSelector('#connection:not([data-status="online"])');
        await sendForm(one.page, "user2", { ...ORDER, subject: "while cut off" });
        expect(await one.page.getAttribute("#sent-state", "data-state")).toBe("accepted");
        await server.kill();
        server = await server.restart();
        relay.mend();
        await received(two.page, "while cut off");
        await sent(one.page, "acked");
        expect(await subjects(two)).toEqual(["while cut off", "before"]);
        expect(two.handled).toHaveLength(2);
      } finally {
        await relay.close();
      }
    });

    it("[B8] what is sent while the server is down is accepted once it is back, and once only", async () => {
      const [one, two] = await twoTabs();
      await server.kill();
      await one.page.waitForSelector('#connection:not([data-status="online"])');
      await one.page.selectOption("#destination", "user2");
      await one.page.fill("#form2", "patience");
      await one.page.press("#form2", "Enter");
      await sent(one.page, "sending");
      server = await server.restart();
      await received(two.page, "patience");
      await sent(one.page, "acked");
      const caller = await openCaller(server.url, "user1");
      await caller.send("user2", { Form2: "after it" });
      await received(two.page, "after it");
      expect(await subjects(two)).toEqual(["after it", "patience"]);
      expect(two.handled).toHaveLength(2);
    });

    it("[B9] a server killed twice under load loses nothing, and an open tab handles each message once", async () => {
      const [, two] = await twoTabs();
      const accepted: string[] = [];
      for (let lives = 0; lives < 3; lives += 1) {
        const caller = await openCaller(server.url, "user1");
        const goal = accepted.length + 15;
        const sending = (async () => {
          for (;;) accepted.push(await caller.send("user2", { Form2: `number ${accepted.length}` }));
        })();
        const stopped = expect(sending).rejects.toThrow();
        await eventually(() => expect(accepted.length).toBeGreaterThan(goal));
        await server.kill();
        await stopped;
        server = await server.restart();
      }
      await eventually(() => expect(accepted.filter((id) => !ids(two.handled).includes(id))).toEqual([]));
      const twice = ids(two.handled).filter((id, index, all) => all.indexOf(id) !== index);
      expect(twice).toEqual([]);
    });
  });
});
