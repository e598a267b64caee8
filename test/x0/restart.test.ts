/**
 * The socket outlives the server: nothing that connects while it is restarted is refused, so no page of x0's becomes deaf.
 * @module
 */
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { afterEach, beforeEach, expect, it, test, vi } from "vitest";
import { inheritedSocket } from "../../src/supervise.ts";
import { call } from "../../src/testing/wire.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL, SERVICE_KEY, TOKEN_SECRET } from "../support/started.ts";
import { App } from "./app.ts";
import { COMMAND, Supervised } from "./supervised.ts";
import { pollOf, Tab, valuesOf } from "./tab.ts";

let data = "";
let server: Supervised | undefined;
beforeEach(async () => {
  data = await mkdtemp(join(tmpdir(), "handover-x0-"));
});
afterEach(async () => {
  await server?.stop();
  server = undefined;
  await rm(data, { recursive: true, force: true });
});

test("[X50] a server under --supervise that is killed, or told to stop, is followed by another on the same socket: requests wait, none is refused", {
  timeout: 60_000,
}, async () => {
  server = await Supervised.start(data, ["--x0", "demo"]);
  const { url } = server;
  let sent = 0;
  let isOver = false;
  // Each on a connection of its own, all the time: one that were refused would throw.
  const sending = (async () => {
    while (!isOver) {
      const tab = new Tab(url);
      try {
        expect((await tab.send("sender", "receiver", { n: sent })).body).toEqual({ messages: null, status: "ok" });
        sent += 1;
      } catch (thrown) {
        // A connection that the killed process had accepted is cut; Chromium sends again by itself, and so does this.
        if ((thrown as { code?: string }).code !== "ECONNRESET") throw thrown;
      }
      tab.close();
    }
  })();
  for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL"] as const) {
    const goal = sent + 3;
    await vi.waitFor(() => expect(sent).toBeGreaterThan(goal), { timeout: 20_000 });
    await server.servers(server.signalServer(signal));
  }
  const goal = sent + 3;
  await vi.waitFor(() => expect(sent).toBeGreaterThan(goal), { timeout: 20_000 });
  await server.servers(server.signal("SIGHUP"));
  isOver = true;
  await sending;
  expect(await server.stop()).toBe(0);
  expect(server.hasServer).toBe(false);
});

test("[X51] a server that stops closes its listener, answers the polls that it holds with Connection: close, and what is asked next is answered by the next one", {
  timeout: 60_000,
}, async () => {
  server = await Supervised.start(data, ["--x0", "demo"]);
  const [page, sender] = [new Tab(server.url), new Tab(server.url)];
  await sender.send("a", "somebody", { n: 0 });
  const held = await page.begin(pollOf("b"));
  const wrong = new Tab(server.url).ask("POST", "1", { type: "GET" });
  await wrong.written;
  await pause(200);
  const next = server.signalServer("SIGTERM");
  const answer = await held.answer;
  expect([answer.status, answer.text, answer.headers.connection]).toEqual([200, '{"messages":null}', "close"]);
  expect((await wrong.answer).body.error).toBe(true);
  // A send on a connection that the old server still has is taken, by the one or the other.
  expect((await sender.send("a", "b", { n: 1 })).body).toEqual({ messages: null, status: "ok" });
  const again = await page.poll("b");
  expect(valuesOf(again)).toEqual([{ n: 1 }]);
  expect(again.headers.connection).toBe("keep-alive");
  await server.servers(next);
});

test("[X83] a supervisor that is told to stop closes the port first: who comes then is refused, instead of waiting for a server that will not come", {
  timeout: 30_000,
}, async () => {
  server = await Supervised.start(data, ["--x0", "demo"]);
  const page = new Tab(server.url);
  const held = await page.begin(pollOf("b"));
  server.signal("SIGTERM");
  expect((await held.answer).headers.connection).toBe("close");
  await expect(new Tab(server.url).poll("b")).rejects.toMatchObject({ code: "ECONNREFUSED" });
  expect(await server.ended()).toBe(0);
});

