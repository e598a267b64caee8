/**
 * A small application in real tabs: it uses the classic script and records what its handler was given. The page and the scripts come from the test,
 * so that a tab can be loaded again while the server is away.
 * @module
 */
import { readFileSync } from "node:fs";
import type { BrowserContext, CDPSession, Page, WebSocket } from "playwright-core";
import type { ConnectOptions, Handover, Message } from "../../src/client/index.ts";

const SCRIPTS = ["handover.js", "handover-page.js"].map((name) => [name, new URL(`../../dist/client/${name}`, import.meta.url)] as const);

/** What the page of the application has in `globalThis`. */
interface Scope {
  readonly handover: Handover;
  /** What a test wants of the handler. */
  work?: (message: Message) => unknown;
}

export interface AppOptions extends Pick<ConnectOptions, "share" | "transports" | "timing" | "window"> {
  readonly token: string;
  /** The address of the server, when it is not the page's own. */
  readonly server?: string;
  /** Types that the page has a handler for; `note` unless said. */
  readonly types?: readonly string[];
}

export interface App {
  readonly page: Page;
  readonly problems: string[];
  /** What the handler was given in this tab, in order, over reloads. */
  shown(): Promise<string[]>;
  /** Whether this tab has a connection of its own. */
  isConnected(): boolean;
  evaluate<R>(run: (scope: Scope) => R | Promise<R>): Promise<R>;
  online(): Promise<void>;
  /** Waits until this is so in the page; not by frames, of which a hidden tab has none. */
  until(expression: string): Promise<void>;
  /** @returns what measures the bytes that the page's objects take, without garbage */
  heap(): Promise<() => Promise<number>>;
  crash(): Promise<void>;
  /** Keeps its thread busy. */
  hang(forMs: number): void;
  freeze(): Promise<void>;
  thaw(): Promise<void>;
}

/** What a context's pages are given under `{origin}/app`, whatever the server does. */
export async function serveApp(context: BrowserContext, origin: string, options: AppOptions): Promise<void> {
  const { server = "", types = ["note"], token, ...rest } = options;
  const html = `<!doctype html><meta charset="utf-8"><title>App</title><script src="/handover.js"></script><script>
    const unsent = [];
    const errors = [];
    const handover = Handover.connect(${JSON.stringify(server)}, {
      ...${JSON.stringify(rest)}, token: () => sessionStorage.token ?? ${JSON.stringify(token)}, onError: (error) => errors.push(String(error)), onUnsent: (each) => unsent.push(each),
      onWarning() {},
    });
    for (const type of ${JSON.stringify(types)}) handover.on(type, async (message) => {
      await globalThis.work?.(message);
      sessionStorage.shown = (sessionStorage.shown ?? "") + message.data + "\\n";
    });
    Object.assign(globalThis, { handover, unsent, errors });
  </script>`;
  // To the browser a page that the test answers for comes from nowhere, and may not open a WebSocket to this machine just so.
  await context.grantPermissions(["local-network-access"], { origin });
  await context.route(`${origin}/app*`, (route) => route.fulfill({ contentType: "text/html", body: html }));
  for (const [name, file] of SCRIPTS) {
    const body = readFileSync(file, "utf8");
    await context.route(`${origin}/${name}*`, (route) => route.fulfill({ contentType: "text/javascript", body }));
  }
}

/** Opens the application in a new tab. */
export async function openApp(context: BrowserContext, origin: string, search = ""): Promise<App> {
  const page = await context.newPage();
  const problems: string[] = [];
  const sockets = new Set<WebSocket>();
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("websocket", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  let cdp: CDPSession | undefined;
  const session = async () => {
    cdp ??= await context.newCDPSession(page);
    return cdp;
  };
  const setState = async (state: "frozen" | "active") => (await session()).send("Page.setWebLifecycleState", { state });
  const until = async (expression: string) => void (await page.waitForFunction(expression, undefined, { polling: 50 }));
  await page.goto(`${origin}/app${search}`);
  return {
    page,
    problems,
    shown: () => page.evaluate(() => (sessionStorage.shown ?? "").split("\n").slice(0, -1)),
    isConnected: () => sockets.size > 0,
    evaluate: (run) => page.evaluate(`(${run.toString()})(globalThis)`) as never,
    online: () => until("handover.status.state === 'online'"),
    until,
    async heap() {
      const client = await session();
      await client.send("HeapProfiler.enable");
      return async () => {
        await client.send("HeapProfiler.collectGarbage");
        return (await client.send("Runtime.getHeapUsage")).usedSize;
      };
    },
    async crash() {
      const crashed = new Promise((resolve) => page.once("crash", resolve));
      // It is never answered.
      (await session()).send("Page.crash").catch(() => {});
      await crashed;
      sockets.clear();
    },
    hang: (forMs) => void page.evaluate(`for (const end = performance.now() + ${forMs}; performance.now() < end; );`).catch(() => {}),
    freeze: async () => void (await setState("frozen")),
    thaw: async () => void (await setState("active")),
  };
}
