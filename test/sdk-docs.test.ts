/**
 * docs/sdk.md: every piece of code in it is run, and the examples are those files; the package is installed as a stranger would.
 * @module
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { stripTypeScriptTypes } from "node:module";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import express, { type Request } from "express";
import fastify from "fastify";
import { type Browser, chromium } from "playwright-core";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { until } from "./client/rig.ts";
import { CHROMIUM, describeWith } from "./support/needs.ts";
import { freePort } from "./support/port.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "./support/started.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const DOC = readFileSync(join(ROOT, "docs/sdk.md"), "utf8");
const { reportOf } = (await import(new URL("../scripts/declarations.mjs", import.meta.url).href)) as { reportOf(root: string): string };

interface Snippet {
  readonly kind: string;
  readonly words: readonly string[];
  readonly code: string;
  /** The example that it is said to be. */
  readonly file: string | undefined;
}

const SNIPPETS: readonly Snippet[] = [...DOC.matchAll(/(?:`(examples\/[^`]+)`:\n\n)?```(\S+)([^\n]*)\n(.*?)```/gs)].map(
  ([, file, kind = "", words = "", code = ""]) => ({ kind, words: words.trim().split(" "), code, file }),
);
const examples = SNIPPETS.filter(({ file }) => file !== undefined);
const backends = SNIPPETS.filter(({ words }) => words.includes("backend"));
const own = SNIPPETS.filter(({ kind }) => kind === "ts");
const shell = SNIPPETS.filter(({ kind }) => kind === "sh");

/** A stranger's folder, with the package installed as the document says. */
let stranger = "";
let started: Started;
/** Where pages come from: the server is told their origins when it starts. */
let pagePort = 0;
let reactPort = 0;
const ends: (() => unknown)[] = [];

beforeAll(async () => {
  pagePort = await freePort();
  reactPort = await freePort();
  started = await start("memory", { origins: `http://127.0.0.1:${pagePort},http://127.0.0.1:${reactPort}` });
  stranger = mkdtempSync(join(tmpdir(), "handover-stranger-"));
  const [pack = "", install = ""] = shell.map(({ code }) => code.trim());
  // What comes before is this very build.
  const packing = pack.split(" && ").at(-1) ?? "";
  expect(packing).toMatch(/^npm pack /);
  const quiet = { stdio: "pipe", env: { ...process.env, npm_config_loglevel: "error" } } as const;
  execFileSync("sh", ["-c", `${packing} --pack-destination ${stranger}`], { cwd: ROOT, ...quiet });
  writeFileSync(join(stranger, "package.json"), '{ "name": "stranger", "type": "module", "private": true }');
  execFileSync("sh", ["-c", `${install} --offline --no-audit --no-fund`], { cwd: stranger, ...quiet });
}, 60_000);
afterAll(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  await started?.stop();
  rmSync(stranger, { recursive: true, force: true });
});

