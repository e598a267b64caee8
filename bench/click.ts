// Claim: the time from the click on "Send Data" in one tab to the values shown in the other, as two people's browsers have it,
// over WebSocket and over long polling. Run: npm run build && node bench/click.ts
import type { BrowserContext, Page } from "playwright-core";
import { launchChromium } from "../test/support/browser.ts";
import { median, startServer } from "./server.ts";

const CLICKS = 20;
const server = await startServer("--dev");
const browser = await launchChromium();

async function tab(hasWebSocket: boolean): Promise<{ context: BrowserContext; page: Page; user: string }> {
  const context = await browser.newContext();
  if (!hasWebSocket) await context.addInitScript("delete window.WebSocket");
  const page = await context.newPage();
  await page.goto(server.url);
  await page.locator('#connection[data-status="online"]').waitFor();
  return { context, page, user: (await page.locator("#user-id").textContent())?.trim() ?? "" };
}

for (const transport of ["websocket", "poll"]) {
  const sender = await tab(transport === "websocket");
  const receiver = await tab(transport === "websocket");
  await sender.page.selectOption("#destination", receiver.user);
  const samples: number[] = [];
  for (let click = 0; click < CLICKS; click++) {
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
  console.log(
    `click to display, ${transport}: median ${median(samples).toFixed(1)} ms of ${CLICKS} (${Math.min(...samples).toFixed(1)} to ${Math.max(...samples).toFixed(1)})`,
  );
  await sender.context.close();
  await receiver.context.close();
}
await browser.close();
await server.stop();
