/**
 * The loss table's model of x0's server (`bench/peers/x0.mjs`) does on the wire what was seen of the real one. The table itself is `npm run loss-table`.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { until } from "./client/rig.ts";
import { freePort } from "./support/port.ts";

const MODEL = fileURLToPath(new URL("../bench/peers/x0.mjs", import.meta.url));
let model: ChildProcess;
let url: string;
let sessions = 0;
const newSession = () => `session-${++sessions}`;

async function ask(body: object, signal?: AbortSignal): Promise<unknown> {
  const answer = await fetch(`${url}/python/MsgHandler.py?a__=${Math.random()}`, {
    method: "POST",
    body: JSON.stringify(body),
    signal: signal ?? null,
  });
  expect(answer.status).toBe(200);
  return answer.json();
}
const poll = (session: string, signal?: AbortSignal) =>
  ask({ session_src: session, type: "GET", SessionData: { ID: "SYS_SESSION", Value: session } }, signal);
const send = (session: string, form: object) =>
  ask({
    RequestData: { FormlistSelectDstUser: { DstUserSession: session }, FormlistExchangeData: form },
    ServiceData: {},
    SessionData: { ID: "SYS_SESSION", Value: "sender" },
  });
const OK = { messages: null, status: "ok" };
const messageOf = (payload: object) => ({
  ...{ "msg-type": "net-message", "method-id": "set-data", "dst-object": "FormlistExchangeData" },
  ...{ payload, session_src: "sender" },
});

beforeAll(async () => {
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  model = spawn(process.execPath, [MODEL, String(port)], { stdio: ["ignore", "inherit", "inherit"] });
  await until(async () => void (await ask({})), 20_000);
});
afterAll(async () => {
  const gone = once(model, "exit");
  model.kill("SIGKILL");
  await gone;
});

test("the model of x0: what waits comes in one answer, in order, and is gone with it", async () => {
  const session = newSession();
  expect(await send(session, { n: 1 })).toEqual(OK);
  expect(await send(session, { n: 2 })).toEqual(OK);
  expect(await poll(session)).toEqual({ messages: [messageOf({ n: 1 }), messageOf({ n: 2 })] });
  expect(await poll(session)).toEqual({ messages: null });
});

test("the model of x0: a poll whose page has left goes on, and takes what is sent next", async () => {
  // Where the machine is so busy that the poll's time is over before the message comes, it is done again.
  await until(async () => {
    const session = newSession();
    const left = new AbortController();
    const poller = poll(session, left.signal).catch(() => "left");
    await send(newSession(), {});
    left.abort();
    expect(await poller).toBe("left");
    expect(await send(session, { n: 1 })).toEqual(OK);
    expect(await poll(session)).toEqual({ messages: null });
  }, 15_000);
});

test("the model of x0: of two pages with one session one gets the message", async () => {
  const session = newSession();
  expect(await send(session, { n: 1 })).toEqual(OK);
  const answers = await Promise.all([poll(session), poll(session)]);
  expect(answers).toContainEqual({ messages: [messageOf({ n: 1 })] });
  expect(answers).toContainEqual({ messages: null });
});

test("the model of x0: messages that are together more than 4,096 bytes are lost, and one alone is refused", async () => {
  const session = newSession();
  for (const n of [1, 2, 3]) expect(await send(session, { n, text: "x".repeat(1_500) })).toEqual(OK);
  expect(await poll(session)).toMatchObject({ error: true });
  expect(await poll(session)).toEqual({ messages: null });
  expect(await send(session, { text: "x".repeat(5_000) })).toMatchObject({ error: true });
});
