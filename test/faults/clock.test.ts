/** Clocks that jump: what lasts is measured by a clock that nobody sets; what is a date follows the time of day. */
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { connect, type Handover, type Transport } from "../../src/client/index.ts";
import { call, field, WEBSOCKET } from "../../src/testing/wire.ts";
import { LONG_POLLING } from "../../src/testing/wire-poll.ts";
import { EventStream } from "../../src/testing/wire-sse.ts";
import { until } from "../client/rig.ts";
import { CommandServer } from "../support/command.ts";
import { describeWith, FAKETIME } from "../support/needs.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL, type Started, start, tokenOf } from "../support/started.ts";
import { count, patience, report } from "./report.ts";

const HOUR_MS = 3_600_000;
const DAY_S = 86_400;

const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  for (const end of ends.splice(0).reverse()) await end();
});

async function begin(): Promise<Started> {
  const started = await start("sqlite");
  ends.push(started.stop);
  return started;
}

function jump(byMs: number): void {
  const realNow = Date.now;
  vi.spyOn(Date, "now").mockImplementation(() => realNow() + byMs);
}

const send = (url: string, user: string, data: unknown, more: object = {}) =>
  call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user }, type: "order", data, ...more } });
const nextWeek = () => ({ exp: Math.floor(Date.now() / 1_000) + 7 * DAY_S });

test.each([2 * HOUR_MS, -2 * HOUR_MS])(
  "[N3] the time of day jumps by %i ms: a connection that answers is kept, and gets its mail",
  async (jumpMs) => {
    // Its heart beats when this test says so.
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const elapsed = performance.now.bind(performance);
    let passedMs = 0;
    vi.spyOn(performance, "now").mockImplementation(() => elapsed() + passedMs);
    const { url } = await begin();
    // An hour is left to its token: the connection has it by the clock that nobody sets, to acknowledge and to send with, too.
    const socket = await WEBSOCKET.openReceiver({ url, token: tokenOf("bob"), receiver: "tab" });
    const stream = await EventStream.open({ url, token: tokenOf("carol"), query: { receiver: "tab" } });
    jump(jumpMs);
    for (; passedMs < 20_000; passedMs += 250) vi.advanceTimersByTime(250);
    for (const user of ["bob", "carol"]) expect((await send(url, user, 1)).status).toBe(201);
    for (const inbox of [socket, stream.inbox]) {
      await inbox.until(() => inbox.deliveries.length === 1 || inbox.end !== undefined, "the message");
      expect([inbox.end, inbox.deliveries.length]).toEqual([undefined, 1]);
    }
    expect(await socket.ack({ upto: 1 })).toBe(1);
    await socket.leave();
    await stream.leave();
  },
);

test("[N9] a receiver between two polls is live for 30 s of elapsed time, whatever the time of day does: TTL 0 waits for it", async () => {
  const { url } = await begin();
  const poll = (more: object) => call(`${url}/v1/poll`, { token: tokenOf("bob", nextWeek()), body: { receiver: "tab", ...more } });
  const first = await poll({ wait: 0.1 });
  expect(first.status).toBe(204);
  jump(2 * HOUR_MS);
  expect((await send(url, "bob", "brief", { ttl: 0 })).status).toBe(201);
  const second = await poll({ wait: 1 });
  expect(field(second.body, "deliveries")).toMatchObject([{ event: { data: "brief" } }]);
});

test("[N10] ids never repeat and never go back, however far the clock is set back", async () => {
  const { url } = await begin();
  const ids: string[] = [];
  for (const jumpMs of [0, 24 * HOUR_MS, 0, -24 * HOUR_MS, 0]) {
    jump(jumpMs);
    for (let n = 0; n < 3; n += 1) ids.push(String(field((await send(url, "bob", n)).body, "id")));
    vi.restoreAllMocks();
  }
  expect(ids).toEqual([...ids].sort());
  expect(new Set(ids).size).toBe(ids.length);
});

/** A real server whose time of day this test sets, and nothing else of its clocks. */
class Clock {
  readonly #file: string;
  constructor(dir: string) {
    this.#file = join(dir, "time");
  }

