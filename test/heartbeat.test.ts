/** When heartbeats come, by a clock that the test turns. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Heartbeat, LATE_MS } from "../src/heartbeat.ts";

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
function fifty(): readonly { readonly times: readonly number[]; readonly firstMs: number }[] {
  return Array.from({ length: 50 }, () => {
    const times: number[] = [];
    const firstMs = nowMs + EVERY_MS;
    heartbeats.push(new Heartbeat(EVERY_MS, (atMs) => times.push(atMs)));
    pass(90);
    return { times, firstMs };
  });
}

function together(times: readonly (number | undefined)[]): number {
  return Math.max(...times.map((time) => times.filter((other) => other === time).length));
}

test("[H104] a heartbeat comes when it is due or half a second later, keeps its time, and those of connections that came at different times do not come together", () => {
  const all = fifty();
  pass(10 * EVERY_MS);
  for (const { times, firstMs } of all) {
    expect(times.length).toBeGreaterThanOrEqual(9);
    for (const [n, atMs] of times.entries()) {
      expect(atMs).toBeGreaterThanOrEqual(firstMs + n * EVERY_MS);
      expect(atMs).toBeLessThanOrEqual(firstMs + n * EVERY_MS + LATE_MS);
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
  });
  for (const name of ["second", "third"]) others.push(new Heartbeat(1_000, () => heard.push(name)));
  expect(vi.getTimerCount()).toBe(1);
  pass(10_000);
  expect(heard).toEqual(["first"]);
  expect(vi.getTimerCount()).toBe(0);
  first.stop();
  // One that is due more often than there are rounds comes once in each.
  const later = new Heartbeat(1, () => heard.push("later"), 1_000);
  pass(2_000);
  expect(heard.length).toBeGreaterThanOrEqual(3);
  expect(heard.length).toBeLessThanOrEqual(6);
  later.stop();
  expect(vi.getTimerCount()).toBe(0);
});
