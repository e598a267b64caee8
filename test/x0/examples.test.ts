/**
 * The worked examples of the backend's part: run as they stand, and used as a page would.
 * @module
 */
import { execFile, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { describeWith, type Need } from "../support/needs.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "../support/started.ts";
import { pollOf, Tab, valuesOf } from "./tab.ts";

const FOLDER = fileURLToPath(new URL("../../examples/x0/", import.meta.url));
const PYTHON: Need = { isThere: spawnSync("python3", ["--version"]).status === 0, reason: "there is no python3", how: "apt-get install python3" };

let started: Started;
beforeAll(async () => {
  started = await start("memory", { x0: "registered" });
});
afterAll(() => started.stop());

/** Two loads of a page of each user: what is sent before the reload is there after it, and acknowledged by the second's next poll. */
async function expectExchange(sessionOf: (user: string) => string | Promise<string>): Promise<void> {
  const [alice, bob, bobAgain] = [await sessionOf("alice"), await sessionOf("bob"), await sessionOf("bob")];
  expect(new Set([alice, bob, bobAgain]).size).toBe(3);
  const page = new Tab(started.url);
  expect((await page.send(alice, "bob", { Form2: "hello" })).body).toEqual({ messages: null, status: "ok" });
  expect(valuesOf(await new Tab(started.url).poll(bob))).toEqual([{ Form2: "hello" }]);
  const reloaded = new Tab(started.url);
  const got = await reloaded.poll(bobAgain);
  expect(got.body.messages).toMatchObject([{ payload: { Form2: "hello" }, session_src: "alice" }]);
  (await reloaded.begin(pollOf(bobAgain))).cut();
  await vi.waitFor(async () => expect((await started.server.engine.totals()).unsettled).toBe(0));
}

describeWith(PYTHON, "x0's backend in Python", () => {
  // The server is in this process, so it must go on while Python asks it.
  const run = (user: string, key = SERVICE_CREDENTIAL) =>
    new Promise<{ status: number; output: string; errors: string }>((resolve) => {
      const env = { PATH: process.env.PATH, HANDOVER_URL: started.url, HANDOVER_SERVICE_KEY: key };
      execFile("python3", [`${FOLDER}preload_authentication.py`, user], { env }, (error, output, errors) =>
        resolve({ status: error ? 1 : 0, output, errors }),
      );
    });

  test("[X57] PreloadAuthentication in Python makes a session for each load of a page, and pages exchange messages with them", async () => {
    await expectExchange(async (user) => {
      const { status, output, errors } = await run(user);
      expect([status, errors]).toEqual([0, ""]);
      const preloaded = JSON.parse(output);
      expect(preloaded).toMatchObject({ user_id: user, destinations: expect.arrayContaining(["user1"]) });
      return preloaded.user_session;
    });
    expect((await run("alice", "not the key")).errors).toMatch(/RuntimeError: Handover made no session: /);
  });
});

test("[X57] PreloadAuthentication in Node likewise", async () => {
  vi.stubEnv("HANDOVER_URL", started.url);
  vi.stubEnv("HANDOVER_SERVICE_KEY", SERVICE_CREDENTIAL);
  const { userSession } = (await import(`${FOLDER}preload-authentication.mjs`)) as { userSession(user: string): Promise<string> };
  vi.unstubAllEnvs();
  await expectExchange(userSession);
});
