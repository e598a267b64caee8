/**
 * Real tabs for tests: Chromium through playwright-core, and the page of Example 10 as a person uses it.
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { WebSocketServer } from "ws";
import { CHROMIUM_PATH } from "./needs.ts";

const IMAGES = fileURLToPath(new URL("../../docs/images/", import.meta.url));

/** How long a test waits for what must happen in a tab: a loaded machine, not a fast one, sets it. */
export const DEADLINE_MS = 20_000;

/** @param more  further switches of the command */
export async function launchChromium(...more: readonly string[]): Promise<Browser> {
  return chromium.launch({
    executablePath: CHROMIUM_PATH,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...more,
    ],
  });
}

/** A browser as a person has it: tabs can be hidden and frozen, and pages come back from the back/forward cache. */
export interface PlainBrowser {
  /** Its one context. */
  readonly context: BrowserContext;
  close(): Promise<void>;
}

/** Starts a browser without what playwright does to one, such as the emulation of focus, by which no tab is ever hidden. */
export async function launchPlainChromium(...more: readonly string[]): Promise<PlainBrowser> {
  const profile = await mkdtemp(join(tmpdir(), "handover-chromium-"));
  const args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", ...more];
  const child = spawn(CHROMIUM_PATH, [...args, "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const end = () => child.kill("SIGKILL");
  process.once("exit", end);
  const gone = once(child, "exit");
  let output = "";
  const address = await new Promise<string>((resolve, reject) => {
    child.stderr.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      const found = /ws:\/\/127\.0\.0\.1:\S+/.exec(output);
      if (found) resolve(found[0]);
    });
    child.once("exit", (code) => reject(new Error(`Chromium ended with ${code}: ${output}`)));
  });
  const browser = await chromium.connectOverCDP(address, { noDefaults: true });
  const context = browser.contexts()[0] as BrowserContext;
  context.setDefaultTimeout(DEADLINE_MS);
  return {
    context,
    async close() {
      await browser.close();
      child.kill("SIGKILL");
      await gone;
      process.off("exit", end);
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** A browser of its own, as of another person: nothing is shared with other contexts. */
export async function openContext(browser: Browser, options: BrowserContextOptions = {}): Promise<BrowserContext> {
  const context = await browser.newContext({
    locale: "en-GB",
    timezoneId: "UTC",
    viewport: { width: 1180, height: 1020 },
    // Drawn without a graphics card, every movement costs a core that the test needs.
    reducedMotion: "reduce",
    ...options,
  });
  context.setDefaultTimeout(DEADLINE_MS);
  return context;
}

/** Only long polling gets through. */
export async function blockAllButPolling(context: BrowserContext): Promise<void> {
  await blockWebSocket(context);
  // Not by a route: of what that breaks off the console speaks, and a page's console is to be silent.
  await context.addInitScript(() => {
    const request = globalThis.fetch;
    globalThis.fetch = (input, init) =>
      String(input).includes("/v1/events?") ? Promise.reject(new TypeError("Blocked by this test.")) : request(input, init);
  });
}

/** Makes every WebSocket of this browser fail before it opens, as behind a proxy that refuses the upgrade. */
export async function blockWebSocket(context: BrowserContext): Promise<void> {
  await context.addInitScript(() => {
    class BlockedWebSocket extends EventTarget {
      readonly url: string;
      readonly protocol = "";
      readyState = 0;
      onopen: ((event: Event) => void) | null = null;
      onmessage: ((event: Event) => void) | null = null;
      onerror: ((event: Event) => void) | null = null;
      onclose: ((event: Event) => void) | null = null;
      constructor(url: string | URL) {
        super();
        this.url = String(url);
        setTimeout(() => {
          this.readyState = 3;
          const error = new Event("error");
          const close = new CloseEvent("close", { code: 1006, wasClean: false });
          this.dispatchEvent(error);
          this.onerror?.(error);
          this.dispatchEvent(close);
          this.onclose?.(close);
        });
      }
      send(): never {
        throw new DOMException("The socket is not open.", "InvalidStateError");
      }
      close(): void {
        this.readyState = 3;
      }
      static readonly CONNECTING = 0;
      static readonly OPEN = 1;
      static readonly CLOSING = 2;
      static readonly CLOSED = 3;
    }
    // For the test's own reports.
    Object.defineProperty(globalThis, "NativeWebSocket", { value: WebSocket });
    Object.defineProperty(globalThis, "WebSocket", { value: BlockedWebSocket, writable: true, configurable: true });
  });
}

/** What the form of Example 10 holds. */
export interface FormValues {
  readonly urgent: boolean;
  readonly subject: string;
  /** `Value1`, `Value2` or `Value3`. */
  readonly state: string;
  readonly notes: string;
}

/** One run of the handler of `form.data`: which message, and in which load of the page, counted from 1. */
export interface Handled {
  readonly id: string;
  readonly load: number;
}

/** A tab with Example 10 in it. */
export interface Tab {
  readonly page: Page;
  /** Every run of the message handler in this tab, in order, across reloads. */
  readonly handled: readonly Handled[];
  /** Errors of the console, of scripts and of the content security policy. */
  readonly problems: readonly string[];
}

/**
 * Opens Example 10 in a new tab and waits until it is connected.
 * @param options.user  whose tab it is; none: whoever the server chooses
 * @param options.path  `/` unless said
 */
export async function openTab(context: BrowserContext, url: string, options: { user?: string; path?: string } = {}): Promise<Tab> {
  const page = await context.newPage();
  const problems: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  const handled = await recordHandled(page);
  const { user, path = "/" } = options;
  if (user !== undefined) {
    await page.addInitScript((name) => {
      if (sessionStorage.getItem("user") === null) sessionStorage.setItem("user", name);
    }, user);
  }
  await page.goto(new URL(path, url).href);
  await connected(page);
  return { page, handled, problems };
}

/**
 * Records every run of the page's message handler. The page holds no counter for tests: its list gets one item for each message, and this watches
 * the list. It reports on two ways, because in a page that is being left, scripts (and acknowledgements) still run for a moment after the
 * debugger, by which playwright hears, is gone.
 */
async function recordHandled(page: Page): Promise<readonly Handled[]> {
  const handled: Handled[] = [];
  const loads: string[] = [];
  const known = new Set<string>();
  const report = (text: string) => {
    const { document, count, id } = JSON.parse(text) as { document: string; count: number; id?: string };
    if (!loads.includes(document)) loads.push(document);
    if (id === undefined || known.has(`${document} ${count}`)) return;
    known.add(`${document} ${count}`);
    handled.push({ id, load: loads.indexOf(document) + 1 });
  };
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  await once(server, "listening");
  server.on("connection", (socket) => socket.on("message", (data) => report(String(data))));
  page.on("close", () => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  await page.exposeFunction("reportHandled", report);
  await page.addInitScript(
    (url) => {
      const scope = globalThis as unknown as { reportHandled(text: string): Promise<void>; NativeWebSocket?: typeof WebSocket };
      const socket = new (scope.NativeWebSocket ?? WebSocket)(url);
      const waiting: string[] = [];
      socket.onopen = () => {
        for (const text of waiting.splice(0)) socket.send(text);
      };
      const name = crypto.randomUUID();
      let count = 0;
      const report = (id?: string) => {
        count += 1;
        const text = JSON.stringify({ document: name, count, id });
        void scope.reportHandled(text);
        if (socket.readyState === WebSocket.OPEN) socket.send(text);
        else waiting.push(text);
      };
      document.addEventListener("DOMContentLoaded", () => {
        report();
        const list = document.getElementById("received");
        if (list === null) return;
        const observer = new MutationObserver((changes) => {
          for (const node of changes.flatMap((change) => [...change.addedNodes])) {
            if (node instanceof HTMLElement) report(node.dataset.id ?? "");
          }
        });
        observer.observe(list, { childList: true });
      });
    },
    `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
  );
  return handled;
}

/** Waits until the page is connected. @throws Error with the page's own words, when it says that it has given up */
export async function connected(page: Page): Promise<void> {
  const status = await page.waitForSelector('#connection:is([data-status="online"], [data-status="closed"])');
  if ((await status.getAttribute("data-status")) === "closed") throw new Error(`The page says: ${await status.innerText()}`);
}

export async function fillForm(page: Page, values: FormValues): Promise<void> {
  await page.fill("#form2", values.subject);
  await page.selectOption("#form3", values.state);
  await page.setChecked("#form1", values.urgent);
  await page.fill("#form4", values.notes);
}

export async function readForm(page: Page): Promise<FormValues> {
  return {
    urgent: await page.isChecked("#form1"),
    subject: await page.inputValue("#form2"),
    state: await page.inputValue("#form3"),
    notes: await page.inputValue("#form4"),
  };
}

/** Fills the form, presses "Send Data" and waits until the page says how far it came: `accepted` or further, unless said otherwise. */
export async function sendForm(page: Page, to: string, values: FormValues): Promise<void> {
  await page.selectOption("#destination", to);
  await fillForm(page, values);
  await page.click("#send");
  await sent(page, "accepted", "acked");
}

/** Waits until the sender's indicator is in one of these states. */
export async function sent(page: Page, ...states: readonly string[]): Promise<void> {
  await page.waitForSelector(states.map((state) => `#sent-state[data-state="${state}"]`).join(","));
}

/** Waits until the newest received message has this subject. */
export async function received(page: Page, subject: string): Promise<void> {
  await page.waitForFunction((text) => document.querySelector("#received li:first-child dd")?.textContent === text, subject);
}

/** Takes a picture of the whole page for the documents, into `docs/images/{name}.png`, when SCREENSHOTS=1. */
export async function takePicture(page: Page, name: string): Promise<void> {
  if (process.env.SCREENSHOTS !== "1") return;
  await page.screenshot({ path: `${IMAGES}${name}.png`, fullPage: true, animations: "disabled" });
}

/**
 * Puts two windows side by side into the README's picture: when SCREENSHOTS=1, or when there is none yet. Not at every run, because the times of
 * day in it would change the file each time.
 */
export async function takePairPicture(left: Page, right: Page, name: string): Promise<void> {
  const path = `${IMAGES}${name}.png`;
  if (process.env.SCREENSHOTS !== "1" && existsSync(path)) return;
  const shots = await Promise.all([left, right].map((page) => page.screenshot({ animations: "disabled", type: "png" })));
  const pictures = shots.map((shot) => `<img alt="" src="data:image/png;base64,${shot.toString("base64")}">`);
  const sheet = await left.context().newPage();
  await sheet.setContent(`<style>
    body { margin: 0; display: inline-flex; gap: 28px; padding: 32px; background: #d5dad6 }
    img { display: block; border-radius: 14px; box-shadow: 0 20px 45px -18px rgb(20 30 40 / 45%), 0 0 0 1px rgb(20 30 40 / 10%) }
    </style><body>${pictures.join("")}</body>`);
  await sheet.locator("body").screenshot({ path });
  await sheet.close();
}
