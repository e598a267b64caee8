/**
 * deploy/Dockerfile: what it says holds together, and what it does works, without a container engine: the same steps in a folder.
 * @module
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { accessSync, chmodSync, chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, expect, test, vi } from "vitest";
import { call } from "../../src/testing/wire.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL, SERVICE_KEY, TOKEN_SECRET } from "../support/started.ts";
import { ROOT, readDockerfile } from "./dockerfile.ts";

/** The user `nobody`, as whom the server runs where these tests may choose. */
const NOBODY = 65_534;
const IS_ROOT = process.getuid?.() === 0;

const stages = readDockerfile();
const [build, image] = stages;
const folder = mkdtempSync(join(tmpdir(), "handover-image-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("[O8] the image copies what is there, .dockerignore lets that through and nothing else, and its Node is one that the package takes", () => {
  expect(stages).toHaveLength(2);
  const sources = build?.steps.flatMap((step) => (step.kind === "copy" && step.from === undefined ? step.sources : [])) ?? [];
  for (const source of sources) expect(existsSync(join(ROOT, source)), source).toBe(true);
  const [all, ...through] = readFileSync(join(ROOT, ".dockerignore"), "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  expect(all).toBe("*");
  expect(through.map((line) => line.replace(/^!/, "")).sort()).toEqual([...sources].sort());
  expect(image?.base).toBe(build?.base);
  const [, major] = /^node:(\d+)-/.exec(image?.base ?? "") ?? [];
  const [, least] = /^>=(\d+)\./.exec(JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).engines.node) ?? [];
  expect(Number(major)).toBeGreaterThan(Number(least));
  expect([image?.user, image?.volumes, image?.environment.HANDOVER_DATA]).toEqual(["node", ["/data"], "/data"]);
  const text = readFileSync(join(ROOT, "deploy/Dockerfile"), "utf8");
  expect(text.lastIndexOf("\nUSER ")).toBeGreaterThan(text.lastIndexOf("\nRUN "));
});

/** Does what the build stage does. What `npm ci` would install is here already; IMAGE_NPM_CI=1 installs it. */
function buildIn(place: string): void {
  for (const step of build?.steps ?? []) {
    if (step.kind === "copy") {
      for (const source of step.sources)
        cpSync(join(ROOT, source), join(place, step.to.endsWith("/") ? `${step.to}${basename(source)}` : step.to), { recursive: true });
    } else if (step.command.startsWith("npm ci") && process.env.IMAGE_NPM_CI !== "1") {
      execFileSync("cp", ["-al", join(ROOT, "node_modules"), join(place, "node_modules")]);
    } else {
      // What npm says of the run around it is not the image's.
      const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("npm_")));
      const { status, stderr } = spawnSync("sh", ["-c", step.command], { cwd: place, env, encoding: "utf8" });
      expect(status, `${step.command}\n${stderr}`).toBe(0);
    }
  }
}

test("[O9] what the image does works: built, pruned, and run as another user with code that it cannot change; its health check tells; HUP replaces the server, TERM ends it", {
  timeout: 180_000,
}, async () => {
  const [place, app, data] = [join(folder, "build"), join(folder, "app"), join(folder, "data")];
  chmodSync(folder, 0o755);
  for (const each of [place, app, data]) mkdirSync(each);
  buildIn(place);
  for (const step of image?.steps ?? []) {
    if (step.kind !== "copy") continue;
    expect(step.from).toBe(build?.name);
    for (const source of step.sources) {
      const to = step.to.endsWith("/") ? join(app, step.to, basename(source)) : join(app, step.to);
      cpSync(join(place, source.replace("/build", ".")), to, { recursive: true });
    }
  }
  for (const tool of ["typescript", "vitest", "playwright-core", "rabbitmq-client"])
    expect(existsSync(join(app, "node_modules", tool)), tool).toBe(false);
  if (IS_ROOT) chownSync(data, NOBODY, NOBODY);
  const port = String(await freePort());
  const environment = { ...image?.environment, HANDOVER_HOST: "127.0.0.1", HANDOVER_PORT: port, HANDOVER_DATA: data };
  const env = {
    PATH: `${dirname(process.execPath)}:${process.env.PATH}`,
    HANDOVER_SERVICE_KEY: SERVICE_KEY,
    HANDOVER_TOKEN_SECRET: TOKEN_SECRET,
    ...environment,
  };
  const as = IS_ROOT ? { uid: NOBODY, gid: NOBODY } : {};
  const [program = "", ...words] = (image?.command ?? []).map((word) => word.replace("/app", app));
  const server = spawn(program, words, { cwd: app, env, ...as, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [server.stdout, server.stderr]) stream.on("data", (part) => (output += part));
  try {
    const listened = (times: number) =>
      vi.waitFor(() => expect(output.match(/"msg":"Handover [^"]* listens on/g) ?? [], output).toHaveLength(times), { timeout: 30_000 });
    await listened(1);
    expect(await isHealthy(env, as)).toBe(true);
    const sent = await call(`http://127.0.0.1:${port}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "bob" }, type: "t" } });
    expect(sent.status).toBe(201);
    if (IS_ROOT) {
      const { status } = spawnSync("sh", ["-c", `: > ${join(app, "dist/cli.js")}`], { ...as });
      expect(status, "the server can change its own code").not.toBe(0);
    }
    server.kill("SIGHUP");
    await listened(2);
    expect(await isHealthy(env, as)).toBe(true);
    const ended = once(server, "exit");
    server.kill("SIGTERM");
    expect(await ended).toEqual([0, null]);
    expect(await isHealthy(env, as)).toBe(false);
    accessSync(join(data, "handover.db"));
  } finally {
    server.kill("SIGKILL");
  }
});

/** Runs the health check as the engine would. */
async function isHealthy(env: NodeJS.ProcessEnv, as: { uid?: number; gid?: number }): Promise<boolean> {
  const [program = "", ...words] = image?.healthCheck ?? [];
  const check: ChildProcess = spawn(program, words, { env, ...as, stdio: "inherit" });
  const [code] = await once(check, "exit");
  return code === 0;
}
