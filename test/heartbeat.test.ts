/** When heartbeats come, by a clock that the test turns. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Heartbeat, ROUND_MS } from "../src/heartbeat.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

const EVERY_MS = 5_000;

test("[H104] a heartbeat comes when it is due or half a second later, and those of connections that came at different times do not come together", () => {
  const beats = new Map<number, number[]>();
  const heartbeats: Heartbeat[] = [];
  // One every 100 ms.
  for (let n = 0; n < 50; n++) {
    const times: number[] = [];
    beats.set(performance.now() + EVERY_MS, times);
    heartbeats.push(
      new Heartbeat(performance.now() + EVERY_MS, (nowMs) => {
        times.push(nowMs);
        return nowMs + EVERY_MS;
      }),
    );
    vi.advanceTimersByTime(100);
  }
  vi.advanceTimersByTime(3 * EVERY_MS);
  for (const [dueMs, times] of beats) {
    expect(times.length).toBeGreaterThanOrEqual(2);
    let due = dueMs;
    for (const atMs of times) {
      expect(atMs).toBeGreaterThanOrEqual(due);
      expect(atMs).toBeLessThanOrEqual(due + ROUND_MS);
      due = atMs + EVERY_MS;
    }
  }
  const together = new Map<number, number>();
  for (const [first = Number.NaN] of beats.values()) together.set(first, (together.get(first) ?? 0) + 1);
  expect(Math.max(...together.values())).toBeLessThanOrEqual(6);
  for (const each of heartbeats) each.stop();
});

test("[H104] what is over gets no heartbeat, though it ended in the same round or by its own; and when nothing is left nothing runs", () => {
  const heard: string[] = [];
  const others: Heartbeat[] = [];
  const first = new Heartbeat(1_000, (nowMs) => {
    heard.push("first");
    for (const other of others) other.stop();
    first.stop();
    return nowMs + 1_000;
  });
  for (const name of ["second", "third"])
    others.push(
      new Heartbeat(1_000, (nowMs) => {
        heard.push(name);
        return nowMs + 1_000;
      }),
    );
  expect(vi.getTimerCount()).toBe(1);
  vi.advanceTimersByTime(10_000);
  expect(heard).toEqual(["first"]);
  expect(vi.getTimerCount()).toBe(0);
  first.stop();
  const later = new Heartbeat(performance.now() + 1_000, (nowMs) => {
    heard.push("later");
    return nowMs + 1_000;
  });
  vi.advanceTimersByTime(2 * (1_000 + ROUND_MS));
  expect(heard.slice(1, 3)).toEqual(["later", "later"]);
  later.stop();
  expect(vi.getTimerCount()).toBe(0);
});