/** Runs a program in the stranger's folder. */
function run(file: string, environment: NodeJS.ProcessEnv): { readonly child: ChildProcess; output(): string } {
  const env = { PATH: process.env.PATH, HANDOVER_URL: started.url, HANDOVER_SERVICE_KEY: SERVICE_CREDENTIAL, ...environment };
  const child = spawn(process.execPath, [file], { cwd: stranger, env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (part: Buffer) => (said += part.toString()));
  ends.push(() => child.kill("SIGKILL"));
  return { child, output: () => said };
}

const listening = async (server: Server, port = 0) => {
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  ends.push(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};

describe("docs/sdk.md", () => {
  it("[A20] is known piece by piece: what the tests here run is all that there is", () => {
    expect([examples.length, backends.length, own.length, shell.length]).toEqual([5, 2, 5, 2]);
    expect(examples.length + backends.length + own.length + shell.length).toBe(SNIPPETS.length);
    for (const { file = "", code } of examples) expect(code, file).toBe(readFileSync(join(ROOT, file), "utf8"));
  });

  it("[A21] docs/sdk-api.txt is the public types of now (if not: npm run build, and look at the difference)", () => {
    expect(readFileSync(join(ROOT, "docs/sdk-api.txt"), "utf8")).toBe(reportOf(ROOT));
  });

  it("[A20] its pieces for one's own program go through the compiler with the installed package, and do what they say", async () => {
    const code = own.map(({ code }) => code).join("\n");
    const program = `declare function show(...what: unknown[]): void;\n${code}`;
    writeFileSync(join(stranger, "program.ts"), program);
    const options = { strict: true, noEmit: true, module: "nodenext", target: "es2024", lib: ["es2024", "dom"], types: [], skipLibCheck: false };
    writeFileSync(join(stranger, "tsconfig.json"), JSON.stringify({ compilerOptions: options, files: ["program.ts"] }));
    const compiled = () => execFileSync(process.execPath, [join(ROOT, "node_modules/typescript/bin/tsc"), "-p", stranger], { encoding: "utf8" });
    expect(compiled).not.toThrow();

    const app = express();
    app.post("/token", async (_request, response) => void response.send(started.token("bob")));
    const backend = await listening(createServer(app));
    const here = stripTypeScriptTypes(program).replaceAll("http://127.0.0.1:8080", started.url).replaceAll("http://127.0.0.1:3000", backend);
    // The page of this program is its own neighbour: what it sends to bob comes back to it.
    writeFileSync(join(stranger, "program.js"), `const show = (...what) => console.log(JSON.stringify(what));\n${here}`);
    const { child, output } = run("program.js", {});
    expect(await once(child, "exit"), output()).toEqual([0, null]);
    const said = output();
    for (const line of ['["bob",2]', '["closed",null]', '["it costs",18]']) expect(said).toContain(line);
    expect(said).toContain('["sorry",');
    expect(said).toMatch(/\["bob"\],"(waiting|acked)"\]/);
  }, 60_000);

  it.each(["express", "fastify"])("[A20] its two lines for a backend with %s give a page its token", async (name) => {
    const [snippet] = backends.filter(({ words }) => words.includes(name));
    const { HandoverService } = await import("../src/client/service.ts");
    const code = (snippet?.code ?? "").replace('"http://127.0.0.1:8080"', `"${started.url}"`).replace("process.env.HANDOVER_SERVICE_KEY", "key");
    const lines = new Function("HandoverService", "app", "key", code) as (...all: unknown[]) => void;
    let url = "";
    if (name === "express") {
      const app = express();
      app.use((request: Request & { user?: object }, _response, next) => {
        request.user = { id: "ann" };
        next();
      });
      lines(HandoverService, app, SERVICE_CREDENTIAL);
      url = await listening(createServer(app));
    } else {
      const app = fastify();
      app.decorateRequest("user", { getter: () => ({ id: "ann" }) });
      lines(HandoverService, app, SERVICE_CREDENTIAL);
      url = await app.listen({ host: "127.0.0.1", port: 0 });
      ends.push(() => app.close());
    }
    const token = await (await fetch(`${url}/token`, { method: "POST" })).text();
    const { sub } = JSON.parse(atob(token.split(".")[1] ?? "")) as { sub: string };
    expect(sub).toBe("ann");
  });
});

describe("examples/worker", () => {
  it("[A22] answers what it is asked, also what was asked while it was away", async () => {
    cpSync(join(ROOT, "examples/worker/worker.js"), join(stranger, "worker.js"));
    const { connect } = await import("../src/client/index.ts");
    const handover = connect(started.url, { token: () => started.token("asker") });
    ends.push(() => handover.close());
    const asking = handover.request("worker", "sum", { numbers: [1, 2, 3] }, { timeoutMs: 20_000 });
    await until(() => expect(handover.status.state).toBe("online"));
    const { child, output } = run("worker.js", {});
    expect((await asking).data, output()).toEqual({ sum: 6 });
    child.kill("SIGTERM");
    await once(child, "exit");
  }, 30_000);
});

describeWith(CHROMIUM, "in a browser", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath: process.env.CHROMIUM_PATH ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu"],
    });
  });
  afterAll(() => browser?.close());

  /** Two people write to each other. */
  async function play(url: string): Promise<void> {
    const [ann, bob] = await Promise.all(
      ["ann", "bob"].map(async (user) => {
        const page = await (await browser.newContext()).newPage();
        await page.goto(`${url}/?user=${user}`);
        await page.waitForFunction("document.querySelector('#status')?.textContent === 'online'");
        return page;
      }),
    );
    await ann?.fill("[name=to]", "bob");
    await ann?.fill("[name=text]", "<b>hello</b> 🍕");
    await ann?.click("button");
    await bob?.waitForFunction("document.querySelector('li')?.textContent === 'ann: <b>hello</b> 🍕'");
  }

  async function startBackend(port: number): Promise<string> {
    mkdirSync(join(stranger, "page"), { recursive: true });
    for (const file of ["index.html", "server.js"]) cpSync(join(ROOT, "examples/page", file), join(stranger, "page", file));
    const { output } = run("page/server.js", { PORT: String(port) });
    await until(() => expect(output()).toMatch(/http/), 15_000);
    return /http:\/\/127\.0\.0\.1:\d+/.exec(output())?.[0] ?? "";
  }

  it("[A22] the plain page and its backend: two people write to each other", async () => {
    await play(await startBackend(pagePort));
  }, 60_000);

  it("[A22] React with Vite, built with the installed package: two people write to each other", async () => {
    const backend = await startBackend(0);
    const app = join(stranger, "react");
    cpSync(join(ROOT, "examples/react"), app, { recursive: true });
    mkdirSync(join(app, "node_modules"), { recursive: true });
    for (const name of ["react", "react-dom", "scheduler", "vite"]) symlinkSync(join(ROOT, "node_modules", name), join(app, "node_modules", name));
    const front = createServer(async (request, response) => {
      const { pathname, search } = new URL(request.url ?? "/", "http://localhost");
      if (pathname === "/token") return void response.end(await (await fetch(`${backend}/token${search}`, { method: "POST" })).text());
      const file = join(app, "dist", pathname === "/" ? "index.html" : pathname);
      if (!existsSync(file)) return void response.writeHead(404).end();
      response.setHeader("Content-Type", file.endsWith(".html") ? "text/html" : "text/javascript").end(readFileSync(file));
    });
    const url = await listening(front, reactPort);
    process.env.VITE_HANDOVER_URL = started.url;
    await build({ root: app, logLevel: "error", build: { outDir: join(app, "dist") } });
    delete process.env.VITE_HANDOVER_URL;
    await play(url);
  }, 60_000);
});