test("[X52] what cannot be started is not started again and again: its own words, and its exit code", { timeout: 30_000 }, async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => taken.once("listening", resolve));
  const { port } = taken.address() as { port: number };
  const run = async (...flags: string[]) => {
    const child = spawn(process.execPath, [COMMAND, "serve", "--supervise", "--data", data, ...flags], {
      env: { PATH: process.env.PATH, HANDOVER_TOKEN_SECRET: TOKEN_SECRET },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (part) => (output += part));
    const code = await new Promise((resolve) => child.once("close", resolve));
    return [code, output];
  };
  expect(await run("--port", String(port))).toEqual([1, expect.stringMatching(/Port \d+ on 127\.0\.0\.1 cannot be had/)]);
  taken.close();
  const free = String(await freePort());
  expect(await run("--port", free, "--audience", "x", "--token-secret", "short")).toEqual([1, expect.stringMatching(/at least 32 bytes/)]);
  // Seen by the server itself only: the store.
  expect(await run("--port", free, "--data", "/dev/null/x")).toEqual([1, expect.not.stringMatching(/starting it again/)]);
  expect(await run("--port", free, "--listen-fd", "3")).toEqual([1, expect.stringMatching(/nothing to hold/)]);
});

test("[X53] the server goes with its supervisor", { timeout: 30_000 }, async () => {
  server = await Supervised.start(data, []);
  expect(server.hasServer).toBe(true);
  server.signal("SIGKILL");
  await server.ended();
  await vi.waitFor(() => expect(server?.hasServer).toBe(false), { timeout: 10_000 });
});

test("[X54] a socket that a service manager has opened is taken: LISTEN_FDS and LISTEN_PID, one socket, for this process", {
  timeout: 60_000,
}, async () => {
  expect(inheritedSocket({ LISTEN_FDS: "1", LISTEN_PID: "42" }, 42)).toBe(3);
  expect(inheritedSocket({ LISTEN_FDS: "1", LISTEN_PID: "41" }, 42)).toBeUndefined();
  expect(inheritedSocket({ LISTEN_FDS: "1" }, 42)).toBeUndefined();
  expect(inheritedSocket({}, 42)).toBeUndefined();
  expect(() => inheritedSocket({ LISTEN_FDS: "2", LISTEN_PID: "42" }, 42)).toThrow(/2 sockets/);

  // As systemd does it: the manager listens, and starts the service when it must. Node lends its own listening socket to the child.
  const manager = createServer();
  manager.listen(0, "127.0.0.1");
  await new Promise((resolve) => manager.once("listening", resolve));
  const { port } = manager.address() as { port: number };
  const lent: unknown = (manager as unknown as { _handle: unknown })._handle;
  const child = spawn("/bin/sh", ["-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", process.execPath, COMMAND, "serve", "--data", data], {
    env: { PATH: process.env.PATH, HANDOVER_SERVICE_KEY: SERVICE_KEY, HANDOVER_TOKEN_SECRET: TOKEN_SECRET },
    stdio: ["ignore", "pipe", "inherit", lent as "inherit"],
  });
  // The socket stays open in the child alone.
  manager.close();
  try {
    let output = "";
    child.stdout?.on("data", (part) => (output += part));
    await vi.waitFor(() => expect(output).toMatch(new RegExp(`listens on http://127.0.0.1:${port}`)), { timeout: 20_000 });
    const { status } = await call(`http://127.0.0.1:${port}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "bob" }, type: "t" } });
    expect(status).toBe(201);
  } finally {
    child.kill("SIGTERM");
    await new Promise((resolve) => child.once("close", resolve));
  }
  expect(child.exitCode).toBe(0);
});

describeWith(CHROMIUM, "x0's pages while their server is restarted", () => {
  it("[X55] no page becomes deaf when the server is stopped and started, killed, and replaced; what is sent meanwhile is shown", {
    timeout: 120_000,
  }, async () => {
    const supervised = await Supervised.start(data, ["--x0", "demo"]);
    server = supervised;
    const app = await App.start({ server: supervised.url, session: (user) => `sess-${user}` });
    try {
      const one = await app.open(await app.person(), "one");
      const other = await app.open(await app.person(), "two");
      let round = 0;
      for (const end of [
        () => supervised.signalServer("SIGTERM"),
        () => supervised.signalServer("SIGKILL"),
        () => supervised.signal("SIGHUP"),
        () => supervised.signalServer("SIGKILL"),
      ]) {
        round += 1;
        expect(await one.send("sess-two", `before ${round}`)).toBe("successful");
        const next = end();
        expect(await one.send("sess-two", `while ${round}`)).toBe("successful");
        expect(await other.send("sess-one", `back ${round}`)).toBe("successful");
        await supervised.servers(next);
        for (const [tab, count] of [
          [other, 2 * round],
          [one, round],
        ] as const) {
          await vi.waitFor(
            async () => {
              const { isDeaf, shown } = await tab.state();
              expect(isDeaf).toBe(false);
              expect(new Set(shown.map(({ payload }) => payload.Form2)).size).toBe(count);
            },
            { timeout: 20_000, interval: 50 },
          );
        }
      }
    } finally {
      await app.stop();
    }
  });
});
