/**
 * The application's own server beside the message server, as x0 has it: it serves the page, and gives each load of it its session value, as
 * PreloadAuthentication does. Names and origins are x0's; the browser is told that they are this machine.
 * @module
 */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { launchChromium, openContext } from "../support/browser.ts";
import { type ClientState, x0Client } from "./client.ts";

const APP_HOST = "x0-app.x0.localnet";
export const MESSAGE_HOST = "x0-msg-server.x0.localnet";
/** Seen with x0's own page: 108 to 155 ms from a reload to its first poll, for four parts. */
const PART_MS = 25;

/** A message that was shown by a page. */
export interface Shown {
  readonly session: string;
  /** Which load of the page it was. */
  readonly load: number;
  readonly payload: Readonly<Record<string, unknown>>;
  readonly from: string;
}

export interface AppOptions {
  /** Where the message server is, seen from here; its protocol and port are what the page is told. */
  readonly server: string;
  /** The session value of a user's page, asked for at each load. */
  session(user: string): string | Promise<string>;
  /** How long pages work on each message, ms. */
  readonly busyMs?: number;
}

/** One tab with the page in it. */
export interface Tab {
  readonly page: Page;
  state(): Promise<ClientState>;
  /** Loads the page again, and waits for its first poll. */
  reload(): Promise<void>;
  /** Fills the form, presses the button and waits for what becomes of it. */
  send(to: string, text: string, more?: { readonly notes?: string }): Promise<string | undefined>;
}

export class App {
  readonly #server: Server;
  readonly #options: AppOptions;
  readonly shown: Shown[] = [];
  #browser: Browser | undefined;

  private constructor(options: AppOptions) {
    this.#options = options;
    this.#server = createServer(async (request, response) => {
      const { pathname, searchParams } = new URL(request.url ?? "/", "http://app");
      if (pathname === "/shown") {
        let text = "";
        for await (const part of request.setEncoding("utf8")) text += part;
        this.shown.push(JSON.parse(text));
        response.writeHead(204).end();
      } else if (pathname.startsWith("/part/")) {
        await pause(PART_MS);
        response.end("{}");
      } else if (pathname === "/") {
        response.writeHead(200, { "Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store" });
        response.end(this.#html(await options.session(searchParams.get("user") ?? "")));
      } else response.writeHead(404).end();
    });
  }

  static async start(options: AppOptions): Promise<App> {
    const app = new App(options);
    app.#server.listen(0, "127.0.0.1");
    await once(app.#server, "listening");
    // As a network would have it: other hosts, other ports.
    app.#browser = await launchChromium(`--host-resolver-rules=MAP ${APP_HOST} 127.0.0.1, MAP ${MESSAGE_HOST} 127.0.0.1`);
    return app;
  }

  get origin(): string {
    return `http://${APP_HOST}:${(this.#server.address() as AddressInfo).port}`;
  }

  /** A person's browser of their own. */
  async person(): Promise<BrowserContext> {
    if (!this.#browser) throw new Error("no browser");
    return openContext(this.#browser, { ignoreHTTPSErrors: true });
  }

  /** Opens the page as that user, and waits for its first poll. */
  async open(context: BrowserContext, user: string): Promise<Tab> {
    const page = await context.newPage();
    const polling = () => page.waitForFunction(() => ((globalThis as unknown as { x0?: ClientState }).x0?.polls ?? 0) > 0);
    await page.goto(`${this.origin}/?user=${encodeURIComponent(user)}`);
    await polling();
    const state = () => page.evaluate(() => (globalThis as unknown as { x0: ClientState }).x0);
    return {
      page,
      state,
      reload: async () => {
        await page.reload();
        await polling();
      },
      send: async (to, text, { notes = "" } = {}) => {
        const before = (await state()).sent.length;
        await page.evaluate(
          ([destination, first, second]) => {
            const field = (id: string) => document.getElementById(id) as HTMLInputElement;
            field("to").value = destination ?? "";
            field("Form2").value = first ?? "";
            field("Form4").value = second ?? "";
          },
          [to, text, notes],
        );
        await page.dispatchEvent("#send", "mousedown");
        await page.waitForFunction(
          (index) => !["sending", undefined].includes((globalThis as unknown as { x0: ClientState }).x0.sent[index]),
          before,
        );
        return (await state()).sent[before];
      },
    };
  }

  async stop(): Promise<void> {
    await this.#browser?.close();
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #html(session: string): string {
    const { server, busyMs = 0 } = this.#options;
    const { protocol, port } = new URL(server);
    const options = { server: `${protocol}//${MESSAGE_HOST}:${port}/python/MsgHandler.py`, session, busyMs };
    return `<!doctype html><title>x0</title><body>
      <input id="to"><button id="send">Send</button><input id="Form1" type="checkbox"><input id="Form2"><input id="Form3" value="Value2"><textarea id="Form4"></textarea><div id="notices"></div>
      <script>(${x0Client.toString()})(${JSON.stringify(options).replaceAll("<", "\\u003c")})</script>`;
  }
}
