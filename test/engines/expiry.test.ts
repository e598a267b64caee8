/**
 * What mail that has expired costs those who do not ask for it: counted in statements, rows and commits, not in time.
 * @module
 */
import { afterEach, beforeEach, expect, test } from "vitest";
import type { CommitDone } from "../../src/engine.ts";
import type { Op, WorkerOptions } from "../../src/engines/sqlite/call.ts";
import { openDatabase } from "../../src/engines/sqlite/open.ts";
import type { Db } from "../../src/engines/sqlite/schema.ts";
import { STEP_ROWS } from "../../src/engines/sqlite/statement.ts";
import { Store } from "../../src/engines/sqlite/store.ts";
import { toItem } from "../../src/engines/sqlite/value.ts";
import { type SqliteEngine, sqliteEngine } from "../../src/engines/sqlite.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";

const COUNT = 100_000;
const HOUR_MS = 3_600_000;
const START_MS = Date.parse("2026-11-24T12:00:00Z");

let folder: ReturnType<typeof makeFolder>;
let engine: SqliteEngine | undefined;
beforeEach(() => {
  folder = makeFolder();
});
afterEach(async () => {
  await engine?.close();
  folder.remove();
});

/** What a store asked SQLite for. Together with E53, by which nothing is searched for but by an index, that is its work. */
interface Work {
  calls: number;
  rows: number;
}

/** The database, with what is asked of it counted. */
function counted(db: Db, work: Work): Db {
  const count = (rows: number) => {
    work.calls += 1;
    work.rows += rows;
  };
  const prepare = (sql: string) => {
    const statement = db.prepare(sql);
    return new Proxy(statement, {
      get(target, name) {
        if (name === "run") {
          return (...values: unknown[]) => {
            const result = target.run(...values);
            count(result.changes);
            return result;
          };
        }
        if (name === "get") {
          return (...values: unknown[]) => {
            const row = target.get(...values);
            count(row === undefined ? 0 : 1);
            return row;
          };
        }
        if (name === "all") {
          return (...values: unknown[]) => {
            const rows = target.all(...values);
            count(rows.length);
            return rows;
          };
        }
        if (name === "iterate") {
          return function* (...values: unknown[]) {
            count(0);
            for (const row of target.iterate(...values)) {
              work.rows += 1;
              yield row;
            }
          };
        }
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };
  return new Proxy(db, { get: (target, name) => (name === "prepare" ? prepare : Reflect.get(target, name, target)) });
}

test("[E78] 100,000 messages that expired in one mailbox cost nobody else anything: not before they are swept, not in steps of the sweep, not at the next start", {
  timeout: 60_000,
}, async () => {
  const options: WorkerOptions = { dir: folder.dir, mailboxMaxMessages: 1_000_000, mailboxMaxBytes: 1e12, maxAttempts: 10, reserveBytes: 65_536 };
  const work: Work = { calls: 0, rows: 0 };
  const db = openDatabase(folder.dir);
  const store = new Store(counted(db, work), options);
  let nowMs = START_MS;
  let happenings = 0;
  /** Carries out a batch. @returns the results, and what it took */
  const batch = (...ops: readonly Op[]) => {
    const before = { ...work };
    store.begin(nowMs);
    const results = ops.map((op, place) => store.run(op, place));
    store.commit();
    happenings += store.outcome.happenings.length;
    return { results, calls: work.calls - before.calls, rows: work.rows - before.rows };
  };
  let sent = 0;
  /** A message to another mailbox, which is read, acknowledged and asked for. @returns what that takes */
  const others = () => {
    sent += 1;
    const message = makeMessage(`other-${String(sent).padStart(4, "0")}`, ["eve"], { acceptedAtMs: nowMs });
    const { results, calls, rows } = batch(
      ["append", [toItem(message)]],
      ["read", "eve", "s", sent - 1, 32, 1_000_000],
      ["settle", "eve", "s", [["acked-upto", sent, []]]],
      ["find", message.id],
      ["totals"],
    );
    expect(results[2]).toEqual([[sent, message.id, 0]]);
    return { calls, rows };
  };
  // What is read once and then remembered.
  others();
  const alone = others();

  for (let start = 0; start < COUNT; start += 1_000) {
    const ids = Array.from({ length: 1_000 }, (_, n) => `m-${start + n}`);
    batch(["append", ids.map((id) => toItem(makeMessage(id, ["bob"], { acceptedAtMs: nowMs, expiresAtMs: nowMs + HOUR_MS })))]);
  }
  // As the thread does between batches.
  while (store.isToFold(true)) store.fold();
  nowMs += 2 * HOUR_MS;
  expect(others(), "expired, and not swept").toEqual(alone);

  const perRow: number[] = [];
  for (let step = 1; step <= 10; step++) {
    const { results, calls, rows } = batch(["sweep", null]);
    expect(results).toEqual([true]);
    expect(rows).toBeGreaterThanOrEqual(STEP_ROWS);
    perRow.push(calls / STEP_ROWS, rows / STEP_ROWS);
    expect(batch(["totals"]).results).toMatchObject([{ expired: step * STEP_ROWS, unsettled: COUNT - step * STEP_ROWS }]);
    expect(others(), "in the middle of the sweep").toEqual(alone);
  }
  // A step takes the same, however much there is still to do.
  expect(Math.max(...perRow)).toBeLessThan(5);
  expect(happenings, "nobody is told of a mailbox that nobody has open").toBe(0);
  db.close();

  // The server starts again with 90,000 of them still there.
  const commits: CommitDone[] = [];
  engine = sqliteEngine({ ...options, now: () => nowMs, log: () => {}, committed: (commit) => commits.push(commit) });
  await engine.open((cause) => {
    throw cause;
  });
  expect(await engine.totals(), "one step, and then it serves").toMatchObject({ expired: 11 * STEP_ROWS });
  // The rest it does by itself. Whoever asks meanwhile waits for the step that is under way, and for the one that shares their own commit.
  const waits: number[] = [];
  for (let expired = 0; expired < COUNT; ) {
    const before = commits.length;
    await engine.append([makeMessage(`during-${waits.length}`, ["eve"], { acceptedAtMs: nowMs })]);
    waits.push(commits.length - before);
    const totals = await engine.totals();
    if (expired > 0) expect(totals.expired - expired, "done while one message was sent and one question asked").toBeLessThanOrEqual(4 * STEP_ROWS);
    expired = totals.expired;
  }
  expect(Math.max(...waits)).toBeLessThanOrEqual(2);
  expect(await engine.totals()).toMatchObject({ accepted: COUNT + sent + waits.length, expired: COUNT, acked: sent, unsettled: waits.length });
});
