/**
 * A small application in real tabs: it uses the classic script and records what its handler was given. The page and the scripts come from the test,
 * so that a tab can be loaded again while the server is away.
 * @module
 */
import { readFileSync } from "node:fs";
import type { Browser, BrowserContext, CDPSession, Page, WebSocket } from "playwright-core";
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
  /** Watches the tasks of its thread. @returns what ends that, and gives the longest */
  tasks(): Promise<() => Promise<Longest>>;
  crash(): Promise<void>;
  /** Keeps its thread busy. */
  hang(forMs: number): void;
  freeze(): Promise<void>;
  thaw(): Promise<void>;
}

/** The longest tasks of a thread, ms. */
export interface Longest {
  /** From its begin to its end, in which it may have waited for a core that others had. */
  readonly wallMs: number;
  /** In which it had a core. */
  readonly cpuMs: number;
}

/** An event of a browser's trace, as far as it is used here; µs. */
interface TraceEvent {
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly dur?: number;
  readonly tdur?: number;
  readonly args: { readonly name?: string };
}

/** Has the browser note every task. @returns what ends that, and gives the longest of the page's thread that had the most */
async function traceTasks(browser: Browser): Promise<() => Promise<Longest>> {
  const client = await browser.newBrowserCDPSession();
  const includedCategories = ["disabled-by-default-devtools.timeline"];
  const traceConfig = { recordMode: "recordAsMuchAsPossible" as const, includedCategories, excludedCategories: ["*"] };
  await client.send("Tracing.start", { transferMode: "ReturnAsStream", traceConfig });
  return async () => {
    const complete = new Promise<{ stream?: string; dataLossOccurred: boolean }>((resolve) => client.once("Tracing.tracingComplete", resolve));
    await client.send("Tracing.end");
    const { stream = "", dataLossOccurred } = await complete;
    if (dataLossOccurred) throw new Error("The trace is not whole.");
    let text = "";
    for (let isOver = false; !isOver; ) {
      const { data, eof } = await client.send("IO.read", { handle: stream, size: 8_000_000 });
      text += data;
      isOver = eof;
    }
    await client.detach();
    const { traceEvents } = JSON.parse(text) as { traceEvents: readonly TraceEvent[] };
    const threads = new Map<string, TraceEvent[]>();
    for (const { name, pid, tid, args } of traceEvents)
      if (name === "thread_name" && args.name === "CrRendererMain") threads.set(`${pid} ${tid}`, []);
    for (const event of traceEvents) if (event.name === "RunTask" && event.tdur !== undefined) threads.get(`${event.pid} ${event.tid}`)?.push(event);
    const [tasks = []] = [...threads.values()].sort((one, other) => other.length - one.length);
    const longest = (of: (task: TraceEvent) => number | undefined) => tasks.reduce((ms, task) => Math.max(ms, (of(task) ?? 0) / 1_000), 0);
    return { wallMs: longest(({ dur }) => dur), cpuMs: longest(({ tdur }) => tdur) };
  };
}

/** What a context's pages are given under `{origin}/app`, whatever the server does. */
export async function serveApp(context: BrowserContext, origin: string, options: AppOptions): Promise<void> {
  const { server = "", types = ["note"], token, ...rest } = options;
  const html = `<!doctype html><meta charset="utf-8"><title>App</title><script src="/handover.js"></script><script>
    const unsent = [];
    const errors = [];
    const warnings = [];
    const handover = Handover.connect(${JSON.stringify(server)}, {
      ...${JSON.stringify(rest)}, token: () => sessionStorage.token ?? ${JSON.stringify(token)}, onError: (error) => errors.push(String(error)), onUnsent: (each) => unsent.push(each),
      onWarning: (text) => warnings.push(text),
    });
    for (const type of ${JSON.stringify(types)}) handover.on(type, async (message) => {
      await globalThis.work?.(message);
      sessionStorage.shown = (sessionStorage.shown ?? "") + message.data + "\\n";
    });
    Object.assign(globalThis, { handover, unsent, errors, warnings });
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
    tasks: () => traceTasks(context.browser() as Browser),
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
