// Claims for x0's wire, with x0's page as it is (test/x0/client.ts): the time from the click in one page to the values shown in the other, over polling,
// and with the script line;
// how many messages a second are sent, shown and settled; and whether idle polls slow a send. Run: npm run build && node bench/x0.ts
import { App } from "../test/x0/app.ts";
import type { ClientState } from "../test/x0/client.ts";
import { pollOf, Tab, valuesOf } from "../test/x0/tab.ts";
import { median, startServer } from "./server.ts";

const CLICKS = 20;
const MEASURED_MS = 5_000;
const IDLE_POLLS = 25;

async function clicks(hasLine: boolean): Promise<void> {
  const server = await startServer("--x0", "demo");
  const app = await App.start({ server: server.url, session: (user) => `bench-${user}`, ...(hasLine ? { script: { order: "after" } } : {}) });
  const sender = await app.open(await app.person(), "one");
  const receiver = await app.open(await app.person(), "two");
  const samples: number[] = [];
  for (let click = 0; click < CLICKS; click++) {
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
  console.log(
    `click to display, x0's page ${hasLine ? "with the script line" : "over polling"}: median ${median(samples).toFixed(1)} ms of ${CLICKS} (${Math.min(...samples).toFixed(1)} to ${Math.max(...samples).toFixed(1)})`,
  );
}

/** Pairs of pages, without a browser, a preflight before every POST as a browser has it. */
async function throughput(pairs: number): Promise<void> {
  const server = await startServer("--x0", "demo");
  let isOver = false;
  let sent = 0;
  let shown = 0;
  let twice = 0;
  const latencies: number[] = [];
  const receivers = Array.from({ length: pairs }, async (_, pair) => {
    const tab = new Tab(server.url);
    const seen = new Set<unknown>();
    while (!isOver) {
      for (const value of valuesOf(await tab.poll(`receiver-${pair}`))) {
        const { Form2: text } = value as { Form2: string };
        // Each counts once, even if it was given twice.
        if (seen.has(text)) twice += 1;
        else shown += 1;
        seen.add(text);
      }
    }
  });
  const senders = Array.from({ length: pairs }, async (_, pair) => {
    const tab = new Tab(server.url);
    for (let n = 0; !isOver; n++) {
      const { body, tookMs } = await tab.send(`sender-${pair}`, `receiver-${pair}`, { Form2: `${n}` });
      if (body.status !== "ok") throw new Error(JSON.stringify(body));
      latencies.push(tookMs);
      sent += 1;
    }
  });
  await pause(1_000);
  const before = { sent, shown, at: performance.now() };
  await pause(MEASURED_MS);
  const seconds = (performance.now() - before.at) / 1000;
  const rates = [(sent - before.sent) / seconds, (shown - before.shown) / seconds].map(Math.round);
  isOver = true;
  await Promise.all(senders);
  await Promise.race([Promise.all(receivers), pause(11_000)]);
  await server.stop();
  console.log(
    `${pairs} pairs of pages: ${rates[0]} sent and ${rates[1]} shown a second (${twice} given twice in all), a send takes ${median(latencies).toFixed(1)} ms (median)`,
  );
}

async function idle(): Promise<void> {
  const server = await startServer("--x0", "demo");
  const measure = async () => {
    const tab = new Tab(server.url);
    const took: number[] = [];
    for (let n = 0; n < 50; n++) took.push((await tab.send("sender", "nobody", { n })).tookMs);
    return median(took);
  };
  await measure();
  const alone = await measure();
  const polls = await Promise.all(Array.from({ length: IDLE_POLLS }, (_, n) => new Tab(server.url).begin(pollOf(`idle-${n}`))));
  const beside = await measure();
  for (const poll of polls) poll.cut();
  await server.stop();
  console.log(`a send, median of 50: ${alone.toFixed(1)} ms alone, ${beside.toFixed(1)} ms beside ${IDLE_POLLS} idle polls`);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

for (const hasLine of [false, true]) await clicks(hasLine);
for (const pairs of [1, 20]) await throughput(pairs);
await idle();
