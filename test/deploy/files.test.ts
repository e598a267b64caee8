/**
 * The compose file, the start script and the systemd units of deploy/: they agree with one another, and do what can be done without an engine or an
 * init system.
 * @module
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { call } from "../../src/testing/wire.ts";
import { describeWith, type Need } from "../support/needs.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL, SERVICE_KEY, TOKEN_SECRET } from "../support/started.ts";
import { ROOT, readDockerfile } from "./dockerfile.ts";

const SYSTEMD: Need = {
  isThere: existsSync("/usr/bin/systemd-analyze") && existsSync("/usr/bin/systemd-socket-activate"),
  reason: "there is no systemd",
  how: "apt-get install systemd",
};
const NAME = "x0-msg-server";
const ADDRESS = "172.20.0.100";
const NETWORK = "x0-connect";

const read = (name: string) => readFileSync(join(ROOT, "deploy", name), "utf8");
const folder = mkdtempSync(join(tmpdir(), "handover-deploy-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("[O10] the compose file has x0's name, address and port, builds the image that there is, keeps its data, and asks for its secrets", () => {
  const { services, networks, volumes } = parse(read("compose.yaml"));
  const { build, environment, ...service } = services[NAME];
  expect(existsSync(join(ROOT, "deploy", build.context, build.dockerfile))).toBe(true);
  expect(service).toMatchObject({
    container_name: NAME,
    networks: { [NETWORK]: { ipv4_address: ADDRESS } },
    volumes: [`data:${readDockerfile().at(-1)?.volumes[0]}`],
    read_only: true,
    cap_drop: ["ALL"],
  });
  expect(service.ports).toEqual([expect.stringMatching(/:8080:8080$/)]);
  expect([networks, volumes.data.name]).toEqual([{ [NETWORK]: { external: true } }, `${NAME}-data`]);
  for (const secret of ["HANDOVER_TOKEN_SECRET", "HANDOVER_SERVICE_KEY"]) expect(environment[secret]).toMatch(/^\$\{HANDOVER_[A-Z_]+:\?/);
  // Every variable is a setting: an unknown one would stop the server.
  const settings = readFileSync(join(ROOT, "docs/config.md"), "utf8");
  for (const variable of Object.keys(environment)) expect(settings, variable).toContain(`\`${variable}\``);
});

test("[O11] the start script replaces what runs under x0's name, makes secrets once, and says so when the server does not answer", () => {
  const [deploy, bin] = [join(folder, "deploy"), join(folder, "bin")];
  cpSync(join(ROOT, "deploy"), deploy, { recursive: true });
  mkdirSync(bin);
  // In place of docker: writes down what it is asked, one argument a line, and answers as an engine that has such a container and is well.
  writeFileSync(
    join(bin, "docker"),
    `#!/bin/sh
    { for word; do printf '%s\\n' "$word"; done; echo --; } >>"$CALLS"
    case "$*" in
      *State.Health.Status*) echo "$HEALTH" ;;
      *State.Running*) echo false ;;
      "logs "*) echo "what it said" ;;
    esac\n`,
  );
  chmodSync(join(bin, "docker"), 0o755);
  const start = (words: string[], more: NodeJS.ProcessEnv = {}) => {
    const calls = join(folder, "calls");
    writeFileSync(calls, "");
    const env = { PATH: `${bin}:${process.env.PATH}`, CALLS: calls, HEALTH: "healthy", ...more };
    const { status, stdout, stderr } = spawnSync(join(deploy, "x0-start-msg-server.sh"), words, { env, encoding: "utf8" });
    const asked = readFileSync(calls, "utf8")
      .split("--\n")
      .map((text) => text.trim().split("\n"));
    return { status, stdout, stderr, asked, run: asked.find(([word]) => word === "run") ?? [] };
  };
  const option = (run: readonly string[], name: string) => run.flatMap((word, index) => (word === name ? [run[index + 1]] : []));

  const demo = start(["demo"]);
  expect([demo.status, demo.stderr]).toEqual([0, ""]);
  expect(demo.asked.map(([first, second]) => `${first} ${second}`)).toEqual(
    expect.arrayContaining(["build -f", "container stop", "container rm", "run --detach", "container inspect"]),
  );
  const secrets = readFileSync(join(deploy, ".env"), "utf8");
  expect(secrets).toMatch(/^HANDOVER_TOKEN_SECRET=[\w+/]{43}=\nHANDOVER_SERVICE_KEY=[\w+/]{43}=\n$/);
  expect(statSync(join(deploy, ".env")).mode & 0o777).toBe(0o600);
  const compose = parse(read("compose.yaml"));
  for (const [name, value] of [
    ["--name", NAME],
    ["--network", NETWORK],
    ["--ip", ADDRESS],
    ["--publish", "127.0.0.1:8080:8080"],
    ["--volume", `${compose.volumes.data.name}:/data`],
    ["--memory", compose.services[NAME].mem_limit],
    ["--stop-timeout", compose.services[NAME].stop_grace_period.replace("s", "")],
  ] as const) {
    expect([name, option(demo.run, name)]).toEqual([name, [value]]);
  }
  expect(option(demo.run, "--env")).toEqual(["HANDOVER_X0=demo", "HANDOVER_X0_PUBLIC=true"]);
  expect(demo.run.at(-1)).toBe(compose.services[NAME].image);

  const settings = { HANDOVER_PUBLISH: "0.0.0.0", HANDOVER_TRUSTED_PROXIES: "172.20.0.1" };
  const registered = start(["registered"], settings);
  expect(registered.status).toBe(0);
  expect(option(registered.run, "--publish")).toEqual(["0.0.0.0:8080:8080"]);
  expect(option(registered.run, "--env")).toEqual(["HANDOVER_TRUSTED_PROXIES", "HANDOVER_X0=registered", "HANDOVER_X0_PUBLIC=false"]);
  expect(readFileSync(join(deploy, ".env"), "utf8")).toBe(secrets);

  const ill = start(["demo"], { HEALTH: "starting" });
  expect([ill.status, ill.stderr]).toEqual([1, expect.stringMatching(/does not answer/)]);
  expect(start([]).status).toBe(2);
});

describeWith(SYSTEMD, "the units of systemd", () => {
  const units = join(folder, "units");
  beforeAll(() => {
    mkdirSync(units);
    for (const name of readdirSync(join(ROOT, "deploy/systemd"))) {
      // Where this machine has them.
      const text = read(`systemd/${name}`).replaceAll("/opt/handover/", ROOT);
      writeFileSync(join(units, name), text);
    }
  });
  const analyze = (...words: string[]) => spawnSync("/usr/bin/systemd-analyze", words, { encoding: "utf8" });

  test("[O12] systemd finds nothing wrong with the units, and little that the service could do to the machine", () => {
    const { status, stderr } = analyze("verify", "--man=no", join(units, "handover.socket"), join(units, "handover.service"));
    expect([status, stderr]).toEqual([0, ""]);
    const security = analyze("security", "--offline=yes", "--no-pager", join(units, "handover.service"));
    const [, exposure] = /Overall exposure level for handover\.service: ([\d.]+)/.exec(security.stdout) ?? [];
    expect(Number(exposure), security.stdout).toBeLessThan(1.5);
  });

  test("[O12] the service's own command takes the socket that systemd holds, and ends when it is told to", { timeout: 40_000 }, async () => {
    const unit = readFileSync(join(units, "handover.service"), "utf8");
    const command = /^ExecStart=(.*)$/m.exec(unit)?.[1]?.split(" ") ?? [];
    const address = `127.0.0.1:${await freePort()}`;
    const settings = { HANDOVER_TOKEN_SECRET: TOKEN_SECRET, HANDOVER_SERVICE_KEY: SERVICE_KEY, HANDOVER_DATA: join(folder, "data") };
    const words = Object.entries(settings).flatMap(([name, value]) => ["-E", `${name}=${value}`]);
    const manager: ChildProcess = spawn("/usr/bin/systemd-socket-activate", ["-l", address, ...words, ...command], {
      env: { PATH: `${dirname(process.execPath)}:${process.env.PATH}` },
      stdio: ["ignore", "inherit", "pipe"],
    });
    try {
      // It says so when it listens; the first connection starts the server, and waits for it.
      await once(manager.stderr as NodeJS.ReadableStream, "data");
      const { status } = await call(`http://${address}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "bob" }, type: "t" } });
      expect(status).toBe(201);
      const ended = once(manager, "exit");
      manager.kill("SIGTERM");
      expect(await ended).toEqual([0, null]);
    } finally {
      manager.kill("SIGKILL");
    }
  });
});

test("[O13] what deploy/ has is in the documents, and what the documents name is there", () => {
  const documents = ["docs/deploy.md", "docs/x0.md", "ARCHITECTURE.md"].map((name) => readFileSync(join(ROOT, name), "utf8")).join("\n");
  const files = readdirSync(join(ROOT, "deploy"), { recursive: true, encoding: "utf8" }).filter(
    (name) => /\.\w+$|Dockerfile/.test(name) && name !== ".env",
  );
  for (const file of files.filter((name) => !/\.(asis|json|gitignore)$/.test(name)))
    expect(documents, file).toContain(file.replace(/^systemd\//, ""));
  for (const [, file = ""] of documents.matchAll(/deploy\/([\w./-]*\w)/g))
    expect(existsSync(join(ROOT, "deploy", file)) || file === ".env", file).toBe(true);
});
