/** Example 10 with `handover serve` on RabbitMQ: the promise, as a person sees it. What does not depend on the engine is in two-tabs.test.ts. */
import type { Browser, BrowserContext } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import {
  blockAllButPolling,
  connected,
  type FormValues,
  launchChromium,
  openContext,
  openTab,
  readForm,
  received,
  sendForm,
  sent,
  type Tab,
} from "../support/browser.ts";
import { type DemoServer, startServer } from "../support/demo.ts";
import { AMQP_URL, both, CHROMIUM, describeWith, RABBITMQ } from "../support/needs.ts";

const ORDER: FormValues = { urgent: true, subject: "Order 4711", state: "Value2", notes: "Before noon, please." };

vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000 });

describeWith(both(CHROMIUM, RABBITMQ), "Two tabs on RabbitMQ", () => {
  let browser: Browser;
  let server: DemoServer;
  let contexts: BrowserContext[];

  beforeAll(async () => {
    [browser, server] = await Promise.all([launchChromium(), startServer(AMQP_URL)]);
  });
  afterAll(async () => {
    await Promise.all([browser?.close(), server?.remove()]);
  });
  beforeEach(() => {
    contexts = [];
  });
  afterEach(() => Promise.all(contexts.map((context) => context.close())));

  describe.each([{ transport: "websocket" }, { transport: "poll" }])("over $transport", ({ transport }) => {
    async function twoTabs(): Promise<[Tab, Tab]> {
      contexts = await Promise.all([openContext(browser), openContext(browser)]);
      if (transport === "poll") await Promise.all(contexts.map(blockAllButPolling));
      const [one, two] = await Promise.all(contexts.map((context, place) => openTab(context, server.url, { user: `user${place + 1}` })));
      if (!one || !two) throw new Error("two tabs were opened");
      return [one, two];
    }

    it("[Q8] Example 10 on RabbitMQ: the form's values appear in the other tab, both ways, and each side is told", async () => {
      const [one, two] = await twoTabs();
      expect(await one.page.getAttribute("#connection", "data-transport")).toBe(transport);
      await sendForm(one.page, "user2", ORDER);
      await received(two.page, ORDER.subject);
      expect(await readForm(two.page)).toEqual(ORDER);
      await sent(one.page, "acked");
      const answer = { ...ORDER, urgent: false, subject: "Order 4711, confirmed", state: "Value3" };
      await sendForm(two.page, "user1", answer);
      await received(one.page, answer.subject);
      expect(await readForm(one.page)).toEqual(answer);
      await sent(two.page, "acked");
      expect([one.handled.length, two.handled.length]).toEqual([1, 1]);
      expect([...one.problems, ...two.problems]).toEqual([]);
    });

    it("[Q9] Example 10 on RabbitMQ: a tab that was closed finds what was sent meanwhile", async () => {
      const [one, two] = await twoTabs();
      const theirs = two.page.context();
      await two.page.close();
      await sendForm(one.page, "user2", ORDER);
      await sendForm(one.page, "user2", { ...ORDER, subject: "the second" });
      expect(await one.page.getAttribute("#sent-state", "data-state")).toBe("accepted");
      const again = await openTab(theirs, server.url, { user: "user2" });
      await received(again.page, "the second");
      await sent(one.page, "acked");
      expect(again.handled).toHaveLength(2);
    });

    it("[Q10] Example 10 on RabbitMQ: the server is killed between acceptance and delivery, and started again: it is delivered", async () => {
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
      await connected(one.page);
      await sent(one.page, "acked");
    });
  });
});