  /** @see libfaketime's README, "advanced usage": a file with the offset, read anew at each look at the clock */
  get environment(): NodeJS.ProcessEnv {
    return { LD_PRELOAD: FAKETIME.library, FAKETIME_TIMESTAMP_FILE: this.#file, FAKETIME_NO_CACHE: "1", FAKETIME_DONT_FAKE_MONOTONIC: "1" };
  }

  async set(offsetSeconds: number): Promise<void> {
    await writeFile(`${this.#file}.new`, `${offsetSeconds < 0 ? "" : "+"}${offsetSeconds}\n`);
    await rename(`${this.#file}.new`, this.#file);
  }
}

/** What one page has seen. */
interface Page {
  readonly user: string;
  readonly numbers: number[];
  disconnects: number;
}

describeWith(FAKETIME, "a server whose clock is set", () => {
  const ROUNDS = count(1, 12);
  const JUMPS = [2 * 3_600, 0, -2 * 3_600, 0, DAY_S, 0, -DAY_S, 0];

  test("[N11] ±2 h and ±1 day under load: nothing is lost, doubled or out of order, no connection breaks, polls and a nack's delay last no longer than ever, and only what is due by date expires", {
    timeout: patience(ROUNDS, 60_000),
  }, async () => {
    const data = await mkdtemp(join(tmpdir(), "handover-clock-"));
    const clock = new Clock(data);
    await clock.set(0);
    const port = await freePort();
    let server = await CommandServer.start(port, join(data, "store"), [], clock.environment);
    ends.push(async () => {
      await server.kill();
      await rm(data, { recursive: true });
    });
    const { url } = server;

    const clients: Handover[] = [];
    ends.push(() => Promise.all(clients.map((client) => client.close())));
    const open = (user: string, transport: Transport): Page => {
      const client = connect(url, { token: () => tokenOf(user, nextWeek()), transports: [transport], onError: () => {} });
      clients.push(client);
      const page: Page = { user, numbers: [], disconnects: 0 };
      client.on("order", (message) => void page.numbers.push(message.data as number));
      client.onStatus(({ state }) => {
        if (state === "offline") page.disconnects += 1;
      });
      return page;
    };
    const pages = [open("bob", "websocket"), open("carol", "poll")];
    // With a token that the clock, when it is ahead, takes for ended.
    const dave = await WEBSOCKET.openReceiver({ url, token: tokenOf("dave"), receiver: "tab", window: 1_000 });
    const gina = await WEBSOCKET.openReceiver({ url, token: tokenOf("gina", nextWeek()), receiver: "tab", window: 1_000 });
    ends.push(() => Promise.all([dave.leave(), gina.leave()]));
    await until(() => expect(clients.map(({ status }) => status.state)).toEqual(["online", "online"]), 20_000);

    // For somebody who comes at the end: what lasts longer than any jump, and what does not.
    for (let n = 0; n < 20; n += 1) expect((await send(url, "erin", n, { ttl: 3 * DAY_S })).status).toBe(201);
    const brief = String(field((await send(url, "erin", "brief", { ttl: 600 })).body, "id"));
    expect((await send(url, "erin", 20, { ttl: 3 * DAY_S })).status).toBe(201);

    const accepted: number[] = [];
    const ids: string[] = [];
    const wrong: unknown[] = [];
    let acked = 0;
    let isOver = false;
    const load = (async () => {
      for (let n = 0; !isOver; n += 1) {
        const answers = await Promise.all(["bob", "carol", "dave"].map((user) => send(url, user, n, { ttl: 3 * DAY_S })));
        if (answers.every(({ status }) => status === 201)) accepted.push(n);
        else wrong.push(answers.map(({ body }) => body));
        ids.push(...answers.map(({ body }) => String(field(body, "id"))).sort());
        if (n % 10 === 9) acked += await dave.ack({ upto: dave.cursor });
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    })();
    ends.push(() => {
      isOver = true;
      return load.catch(() => {});
    });
    const polls: number[] = [];
    const returns: number[] = [];
    let before = 0;
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const [place, offset] of JUMPS.entries()) {
        const keyed = () => send(url, "henry", 0, { ttl: 3 * DAY_S, idempotencyKey: `${round}-${place}` });
        const once = String(field((await keyed()).body, "id"));
        // Given back over the jump.
        const given = String(field((await send(url, "gina", 0, { ttl: 3 * DAY_S })).body, "id"));
        const handed = () => gina.deliveries.filter(({ event }) => event.id === given);
        await gina.until(() => handed().length === 1, "what will be given back");
        const givenMs = performance.now();
        await gina.ack({ nack: handed().map(({ seq }) => ({ seq, retryAfter: 1.5 })) });
        // Held over the jump.
        const startedMs = performance.now();
        const poll = call(`${url}/v1/poll`, { token: tokenOf("frank", nextWeek()), body: { receiver: "tab", wait: 0.8 } });
        await until(() => expect(performance.now() - startedMs).toBeGreaterThan(200));
        await clock.set(offset);
        expect((await poll).status).toBe(204);
        polls.push(performance.now() - startedMs);
        // It has seen the new time.
        const seenMs = Date.parse(String(field((await send(url, "nobody", 0, { ttl: 0 })).body, "time")));
        if (Math.abs(seenMs - Date.now() - offset * 1_000) > 60_000) wrong.push(`set by ${offset} s, it says ${new Date(seenMs).toISOString()}`);
        // The same key is the same message, within its day: until the clock is set forward by so much, and however far back.
        const again = String(field((await keyed()).body, "id"));
        if (offset - before < DAY_S && again !== once) wrong.push(`another id under the same key, set from ${before} s to ${offset} s`);
        before = offset;
        await gina.until(() => handed().length === 2, `what was given back before it was set to ${offset} s`, 15_000);
        returns.push(performance.now() - givenMs);
      }
    }
    isOver = true;
    await load;
    await until(() => expect(pages.map(({ numbers }) => numbers.length)).toEqual([accepted.length, accepted.length]), 20_000).catch(() => {});
    await dave.until(() => dave.deliveries.length >= accepted.length, "all of it").catch(() => {});
    const disconnects = pages.map((page) => page.disconnects).concat(dave.end === undefined ? 0 : 1);

    // Killed, and started with a clock that is ahead: by date the brief one is over.
    await server.kill();
    await clock.set(2 * 3_600);
    server = await CommandServer.start(port, join(data, "store"), [], clock.environment);
    const erin = await LONG_POLLING.openReceiver({ url, token: tokenOf("erin", nextWeek()), receiver: "tab", window: 100 });
    await erin.until(() => erin.deliveries.length >= 21, "what waited");
    const waited = erin.deliveries.map(({ event }) => event.data);
    await erin.leave();
    const state = await call(`${url}/v1/messages/${brief}`, { token: SERVICE_CREDENTIAL });
    const isExpired = (field(state.body, "recipients") as { state: string }[])[0]?.state === "expired";

    const lost = pages.reduce((sum, { numbers }) => sum + accepted.filter((n) => !numbers.includes(n)).length, 0);
    report("R12", "the time of day jumps under load", {
      jumps: ROUNDS * JUMPS.length,
      accepted: accepted.length * 3,
      lost,
      disconnects: disconnects.reduce((sum, each) => sum + each, 0),
      "slowest poll of 800 ms": Math.round(Math.max(...polls)),
      "slowest return after 1,500 ms": Math.round(Math.max(...returns)),
    });
    expect(wrong).toEqual([]);
    expect(disconnects).toEqual([0, 0, 0]);
    for (const { numbers } of pages) expect(numbers).toEqual(accepted);
    expect(dave.deliveries.map(({ event }) => event.data)).toEqual(accepted);
    expect(acked).toBeGreaterThan(0);
    expect(ids).toEqual([...new Set(ids)].sort());
    expect(waited).toEqual(Array.from({ length: 21 }, (_none, n) => n));
    expect(isExpired).toBe(true);
    expect(Math.min(...polls)).toBeGreaterThan(790);
    expect(Math.max(...polls)).toBeLessThan(5_000);
    expect(server.isRunning).toBe(true);
  });
});
