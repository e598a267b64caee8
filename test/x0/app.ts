/**
 * The application's own server beside the message server, as x0 has it: it serves the page, and gives each load of it its session value, as
 * PreloadAuthentication does. Names and origins are x0's; the browser is told that they are this machine.
 * @module
 */
import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { launchChromium, openContext } from "../support/browser.ts";
import { type ClientState, x0Client } from "./client.ts";

export const APP_HOST = "x0-app.x0.localnet";
export const MESSAGE_HOST = "x0-msg-server.x0.localnet";
/** Seen with x0's own page: 108 to 155 ms from a reload to its first poll, for four parts. */
const PART_MS = 25;
/** The indicators are on top of the page, at its right; a wheel turns in those that are not updated. */
const STYLE = `
  body { font: 16px sans-serif }
  #indicators { position: fixed; top: 8px; right: 8px; width: 300px }
  .sysIndicatorItem { border: 1px solid; margin: 4px; padding: 6px }
  .sysIndicatorItem b { display: block }
  .IndicatorLoading { background: lightyellow } .IndicatorLoading .text::before { content: "◌ " }
  .IndicatorSuccess { background: lightgreen } .IndicatorError { background: salmon }`;

/** A message that was shown by a page. */
export interface Shown {
  readonly session: string;
  /** Which load of the page it was. */
  readonly load: number;
  /** When it was loaded, and the how manieth word of this load it is. */
  readonly at: readonly [number, number];
  readonly payload: Readonly<Record<string, unknown>>;
  readonly from: string;
}

/** A message that a page was given to process, whether it could or not. */
export interface Given {
  readonly session: string;
  readonly message: Readonly<Record<string, unknown>>;
}

/** The one line more. */
export interface ScriptLine {
  /** Where it stands: before `sysInitOnLoad.js` or after it, both after x0's other scripts. */
  readonly order: "before" | "after";
  /** Where it comes from; the message server unless said. */
  readonly origin?: string;
  /** Further attributes, as HTML. */
  readonly attributes?: string;
}

export interface AppOptions {
  /** Where the message server is, seen from here; its protocol and port are what the page is told. */
  readonly server: string;
  /** One that several applications share, and that is not closed with them. */
  readonly browser?: Browser;
  /** The application's own; a free one unless said. */
  readonly port?: number;
  /** The session value of a user's page, asked for at each load. */
  session(user: string): string | Promise<string>;
  /** How long pages work on each message, ms. */
  readonly busyMs?: number;
  readonly script?: ScriptLine;
  /** The page is over https, with this certificate. */
  readonly tls?: { readonly key: string; readonly cert: string };
}

/** One tab with the page in it. */
export interface Tab {
  readonly page: Page;
  /** What its console said: warnings and errors. */
  readonly console: readonly string[];
  /** How it was connected by the script, each time that it was: by WebSocket, or a poll at `/v1` was answered. */
  readonly connections: readonly ("websocket" | "poll")[];
  state(): Promise<ClientState>;
  /** Loads the page again, and waits until it receives. */
  reload(): Promise<void>;
  /** From now on `processMsg` does not return, and nothing else goes on in the page, until the function that this gives is called. */
  workUntilLetGo(): Promise<() => void>;
  /** Fills the form and presses the button. @returns which of the page's sends it is */
  press(to: string, text: string, more?: { readonly notes?: string }): Promise<number>;
  /** Presses the button, and waits for what becomes of it. */
  send(to: string, text: string, more?: { readonly notes?: string }): Promise<string | undefined>;
}

/** A browser for which x0's hosts are this machine, and any certificate is good. */
export async function launchBrowser(): Promise<Browser> {
  // As a network would have it: other hosts, other ports.
  return launchChromium(`--host-resolver-rules=MAP ${APP_HOST} 127.0.0.1, MAP ${MESSAGE_HOST} 127.0.0.1`, "--ignore-certificate-errors");
}

export class App {
  readonly #server: Server;
  readonly #options: AppOptions;
  readonly shown: Shown[] = [];
  readonly given: Given[] = [];
  /** What {@link Tab.workUntilLetGo} waits for. */
  #gate: Promise<void> = Promise.resolve();
  readonly #people: BrowserContext[] = [];
  #browser: Browser | undefined;

