/** @module */
import { CHROMIUM } from "../../test/support/needs.ts";
import { App } from "../../test/x0/app.ts";
import type { ClientState } from "../../test/x0/client.ts";
import { pollOf, Tab, valuesOf } from "../../test/x0/tab.ts";
import type { Bench, Claim } from "../claim.ts";
import { median, pause } from "../measure.ts";
import { startBare } from "../systems/bare.ts";
import { startHandover } from "../systems/handover.ts";

const X0 = { args: ["--x0", "demo"] };

async function clicks(bench: Bench, hasLine: boolean, count: number): Promise<void> {
  const server = await startHandover(X0);
  const app = await App.start({ server: server.address, session: (user) => `bench-${user}`, ...(hasLine ? { script: { order: "after" } } : {}) });
  const sender = await app.open(await app.person(), "one");
  const receiver = await app.open(await app.person(), "two");
  const samples: number[] = [];
  for (let click = 0; click < count; click++) {
    // At any moment of the poll.
    await pause(200 + Math.random() * 800);
    const text = `click ${click}`;
    const shown = receiver.page.evaluate(
      (want) =>
        new Promise<number>((resolve) => {
          const field = document.getElementById("Form2") as HTMLInputElement;
          const look = () => (field.value === want ? resolve(performance.timeOrigin + performance.now()) : requestAnimationFrame(look));
          look();
        }),
      text,
    );
    const clicked = sender.page.evaluate(
      ([to, value]) =>
        new Promise<number>((resolve) => {
          const field = (id: string) => document.getElementById(id) as HTMLInputElement;
          field("to").value = to ?? "";
          field("Form2").value = value ?? "";
          const at = () => resolve(performance.timeOrigin + performance.now());
          field("send").addEventListener("mousedown", at, { once: true, capture: true });
          field("send").dispatchEvent(new MouseEvent("mousedown"));
        }),
      ["bench-two", text],
    );
    samples.push((await shown) - (await clicked));
  }
  const { isDeaf, polls } = (await receiver.page.evaluate("x0")) as ClientState;
  if (isDeaf) throw new Error("the page is deaf");
  if (hasLine !== (polls === 0 && receiver.connections[0] === "websocket")) throw new Error("the page used another transport");
  await app.stop();
  await server.stop();
  bench.note(`click to display | Handover, ${hasLine ? "with the script line" : "x0's polling"}`, { ms: median(samples) });
}

/** Pairs of pages, without a browser, a preflight before every POST as a browser has it. @returns sent and shown a second, and what a send takes, ms */
async function throughput(address: string, pairs: number, measuredMs: number): Promise<{ sent: number; shown: number; tookMs: number }> {
  let isOver = false;
  const counts = { sent: 0, shown: 0 };
  const took: number[] = [];
  const receiving = async (_none: unknown, pair: number) => {
    const tab = new Tab(address);
    const seen = new Set<unknown>();
    while (!isOver) {
      for (const value of valuesOf(await tab.poll(`receiver-${pair}`))) {
        const { Form2: text } = value as { Form2: string };
        // Each counts once, even if it was given twice.
        if (!seen.has(text)) counts.shown += 1;
        seen.add(text);
      }
    }
  };
  const sending = async (_none: unknown, pair: number) => {
    const tab = new Tab(address);
    for (let n = 0; !isOver; n++) {
      const { body, tookMs } = await tab.send(`sender-${pair}`, `receiver-${pair}`, { Form2: `${n}` });
      if (body.status !== "ok") throw new Error(JSON.stringify(body));
      took.push(tookMs);
      counts.sent += 1;
    }
  };
  const errors = (thrown: unknown) => {
    if (!isOver) throw thrown;
  };
  for (const work of [receiving, sending]) for (let pair = 0; pair < pairs; pair++) work(undefined, pair).catch(errors);
  await pause(measuredMs / 5);
  const before = { ...counts, atMs: performance.now() };
  await pause(measuredMs);
  const seconds = (performance.now() - before.atMs) / 1_000;
  isOver = true;
  return { sent: (counts.sent - before.sent) / seconds, shown: (counts.shown - before.shown) / seconds, tookMs: median(took) };
}

/** What a send takes beside polls that get nothing, ms. */
async function besideIdle(address: string, polls: number, sends: number): Promise<number> {
  const held = await Promise.all(Array.from({ length: polls }, (_none, n) => new Tab(address).begin(pollOf(`idle-${n}`))));
  const tab = new Tab(address);
  const took: number[] = [];
  for (let n = 0; n < sends; n++) took.push((await tab.send("sender", "nobody", { n })).tookMs);
  for (const poll of held) poll.cut();
  return median(took);
}

export const x0: Claim = {
  name: "x0",
  title: "x0's wire",
  text: "x0's page as it is (test/x0/client.ts), in Chromium: from the click in one page to the values in the other, medians of 20. Pairs of pages without a browser, each sends its next form when the last was answered; the tabs are one process. *Model*: of x0's own server, by us, as its wire was observed: one thread, one request a second, a poll of ten rounds. One round of the model.",
  async run(bench) {
    const idlePolls = bench.count(25, 2);
    for (let round = 0; round < bench.chosen.rounds; round++) {
      const servers = [
        { title: "Handover", name: "handover", start: () => startHandover(X0) },
        { title: "model of x0's server", name: "x0", start: () => startBare("x0") },
      ];
      for (const { title, name, start } of servers) {
        if (!bench.isChosen(name) || (name === "x0" && (round > 0 || bench.chosen.isSmoke))) continue;
        for (const pairs of name === "x0" ? [1] : [1, bench.count(20, 2)]) {
          const server = await start();
          const { sent, shown, tookMs } = await throughput(server.address, pairs, bench.count(name === "x0" ? 12_000 : 3_000, 200));
          bench.note(`${pairs} pairs of pages | ${title}`, { "sent/s": sent, "shown/s": shown, ms: tookMs });
          await server.stop();
        }
        if (name === "x0") continue;
        const server = await start();
        await besideIdle(server.address, 0, bench.count(50, 1));
        bench.note(`a send | ${title}, alone`, { ms: await besideIdle(server.address, 0, bench.count(50, 1)) });
        bench.note(`a send | ${title}, beside 25 idle polls`, { ms: await besideIdle(server.address, idlePolls, bench.count(50, 1)) });
        await server.stop();
      }
      if (!bench.isChosen("handover") || !CHROMIUM.isThere || bench.chosen.isSmoke) continue;
      for (const hasLine of [false, true]) await clicks(bench, hasLine, 20);
    }
  },
};
