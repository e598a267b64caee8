/** @module */
import type { Browser, Page } from "playwright-core";
import { launchChromium } from "../../test/support/browser.ts";
import { CHROMIUM } from "../../test/support/needs.ts";
import type { Bench, Claim } from "../claim.ts";
import { median } from "../measure.ts";
import { startHandover, UNCAPPED } from "../systems/handover.ts";
import { token } from "../wires/handover.ts";

interface Client {
  on(type: string, handler: (message: { data: { n: number } }) => void): void;
  send(to: string, type: string, data: object): Promise<unknown>;
}
interface Scope {
  Handover: { connect(url: string, options: object): Client };
  client: Client;
  count: number;
  expected: number;
  wrong: number;
  lastAtMs: number;
  longTasks: number[];
}

async function open(browser: Browser, url: string, user: string): Promise<Page> {
  const context = await browser.newContext({ bypassCSP: true });
  const page = await context.newPage();
  await page.goto(`${url}/livez`);
  await page.addScriptTag({ url: "/handover.js" });
  await page.evaluate(
    ([credential]) => {
      const scope = globalThis as unknown as Scope;
      scope.count = 0;
      scope.expected = 0;
      scope.wrong = 0;
      scope.longTasks = [];
      new PerformanceObserver((list) => scope.longTasks.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask" });
      scope.client = scope.Handover.connect(location.origin, { token: async () => credential });
      scope.client.on("bench", ({ data }) => {
        if (data.n !== scope.expected) scope.wrong += 1;
        scope.expected = data.n + 1;
        scope.count += 1;
        scope.lastAtMs = performance.timeOrigin + performance.now();
      });
    },
    [await token(user)],
  );
  return page;
}

/** MB of the page's heap after a collection. */
async function heapMb(page: Page): Promise<number> {
  const session = await page.context().newCDPSession(page);
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  await session.detach();
  return usedSize / 1e6;
}

const longTasks = (page: Page) =>
  page.evaluate(() => {
    const { longTasks: all } = globalThis as unknown as Scope;
    return { count: all.length, worst: Math.max(0, ...all) };
  });

async function flood(bench: Bench, browser: Browser, url: string, messages: number, inFlight: number): Promise<void> {
  const receiver = await open(browser, url, "receiver");
  const sender = await open(browser, url, "sender");
  // Warm: both are connected, and what is compiled is compiled.
  const send = ([count, width]: [number, number]) =>
    new Promise<number>((resolve, reject) => {
      const { client } = globalThis as unknown as Scope;
      const begun = performance.now();
      let next = 0;
      let done = 0;
      const one = (): void => {
        if (next >= count) return;
        client.send("receiver", "bench", { n: next++, text: "x".repeat(270) }).then(() => {
          done += 1;
          if (done === count) resolve(performance.now() - begun);
          else one();
        }, reject);
      };
      for (let k = 0; k < width; k++) one();
    });
  const received = (count: number) => receiver.waitForFunction((want) => (globalThis as unknown as Scope).count >= want, count, { timeout: 120_000 });
  const warm = Math.min(1_000, messages);
  await sender.evaluate(send, [warm, 8] as [number, number]);
  await received(warm);
  const clear = () => {
    const scope = globalThis as unknown as Scope;
    scope.count = 0;
    scope.expected = 0;
    scope.longTasks = [];
  };
  await receiver.evaluate(clear);
  await sender.evaluate(clear);
  const before = { receiver: await heapMb(receiver), sender: await heapMb(sender), atMs: Date.now() };
  const tookMs = await sender.evaluate(send, [messages, inFlight] as [number, number]);
  await received(messages);
  const { lastAtMs, wrong, count } = await receiver.evaluate(() => {
    const { lastAtMs: last, wrong: bad, count: all } = globalThis as unknown as Scope;
    return { lastAtMs: last, wrong: bad, count: all };
  });
  if (wrong > 0 || count !== messages) throw new Error(`${count} of ${messages} came, ${wrong} out of order`);
  for (const [role, page, perSecond] of [
    ["sender", sender, messages / (tookMs / 1_000)],
    ["receiver", receiver, messages / ((lastAtMs - before.atMs) / 1_000)],
  ] as const) {
    const { count: tasks, worst } = await longTasks(page);
    const grew = (await heapMb(page)) - before[role];
    bench.note(`SDK, ${inFlight} in flight, ${role}`, { "messages/s": perSecond, "long tasks": tasks, "longest, ms": worst, "heap grew, MB": grew });
    await page.context().close();
  }
}

/** The time from the click on "Send Data" in one tab to the values shown in the other, as two people's browsers have it. */
async function clicks(bench: Bench, browser: Browser, count: number): Promise<void> {
  const server = await startHandover({ args: ["--dev"] });
  for (const transport of ["WebSocket", "long polling"]) {
    const tab = async (user: string) => {
      const context = await browser.newContext();
      if (transport !== "WebSocket") await context.addInitScript("delete window.WebSocket");
      await context.addInitScript((name) => sessionStorage.setItem("user", name), user);
      const page = await context.newPage();
      await page.goto(server.address);
      await page.locator('#connection[data-status="online"]').waitFor();
      return { context, page };
    };
    const sender = await tab("user1");
    const receiver = await tab("user2");
    await sender.page.selectOption("#destination", "user2");
    const samples: number[] = [];
    for (let click = 0; click < count; click++) {
      const text = `click ${click} ${transport}`;
      await sender.page.fill("#form2", text);
      // Both clocks are one machine's: the time of day, as each tab sees it, to a tenth of a millisecond.
      const shown = receiver.page.evaluate(
        (want) =>
          new Promise<number>((resolve) => {
            const field = document.querySelector<HTMLInputElement>("#form2");
            const look = () => (field?.value === want ? resolve(performance.timeOrigin + performance.now()) : requestAnimationFrame(look));
            look();
          }),
        text,
      );
      const clicked = sender.page.evaluate(
        () =>
          new Promise<number>((resolve) =>
            document
              .querySelector("#send")
              ?.addEventListener("click", () => resolve(performance.timeOrigin + performance.now()), { once: true, capture: true }),
          ),
      );
      await sender.page.click("#send");
      samples.push((await shown) - (await clicked));
    }
    bench.note(`Example 10, ${transport}`, { "click to display, ms": median(samples) });
    await sender.context.close();
    await receiver.context.close();
  }
  await server.stop();
}

export const browser: Claim = {
  name: "browser",
  title: "The SDK in Chromium",
  text: "Two tabs, 100,000 messages of 300 bytes; a long task is one over 50 ms; the heap is compared after a collection. And Example 10 as a person uses it: from the click in one tab to the values in the other, medians of 20.",
  async run(bench) {
    if (!bench.isChosen("handover") || !CHROMIUM.isThere) return;
    for (let round = 0; round < bench.chosen.rounds; round++) {
      const chromium = await launchChromium();
      // The sender waits for what is accepted, not for what is received: a slow machine's receiver may be more than a mailbox behind.
      const server = await startHandover({ env: UNCAPPED });
      try {
        for (const inFlight of bench.chosen.isSmoke ? [8] : [64]) await flood(bench, chromium, server.address, bench.count(100_000, 50), inFlight);
        await clicks(bench, chromium, bench.count(20, 1));
      } finally {
        await server.stop();
        await chromium.close();
      }
    }
  },
};
