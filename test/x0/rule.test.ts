/**
 * Which poll follows which answer: the rule by itself, without a clock.
 * @module
 */
import { expect, test } from "vitest";
import { type Answer, type Connection, Gaps, nextOfPageLoad, nextOfSession, type Opening } from "../../src/transports/x0/processed.ts";

const session = {};
const connection = (more: Partial<Connection> = {}, carries = true): Connection => ({
  isOpen: true,
  wasReset: false,
  carried: new WeakSet(carries ? [session] : []),
  ...more,
});
const answer = (more: Partial<Answer> = {}): Answer => ({ request: "1", connection: connection(), writtenAtMs: 1_000, ...more });
const poll = (atMs: number, more: Partial<Opening> = {}): Opening => ({ request: "2", atMs, connection: connection(), ...more });
const verdict = (one: Answer, other: Opening, limitMs = 30) => nextOfSession(one, other, session, limitMs);

test("[X16] fixed values: a poll follows an answer when the answer was written, its connection is whole, and the preflight came soon after on a connection of the session", () => {
  expect(verdict(answer(), poll(1_000))).toBe("next");
  expect(verdict(answer(), poll(1_006))).toBe("next");
  expect(verdict(answer(), poll(1_030))).toBe("next");
  expect(verdict(answer(), poll(1_030.1))).toBe("late");
  expect(verdict(answer(), poll(1_100), 318)).toBe("next");
  expect(verdict(answer(), poll(999.9)), "on its way before").toBe("other");
  expect(verdict(answer({ writtenAtMs: undefined }), poll(1_006)), "cut").toBe("other");
  expect(verdict(answer({ connection: connection({ isOpen: false, wasReset: true }) }), poll(1_006)), "reset").toBe("other");
  expect(verdict(answer({ connection: connection({ isOpen: false }) }), poll(1_006)), "closed").toBe("late");
  expect(verdict(answer(), poll(1_006, { connection: connection({}, false) })), "another browser").toBe("late");
  expect(verdict(answer(), poll(1_006, { request: "1" })), "the browser's repeat").toBe("other");
  expect(verdict(answer({ request: undefined }), poll(1_006, { request: undefined })), "without names").toBe("next");
});

test("[X17] how soon is learnt from the session's last gaps: three times their median, 30 ms at least and 500 ms at most", () => {
  const gaps = new Gaps();
  expect(gaps.limitMs).toBe(30);
  for (const gap of [6, 8, 7]) gaps.add(gap);
  expect(gaps.limitMs).toBe(30);
  for (const gap of [106, 107, 108, 109]) gaps.add(gap);
  expect(gaps.limitMs).toBe(318);
  for (const gap of [400, 400, 400, 400, 400, 400]) gaps.add(gap);
  expect(gaps.limitMs).toBe(500);
  for (let times = 0; times < 9; times++) gaps.add(501);
  expect(gaps.limitMs, "what is longer is none").toBe(500);
  for (let times = 0; times < 5; times++) gaps.add(5);
  expect(gaps.limitMs, "old ones are forgotten").toBe(30);
});

test("[X18] a value per page load: any later poll follows an answer that was written, and only the browser's repeat of the same request does not", () => {
  expect(nextOfPageLoad(answer(), poll(1_006))).toBe("next");
  expect(nextOfPageLoad(answer(), poll(99_000))).toBe("next");
  expect(nextOfPageLoad(answer(), poll(1_006, { connection: connection({}, false) }))).toBe("next");
  expect(nextOfPageLoad(answer(), poll(99_000, { request: "1" }))).toBe("other");
  expect(nextOfPageLoad(answer({ writtenAtMs: undefined }), poll(1_006))).toBe("other");
});
