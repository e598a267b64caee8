/** When heartbeats come, by a clock that the test turns. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { dueAgain, Heartbeat, LATE_MS } from "../src/heartbeat.ts";

const EVERY_MS = 5_000;
const STEP_MS = 10;
let nowMs: number;
const heartbeats: Heartbeat[] = [];

beforeEach(() => {
  // Timers are set at some moment, not at a round one.
  nowMs = 480;
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  vi.spyOn(performance, "now").mockImplementation(() => nowMs);
});
afterEach(() => {
  for (const each of heartbeats.splice(0)) each.stop();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

function pass(ms: number): void {
  for (let passed = 0; passed < ms; passed += STEP_MS) {
    nowMs += STEP_MS;
    vi.advanceTimersByTime(STEP_MS);
  }
}

/** The process does nothing for so long, and its timers are late. */
function stall(ms: number): void {
  nowMs += ms;
}

/** Fifty that came one after the other, every 90 ms. */
function fifty(): readonly { readonly times: readonly number[]; readonly dueMs: readonly number[] }[] {
  return Array.from({ length: 50 }, () => {
    const times: number[] = [];
    const dueMs = [nowMs + EVERY_MS];
    heartbeats.push(
      new Heartbeat(nowMs + EVERY_MS, (atMs) => {
        times.push(atMs);
        const next = dueAgain(dueMs.at(-1) ?? 0, EVERY_MS, atMs);
        dueMs.push(next);
        return next;
      }),
    );
    pass(90);
    return { times, dueMs };
  });
}

function together(times: readonly (number | undefined)[]): number {
  return Math.max(...times.map((time) => times.filter((other) => other === time).length));
}

test("[H104] a heartbeat comes when it is due or half a second later, keeps its time, and those of connections that came at different times do not come together", () => {
  const all = fifty();
  pass(10 * EVERY_MS);
  for (const { times, dueMs } of all) {
    expect(times.length).toBeGreaterThanOrEqual(9);
    for (const [n, atMs] of times.entries()) {
      expect(dueMs[n]).toBe((dueMs[0] ?? 0) + n * EVERY_MS);
      expect(atMs).toBeGreaterThanOrEqual(dueMs[n] ?? Number.NaN);
      expect(atMs).toBeLessThanOrEqual((dueMs[n] ?? 0) + LATE_MS);
    }
  }
  for (let n = 0; n < 9; n++) expect(together(all.map(({ times }) => times[n]))).toBeLessThanOrEqual(4);
});

test("[H104] those that were held up together do not stay together, and what was missed is not made up for", () => {
  const all = fifty();
  pass(EVERY_MS);
  const before = all.map(({ times }) => times.length);
  stall(3 * EVERY_MS);
  pass(STEP_MS * 30);
  // All of them are late by now, each once.
  for (const [n, { times }] of all.entries()) expect(times.length).toBeLessThanOrEqual((before[n] ?? 0) + 2);
  pass(2 * EVERY_MS);
  expect(together(all.map(({ times }) => times.at(-1)))).toBeLessThanOrEqual(4);
});

test("[H104] what is over gets no heartbeat, though it ended in the same round or by its own; and when nothing is left nothing runs", () => {
  const heard: string[] = [];
  const others: Heartbeat[] = [];
  const first = new Heartbeat(1_000, () => {
    heard.push("first");
    for (const other of others) other.stop();
    first.stop();
    return 2_000;
  });
  for (const name of ["second", "third"])
    others.push(
      new Heartbeat(1_000, () => {
        heard.push(name);
        return 2_000;
      }),
    );
  expect(vi.getTimerCount()).toBe(1);
  pass(10_000);
  expect(heard).toEqual(["first"]);
  expect(vi.getTimerCount()).toBe(0);
  first.stop();
  // One that says a time that has gone by is asked again in the next round, not in this.
  const later = new Heartbeat(nowMs + 1_000, (atMs) => {
    heard.push("later");
    return atMs;
  });
  pass(2_000);
  expect(heard.length).toBeGreaterThanOrEqual(3);
  expect(heard.length).toBeLessThanOrEqual(6);
  later.stop();
  expect(vi.getTimerCount()).toBe(0);
});