  private constructor(options: AppOptions) {
    this.#options = options;
    const handle: RequestListener = async (request, response) => {
      const { pathname, searchParams } = new URL(request.url ?? "/", "http://app");
      if (pathname === "/shown" || pathname === "/given") {
        let text = "";
        for await (const part of request.setEncoding("utf8")) text += part;
        if (pathname === "/shown") this.shown.push(JSON.parse(text));
        else this.given.push(JSON.parse(text));
        response.writeHead(204).end();
      } else if (pathname === "/gate") {
        await this.#gate;
        response.end();
      } else if (pathname.startsWith("/part/")) {
        await pause(PART_MS);
        response.end("{}");
      } else if (pathname === "/") {
        response.writeHead(200, { "Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store" });
        response.end(this.#html(await options.session(searchParams.get("user") ?? ""), searchParams.has("plain") ? undefined : options.script));
      } else response.writeHead(404).end();
    };
    this.#server = options.tls ? createTlsServer(options.tls, handle) : createServer(handle);
  }

  static async start(options: AppOptions): Promise<App> {
    const app = new App(options);
    app.#server.listen(options.port ?? 0, "127.0.0.1");
    await once(app.#server, "listening");
    app.#browser = options.browser ?? (await launchBrowser());
    return app;
  }

  get origin(): string {
    return `${this.#options.tls ? "https" : "http"}://${APP_HOST}:${(this.#server.address() as AddressInfo).port}`;
  }

  /** A person's browser of their own. */
  async person(): Promise<BrowserContext> {
    if (!this.#browser) throw new Error("no browser");
    const person = await openContext(this.#browser, { ignoreHTTPSErrors: true });
    this.#people.push(person);
    return person;
  }

  /**
   * Opens the page as that user, and waits until it receives: it polls, or the script is connected.
   * @param isPlain  without the script
   */
  async open(context: BrowserContext, user: string, isPlain = false): Promise<Tab> {
    const page = await context.newPage();
    const said: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") said.push(message.text());
    });
    page.on("pageerror", (error) => said.push(String(error)));
    const connections: ("websocket" | "poll")[] = [];
    let connected = () => {};
    const note = (transport: "websocket" | "poll") => {
      connections.push(transport);
      connected();
    };
    page.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => String(payload).startsWith('{"op":"ready"') && note("websocket")));
    page.on("response", (response) => new URL(response.url()).pathname === "/v1/poll" && response.request().method() === "POST" && note("poll"));
    const receiving = async (load: () => Promise<unknown>) => {
      const isConnected = new Promise<void>((resolve) => {
        connected = resolve;
      });
      await load();
      const polling = page.waitForFunction(() => ((globalThis as unknown as { x0?: ClientState }).x0?.polls ?? 0) > 0);
      await Promise.race([isConnected, polling]);
      // The one that lost may end with the page.
      polling.catch(() => {});
    };
    await receiving(() => page.goto(`${this.origin}/?user=${encodeURIComponent(user)}${isPlain ? "&plain" : ""}`));
    const state = () => page.evaluate(() => (globalThis as unknown as { x0: ClientState }).x0);
    const press: Tab["press"] = async (to, text, { notes = "" } = {}) => {
      const before = (await state()).sent.length;
      await page.evaluate(
        ([destination, first, second]) => {
          const field = (id: string) => document.getElementById(id) as HTMLInputElement;
          field("to").value = destination ?? "";
          field("Form2").value = first ?? "";
          field("Form4").value = second ?? "";
          // In the same turn: a message that came in between would be sent instead, since it writes into the same form.
          field("send").dispatchEvent(new MouseEvent("mousedown", { bubbles: true, cancelable: true }));
        },
        [to, text, notes],
      );
      return before;
    };
    return {
      page,
      console: said,
      connections,
      state,
      reload: () => receiving(() => page.reload()),
      workUntilLetGo: async () => {
        let letGo = () => {};
        this.#gate = new Promise((resolve) => {
          letGo = resolve;
        });
        await page.evaluate(() => {
          (globalThis as unknown as { x0: ClientState }).x0.work = () => {
            const request = new XMLHttpRequest();
            request.open("GET", "/gate", false);
            request.send();
          };
        });
        return letGo;
      },
      press,
      send: async (to, text, more) => {
        const index = await press(to, text, more);
        await page.waitForFunction((at) => !["sending", undefined].includes((globalThis as unknown as { x0: ClientState }).x0.sent[at]), index);
        return (await state()).sent[index];
      },
    };
  }

  async stop(): Promise<void> {
    if (this.#options.browser) await Promise.all(this.#people.map((person) => person.close()));
    else await this.#browser?.close();
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #html(session: string, script: ScriptLine | undefined): string {
    const { server, busyMs = 0 } = this.#options;
    const { protocol, port } = new URL(server);
    const messageServer = `${protocol}//${MESSAGE_HOST}:${port}`;
    const options = { server: `${messageServer}/python/MsgHandler.py`, session, busyMs };
    const line = (order: ScriptLine["order"]) =>
      script?.order === order ? `<script src="${script.origin ?? messageServer}/x0/handover.js" ${script.attributes ?? ""}></script>` : "";
    // In the order of x0's page: its scripts, sysInitOnLoad.js at last, and Init when all is loaded.
    return `<!doctype html><title>x0</title>
      <script>(${x0Client.toString()})(${JSON.stringify(options).replaceAll("<", "\\u003c")})</script>
      ${line("before")}
      <script>function Init() { x0Start(); }</script>
      ${line("after")}
      <style>${STYLE}</style>
      <body onload="Init();">
      <h1>Example 10</h1>
      <p><label>Destination <input id="to"></label> <button id="send">Send</button></p>
      <p><label><input id="Form1" type="checkbox"> Form1</label> <label>Form2 <input id="Form2"></label> <label>Form3 <input id="Form3" value="Value2"></label></p>
      <p><label>Form4 <textarea id="Form4"></textarea></label></p>
      <div id="notices"></div><div id="indicators"></div>`;
  }
}
