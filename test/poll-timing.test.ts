/**
 * Long polling by the clock: these are the only tests that wait for real time to pass, because that is what they are about.
 * @module
 */
import { request } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Answer, call, field } from "../src/testing/wire.ts";
import { watchLinks } from "./support/held.ts";
import { expectProblem } from "./support/raw.ts";
import { type Started, start } from "./support/started.ts";

const links = watchLinks();
let started: Started;
beforeAll(async () => {
  started = await start("sqlite");
});
afterAll(() => started.stop());

const poll = (user: string, more: object = {}, token = started.token(user)) =>
  call(`${started.url}/v1/poll`, { token, body: { receiver: "r", ...more } });
const send = async (to: string, data: unknown): Promise<string> => {
  const answer = await call(`${started.url}/v1/messages`, { token: started.token("alice"), body: { to: { user: to }, type: "t", data } });
  expect(answer.status).toBe(201);
  return String(field(answer.body, "id"));
};

/** How long a timer of that length takes here: on a busy machine all are late, those of the server in this process, too. */
async function timerMs(ms: number): Promise<number> {
  const startedMs = performance.now();
  await new Promise((resolve) => setTimeout(resolve, ms));
  return performance.now() - startedMs;
}

async function timed(answer: Promise<Answer>): Promise<Answer & { readonly tookMs: number }> {
  const startedMs = performance.now();
  const { status, headers, body } = await answer;
  return { status, headers, body, tookMs: performance.now() - startedMs };
}

test.concurrent("[H30] an idle poll is answered 204 after 10 s (±0.2 s), unless it asks for another time", { timeout: 30_000 }, async () => {
  const [asked, unasked, short, none, longMs, shortMs] = await Promise.all([
    timed(poll("idle-1", { wait: 10 })),
    timed(poll("idle-2")),
    timed(poll("idle-3", { wait: 1.5 })),
    timed(poll("idle-4", { wait: 0 })),
    timerMs(10_000),
    timerMs(1_500),
  ]);
  for (const { status, tookMs } of [asked, unasked]) {
    expect(status).toBe(204);
    expect(Math.abs(tookMs - longMs), `${tookMs} ms, a timer ${longMs} ms`).toBeLessThan(200);
  }
  expect([short.status, none.status]).toEqual([204, 204]);
  expect(Math.abs(short.tookMs - shortMs), `${short.tookMs} ms, a timer ${shortMs} ms`).toBeLessThan(200);
  expect(none.tookMs).toBeLessThan(200);
});

test.concurrent("[H31] a message reaches a waiting poll at once", { timeout: 30_000 }, async () => {
  const times: number[] = [];
  let cursor: { epoch?: string; cursor?: number } = {};
  for (let n = 0; n < 20; n++) {
    const held = poll("woken", { ...cursor, wait: 10 });
    await links.opened("woken", n + 1);
    const startedMs = performance.now();
    await send("woken", n);
    const { status, body } = await held;
    times.push(performance.now() - startedMs);
    expect(status).toBe(200);
    cursor = { epoch: String(field(body, "epoch")), cursor: Number(field(body, "cursor")) };
  }
  times.sort((one, other) => one - other);
  console.log(`send → waiting poll answered, 20 times: median ${times[10]?.toFixed(1)} ms, slowest ${times[19]?.toFixed(1)} ms`);
  expect(times[19]).toBeLessThan(1_000);
});

test.concurrent("[H32] a newer poll of the same receiver ends the older at once with 204", { timeout: 30_000 }, async () => {
  const older = timed(poll("twice", { wait: 10 }));
  await links.opened("twice", 1);
  const newer = poll("twice", { wait: 10 });
  const { status, tookMs } = await older;
  expect(status).toBe(204);
  expect(tookMs).toBeLessThan(2_000);
  await links.opened("twice", 2);
  await send("twice", "for the newer");
  expect((await newer).status).toBe(200);
});

test.concurrent("[H33] a poll whose client goes away hands nothing away: the next one gets the mail", { timeout: 30_000 }, async () => {
  const held = request(`${started.url}/v1/poll`, {
    method: "POST",
    headers: { Authorization: `Bearer ${started.token("gone")}`, "Content-Type": "application/json" },
  });
  held.on("error", () => {});
  held.end(JSON.stringify({ receiver: "r", wait: 10 }));
  await links.opened("gone", 1);
  held.destroy();
  await links.closed("gone", 1);
  await send("gone", "kept");
  const { status, body } = await poll("gone", { wait: 0 });
  expect(status).toBe(200);
  expect((field(body, "deliveries") as unknown[]).map((each) => field(field(each, "event"), "data"))).toEqual(["kept"]);
  expect((field(body, "deliveries") as unknown[]).map((each) => field(each, "deliveryCount"))).toEqual([1]);
});

test.concurrent("[H34] a token that expires while its poll is held ends the poll with 401 at that moment", { timeout: 30_000 }, async () => {
  const exp = Date.now() / 1000 + 1.5;
  const held = await timed(poll("brief", { wait: 10 }, started.token("brief", { exp })));
  expectProblem(held, "token-expired");
  expect(Math.abs(held.tookMs - 1_500), `${held.tookMs} ms`).toBeLessThan(300);
});

test.concurrent("[H35] a cursor that cannot be continued is answered at once, with the epoch to go on with, in an empty mailbox too", async () => {
  const { status, body, tookMs } = await timed(poll("lost", { epoch: "of-another-store", cursor: 7, wait: 10 }));
  expect(status).toBe(200);
  expect(tookMs).toBeLessThan(1_000);
  expect(body).toMatchObject({ cursor: 0, head: 0, deliveries: [], settled: [], gaps: [] });
  const next = await poll("lost", { epoch: field(body, "epoch"), cursor: field(body, "cursor"), wait: 0 });
  expect(next.status).toBe(204);
});

test.concurrent("[H36] a settled hint ends a waiting poll", { timeout: 30_000 }, async () => {
  await send("hinted", 1);
  const first = (await poll("hinted", { wait: 0 })).body;
  const from = { epoch: field(first, "epoch"), cursor: field(first, "cursor") };
  const held = timed(poll("hinted", { ...from, wait: 10 }));
  await links.opened("hinted", 2);
  const acked = await call(`${started.url}/v1/ack`, { token: started.token("hinted"), body: { receiver: "another", ...from, upto: from.cursor } });
  expect(acked.body).toEqual({ acked: 1 });
  const { status, body, tookMs } = await held;
  expect([status, field(body, "settled"), field(body, "cursor")]).toEqual([200, [from.cursor], from.cursor]);
  expect(tookMs).toBeLessThan(2_000);
});
