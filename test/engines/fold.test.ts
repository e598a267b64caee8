/** What is kept of acknowledged fresh mail, and when it goes: with a clock of the test's own. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import Database from "better-sqlite3";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { AppendResult, Op, ReadResult, Result, WorkerOptions } from "../../src/engines/sqlite/call.ts";
import { checksumOfKey, checksumOfMailbox } from "../../src/engines/sqlite/checksum.ts";
import { examineFolder, repair } from "../../src/engines/sqlite/doctor.ts";
import { numberOf } from "../../src/engines/sqlite/fold.ts";
import { nameOfKey } from "../../src/engines/sqlite/key.ts";
import { openDatabase } from "../../src/engines/sqlite/open.ts";
import { rootsOfAll } from "../../src/engines/sqlite/salvage.ts";
import { type Db, databaseFile, MIGRATIONS, migrate } from "../../src/engines/sqlite/schema.ts";
import { Store } from "../../src/engines/sqlite/store.ts";
import { toItem } from "../../src/engines/sqlite/value.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";

const DAY_MS = 24 * 3600_000;
const STROKE_MS = 10_000;
const COUNT = 2_500;

let folder: ReturnType<typeof makeFolder>;
let options: WorkerOptions;
let nowMs: number;
let db: Db;
let store: Store;
beforeEach(() => {
  folder = makeFolder();
  options = { dir: join(folder.dir, "store"), mailboxMaxMessages: 100_000, mailboxMaxBytes: 1e9, maxAttempts: 3, reserveBytes: 65_536 };
  nowMs = Date.now();
});
afterEach(() => {
  db.close();
  folder.remove();
});

function open(): void {
  db = openDatabase(options.dir);
  store = new Store(db, options);
}

function batch(...ops: readonly Op[]): Result[] {
  store.begin(nowMs);
  const results = ops.map((op, place) => store.run(op, place));
  store.commit();
  return results;
}

const nameOf = (n: number) => `m${String(n).padStart(6, "0")}`;
const keyed = (id: string, key: string, user = "u") => toItem(makeMessage(id, [user], { acceptedAtMs: nowMs, idempotency: { key, hash: "h" } }));
const rows = (table: string) => Number(db.prepare(`SELECT count(*) FROM ${table}`).pluck().get());
/** A state has a row of its own, or is in a fold; so is a key, and has a number by which it is found. */
const left = () => ({ states: states(), keys: rows("idempotency") + rows("folded_keys"), folds: rows("folds") });
const states = () => rows("deliveries") + Number(db.prepare("SELECT coalesce(sum(mails), 0) FROM folds").pluck().get());
const repeat = (key: string) => {
  store.begin(nowMs);
  const [result] = store.run(["append", [keyed("zzz", key)]], 0) as readonly AppendResult[];
  store.rollback();
  return result;
};

/** An empty store of a version before, in the place of this test's. */
function makeOld(version: number): Db {
  options = { ...options, dir: folder.dir };
  const old = new Database(databaseFile(folder.dir));
  old.pragma("auto_vacuum = INCREMENTAL");
  migrate(old, folder.dir, version);
  return old;
}

function sweep(): void {
  while (batch(["sweep", null])[0] === true);
}

/** Stores mail with keys, acknowledges all, and gives it its rows. */
function fold(count: number, from = 0): void {
  append(count, from);
  while (store.isToFold(true)) store.fold();
}

/** Stores mail with keys, and acknowledges all. */
function append(count: number, from: number): void {
  batch(["append", Array.from({ length: count }, (_none, n) => keyed(nameOf(from + n), `key-${from + n}`))]);
  batch(["settle", "u", "s", [["acked-upto", Number.MAX_SAFE_INTEGER, []]]]);
}

test("[E83] what was acknowledged while it was fresh is known for 24 hours, its key too, and then it is gone from the file, in steps", () => {
  open();
  batch(["append", [keyed("first", "k")]]);
  const fresh = repeat("k");
  expect(fresh).toBe(`{"id":"first","time":"${new Date(nowMs).toISOString()}","ttl":3600,"recipients":["u"]}`);
  fold(COUNT);
  expect(repeat("k"), "byte for byte").toBe(fresh);
  const all = left();
  expect(all).toMatchObject({ states: COUNT + 1, keys: COUNT + 1 });
  expect(rows("deliveries"), "none has a row of its own").toBe(0);
  nowMs += DAY_MS - 1;
  sweep();
  expect(left()).toEqual(all);
  expect(repeat("k")).toBe(fresh);
  nowMs += STROKE_MS + 1;
  const before = states();
  batch(["sweep", null]);
  expect(before - states()).toBeLessThanOrEqual(1_000);
  sweep();
  expect(left()).toEqual({ states: 0, keys: 0, folds: 0 });
  expect(batch(["totals"])).toMatchObject([{ acked: COUNT + 1, unsettled: 0 }]);
});

test("[E87] the state of what was acknowledged while it was fresh is what it was, for 24 hours, after a start too; no other id has it", () => {
  open();
  const endedMs = nowMs;
  const userOf = (n: number) => (n % 3 === 0 ? "v" : "u");
  const mails = Array.from({ length: 700 }, (_none, n) =>
    n % 2 === 0 ? keyed(nameOf(n), `key-${n}`, userOf(n)) : toItem(makeMessage(nameOf(n), [userOf(n)], { acceptedAtMs: nowMs })),
  );
  batch(["append", mails]);
  for (const user of ["u", "v"]) batch(["settle", user, "s", [["acked-upto", Number.MAX_SAFE_INTEGER, []]]]);
  batch(["append", Array.from({ length: 10 }, (_none, n) => keyed(nameOf(9_000 + n), `waits-${n}`))]);
  const asked = () => Array.from({ length: 700 }, (_none, n) => batch(["find", nameOf(n)])[0]);
  const fresh = asked();
  expect(fresh[1]).toEqual({ source: "/users/alice", recipients: [["u", "acked", endedMs]] });
  expect(fresh[3]).toEqual({ source: "/users/alice", recipients: [["v", "acked", endedMs]] });
  while (store.isToFold(true)) store.fold();
  // The keys of what waits are in a fold, too; its state is in its row.
  expect(left()).toEqual({ states: 710, keys: 360, folds: 4 });
  expect(rows("idempotency")).toBe(0);
  expect(repeat("waits-0")).toContain(`"id":"${nameOf(9_000)}"`);
  expect(asked()).toEqual(fresh);
  for (const id of [nameOf(701), "a", "z", `${nameOf(3)}x`, "key-2", "/users/alice", ""]) expect(batch(["find", id]), id).toEqual([null]);
  db.close();
  open();
  expect(asked()).toEqual(fresh);
  expect(() => batch(["append", [keyed(nameOf(3), "another")]])).toThrow(/is there already/);
  store.rollback();
  nowMs += DAY_MS + STROKE_MS + 1;
  sweep();
  expect(new Set(asked())).toEqual(new Set([null]));
});

test("[E87] … also where messages lie between those of another fold, since the time of day was set back before a start", () => {
  open();
  const interleaved = (first: number) => {
    batch(["append", Array.from({ length: 50 }, (_none, n) => keyed(nameOf(first + n * 2), `key-${first + n * 2}`))]);
    batch(["settle", "u", "s", [["acked-upto", Number.MAX_SAFE_INTEGER, []]]]);
    while (store.isToFold(true)) store.fold();
    nowMs += 1_000;
  };
  interleaved(1_000);
  interleaved(1_001);
  // These lie beside all others.
  interleaved(5_000);
  interleaved(10);
  expect(left()).toEqual({ states: 200, keys: 200, folds: 4 });
  expect(rows("deliveries")).toBe(50);
  for (const [place, first] of [1_000, 1_001, 5_000, 10].entries()) {
    const endedMs = nowMs - (4 - place) * 1_000;
    for (let n = 0; n < 50; n += 1) {
      expect(batch(["find", nameOf(first + n * 2)])).toEqual([{ source: "/users/alice", recipients: [["u", "acked", endedMs]] }]);
      expect(repeat(`key-${first + n * 2}`)).toContain(`"id":"${nameOf(first + n * 2)}"`);
    }
  }
  db.close();
  expect(examineFolder(options.dir)).toMatchObject({ findings: [], notes: [] });
  open();
  nowMs += DAY_MS + STROKE_MS + 1;
  sweep();
  expect(left()).toEqual({ states: 0, keys: 0, folds: 0 });
});

test("[E87] … a time of day that was wrong for a while lies in no fold: what comes later lies beside them", () => {
  open();
  append(2, 1_000);
  nowMs += 30 * DAY_MS;
  append(2, 5_000);
  nowMs -= 30 * DAY_MS;
  append(2, 5_002);
  while (store.isToFold(true)) store.fold();
  db.close();
  open();
  fold(3, 2_000);
  expect(rows("deliveries")).toBe(0);
  for (const n of [1_000, 1_001, 2_000, 2_002, 5_000, 5_003]) expect(batch(["find", nameOf(n)])[0], nameOf(n)).not.toBeNull();
  expect(() => batch(["append", [keyed(nameOf(2_001), "another")]])).toThrow(/is there already/);
  store.rollback();
  batch(["append", [keyed(nameOf(2_003), "new")]]);
  expect(() => batch(["append", [keyed(nameOf(2_003), "another")]])).toThrow(/is there already/);
  store.rollback();
  batch(["append", [keyed(nameOf(2_004), "another")]]);
});

test("[E83] … what left its fold alone, or by few, has gone in as many steps as what left it by the thousand", () => {
  open();
  append(1_000, 0);
  for (let n = 0; n < 300; n += 1) fold(1, 1_000 + n);
  batch(["append", Array.from({ length: 1_000 }, (_none, n) => keyed(nameOf(5_000 + n), `held-${n}`))]);
  const before = rows("folds");
  expect(before).toBeGreaterThan(300);
  const seqs = (batch(["read", "u", "s", 0, 2_000, 1e9])[0] as ReadResult).entries.map(([seq]) => seq);
  batch(["settle", "u", "s", [["held", "tab", seqs]]]);
  expect(rows("folds"), "none for what is held").toBe(before);
  nowMs += DAY_MS + STROKE_MS + 1;
  let steps = 0;
  while (batch(["sweep", null])[0] === true) steps += 1;
  expect(left()).toMatchObject({ states: 1_000, keys: 0, folds: 0 });
  expect(steps).toBeLessThanOrEqual(8);
});

test("[E88] what comes due while it is fresh is not forgotten by a sweep of what has rows", () => {
  open();
  const { acceptedAtMs, expiresAtMs } = makeMessage("m", ["u"], { acceptedAtMs: nowMs, expiresAtMs: nowMs + 90_000 });
  batch(["append", [toItem(makeMessage("m", ["u"], { acceptedAtMs, expiresAtMs }))]]);
  sweep();
  // Where it has no rows yet, it is looked at again; where it has, its own date is known.
  expect(store.outcome.dueMs).toBe(nowMs + 30_000);
  nowMs += 30_000;
  while (store.isToFold(true)) store.fold();
  sweep();
  expect(store.outcome.dueMs).toBe(expiresAtMs);
  nowMs = expiresAtMs;
  sweep();
  expect(batch(["find", "m"])).toMatchObject([{ recipients: [["u", "expired", nowMs]] }]);
});

test("[E84] … of a key that was used again the last use", () => {
  open();
  fold(3);
  nowMs += DAY_MS + STROKE_MS;
  batch(["append", [keyed("used again", "key-1")]]);
  batch(["settle", "u", "s", [["acked-upto", Number.MAX_SAFE_INTEGER, []]]]);
  while (store.isToFold(true)) store.fold();
  const answer = repeat("key-1");
  expect(answer).toContain('"id":"used again"');
  db.close();
  repair(options.dir, { misses: false });
  open();
  expect(repeat("key-1")).toBe(answer);
});

test("[E87] … taking back what is acknowledged already changes nothing", () => {
  open();
  append(3, 0);
  expect(batch(["evict", nameOf(1)])).toEqual([0]);
  expect(left().folds).toBe(0);
  while (store.isToFold(true)) store.fold();
  expect(batch(["evict", nameOf(1)])).toEqual([0]);
  expect(left()).toMatchObject({ states: 3, folds: 1 });
});

test("[E87] … damage that says that all ids are there refuses no message", () => {
  open();
  fold(20);
  db.exec("UPDATE folds SET keys = 'x' || keys, last = 'z'");
  db.close();
  open();
  expect(batch(["append", [keyed(nameOf(100), "new")]])).toEqual([[[21]]]);
  expect([1, 2].map(() => batch(["find", nameOf(3)])[0])).toEqual([null, null]);
  expect(store.outcome.damages, "said once").toBe(1);
});

test.each(["keys = 'x' || keys", "keys = replace(keys, 'm000003', 'm000033')", "first = 'm000004'", "last = 'm000002'", "mails = NULL", "mails = 3"])(
  "[E87] … where a fold's row is damaged (%s) nothing wrong is said of a message, and the doctor says what is damaged",
  (damage) => {
    open();
    fold(20);
    const known = batch(["find", nameOf(3)])[0];
    const { damages } = store.outcome;
    db.exec(`UPDATE folds SET ${damage}`);
    const after = batch(["find", nameOf(3)])[0];
    if (damage !== "mails = 3") expect(after).toBeNull();
    else expect(after).toEqual(known);
    expect(store.outcome.damages - damages).toBe(damage.startsWith("keys") ? 1 : 0);
    db.close();
    expect(examineFolder(options.dir).findings.join()).toMatch(
      /\d+ states of acknowledged messages are not what was written: whoever asks for them is told that they are not known/,
    );
    open();
  },
);

test("[E83] … a key that was used again stays, though the fold of the one before names it", () => {
  open();
  fold(3);
  const n = db.prepare("SELECT n FROM folds").pluck().get();
  // The fold goes later than its keys.
  db.prepare("UPDATE folds SET due_ms = due_ms + ?").run(3_600_000);
  nowMs += DAY_MS + STROKE_MS;
  sweep();
  fold(1, COUNT);
  batch(["append", [keyed("again", "key-1")]]);
  batch(["settle", "u", "s", [["acked-upto", Number.MAX_SAFE_INTEGER, []]]]);
  while (store.isToFold(true)) store.fold();
  const answer = repeat("key-1");
  expect(answer).toContain('"id":"again"');
  nowMs += 3_600_000;
  sweep();
  expect(db.prepare("SELECT count(*) FROM folds WHERE n = ?").pluck().get(n)).toBe(0);
  expect(repeat("key-1")).toBe(answer);
  nowMs += DAY_MS + STROKE_MS;
  sweep();
  expect(left()).toEqual({ states: 0, keys: 0, folds: 0 });
});

test.each([
  { damage: "due_ms = 0", isKnown: true },
  { damage: "due_ms = -due_ms", isKnown: true },
  { damage: "due_ms = due_ms - (1 << 40)", isKnown: true },
  { damage: "first = 'a', last = 'z', due_ms = 0", isKnown: true },
  { damage: "numbers = zeroblob(8)", isKnown: true },
  { damage: "numbers = NULL, due_ms = due_ms - 3600000", isKnown: true },
  { damage: "keys = 'x' || keys", isKnown: false },
  { damage: "keys = replace(keys, 'key-7', 'key-8')", isKnown: false },
  { damage: "keys = '[[1,2],3,null]'", isKnown: false },
  { damage: "keys = '', numbers = NULL", isKnown: false },
  { damage: "n = n + 100", isKnown: false },
])(
  "[E83] … a damaged row of a fold ($damage) lets nothing go early, and stops nothing; a key that it lost is said to be damaged",
  ({ damage, isKnown }) => {
    open();
    fold(20);
    const answer = repeat("key-7");
    db.exec(`UPDATE folds SET ${damage}`);
    sweep();
    nowMs += DAY_MS - 1;
    sweep();
    expect(left()).toMatchObject({ states: 20, keys: 20 });
    const { damages } = store.outcome;
    store.begin(nowMs);
    const [again] = store.run(["append", [keyed("zzz", "key-7")]], 0) as readonly AppendResult[];
    expect(store.outcome.damages - damages).toBe(isKnown ? 0 : 1);
    expect(store.outcome.log.join()).toMatch(
      isKnown ? /^$/ : /An idempotency key of \/users\/alice is damaged on the disk: a repeat of its message is stored again/,
    );
    store.rollback();
    expect(again).toEqual(isKnown ? answer : [21]);
    nowMs += STROKE_MS + 1;
    sweep();
    const { keys } = left();
    db.close();
    const { findings, notes } = examineFolder(options.dir);
    expect(findings).toEqual([]);
    expect(notes.length).toBe(Number(keys > 0));
    open();
  },
);

test("[E86] a key whose number is another's already is found, and goes", () => {
  open();
  fold(10);
  append(5, 10);
  // As if key-3 had the number that key-10 is about to have.
  const take = db.prepare("UPDATE folded_keys SET number = ? WHERE number = ?");
  expect(take.run(numberOf(nameOfKey("/users/alice", "key-10")), numberOf(nameOfKey("/users/alice", "key-3"))).changes).toBe(1);
  while (store.isToFold(true)) store.fold();
  expect(rows("idempotency")).toBe(1);
  for (let n = 4; n < 15; n += 1) expect(repeat(`key-${n}`)).toContain(`"id":"${nameOf(n)}"`);
  nowMs += DAY_MS + STROKE_MS + 1;
  sweep();
  expect(left()).toMatchObject({ states: 0, folds: 0 });
  expect(rows("idempotency")).toBe(0);
});

test("[E86] the doctor says of keys in folds that cannot be found any more, and finds nothing wrong with those that can", () => {
  open();
  fold(300);
  db.close();
  expect(examineFolder(options.dir)).toMatchObject({ findings: [], notes: [] });
  open();
  db.prepare("DELETE FROM folded_keys WHERE number = ?").run(numberOf(nameOfKey("/users/alice", "key-7")));
  db.close();
  expect(examineFolder(options.dir).findings).toEqual([
    "1 idempotency keys are not what was written: a repeat of their messages would be stored again",
  ]);
  open();
});

test("[E86] numbers of keys differ, and those of keys that count up lie beside each other", () => {
  const numbers = (count: number, key: (n: number) => string) =>
    Array.from({ length: count }, (_none, n) => numberOf(nameOfKey(`/users/${n % 7}`, key(n))));
  for (const key of [(n: number) => `order-${n}`, (n: number) => `${n}-placed`, () => randomUUID(), (n: number) => n.toString(36)]) {
    const all = numbers(200_000, key);
    expect(new Set(all).size, key(4_711)).toBeGreaterThanOrEqual(199_998);
    expect(all.every((number) => Number.isSafeInteger(number) && number >= 0 && number < 2 ** 52)).toBe(true);
  }
  const neighbours = Array.from({ length: 1_000 }, (_none, n) => numberOf(nameOfKey("/users/alice", `order-${7_000 + n}`)));
  for (let n = 0; n < neighbours.length; n += 100) expect((neighbours[n + 99] ?? 0) - (neighbours[n] ?? 0)).toBeLessThan(2 ** 26);
});

test("[E84] a repaired store keeps what folds held until its date, and then lets it go", () => {
  open();
  fold(20);
  const answer = repeat("key-7");
  const state = batch(["find", nameOf(7)]);
  db.close();
  const { salvaged } = repair(options.dir, { misses: false });
  expect(salvaged).toMatchObject({ taken: { settled: 20, keys: 20 }, lost: [], missing: 0 });
  open();
  expect(repeat("key-7")).toBe(answer);
  expect(batch(["find", nameOf(7)])).toEqual(state);
  db.close();
  const again = repair(options.dir, { misses: false });
  expect(again.salvaged).toMatchObject({ taken: { settled: 20, keys: 20 }, lost: [], missing: 0 });
  open();
  expect(batch(["find", nameOf(7)])).toEqual(state);
  nowMs += DAY_MS + 2 * STROKE_MS + 60_000;
  sweep();
  expect(left()).toEqual({ states: 0, keys: 0, folds: 0 });
});

test("[E85] the trees of a store begin where a repair looks for them, of every version, whatever is in it", () => {
  const file = databaseFile(folder.dir);
  db = new Database(file);
  db.pragma("auto_vacuum = INCREMENTAL");
  const roots = () =>
    new Map(
      db
        .prepare<[], { name: string; rootpage: number }>("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")
        .all()
        .map(({ name, rootpage }) => [name, rootpage]),
    );
  for (let version = 1; version <= MIGRATIONS.length; version += 1) {
    migrate(db, folder.dir, version);
    expect(roots(), `version ${version}`).toEqual(rootsOfAll(version));
    // So much that new trees do not begin at the end of the file.
    const key = db.prepare(
      `INSERT INTO idempotency (source, key, hash, accepted, due_ms${version >= 4 ? ", checksum" : ""}) VALUES (?, ?, ?, ?, ?${version >= 4 ? ", ?" : ""})`,
    );
    db.transaction(() => {
      for (let n = 0; n < 5_000; n += 1) {
        const row = ["s", `${version}-${n}`, "h", "{}", n] as const;
        key.run(...row, ...(version >= 4 ? [checksumOfKey(...row)] : []));
      }
    })();
  }
  expect(db.pragma("integrity_check", { simple: true })).toBe("ok");
  db.close();
  open();
  expect(roots(), "a new store").toEqual(rootsOfAll(MIGRATIONS.length));
});

test("[E85] … and a store of version 5 with keys and states of its own goes on: they are known until their date, and go", () => {
  const old = makeOld(5);
  const answer = JSON.stringify({ id: "old", time: new Date(nowMs).toISOString(), ttl: 60, recipients: ["u"] });
  const dueMs = nowMs + 3_600_000;
  old
    .prepare("INSERT INTO idempotency (source, key, hash, accepted, due_ms, checksum) VALUES ('/users/alice', 'k', 'h', ?, ?, ?)")
    .run(answer, dueMs, checksumOfKey("/users/alice", "k", "h", answer, dueMs));
  old
    .prepare(
      `INSERT INTO deliveries (message, mailbox, seq, source, bytes, attempts, expires_ms, due_ms, ending, ended_ms)
        VALUES ('old', 1, 1, '/users/alice', 9, 1, ?, ?, 'acked', ?)`,
    )
    .run(dueMs, dueMs, nowMs);
  old.close();
  open();
  fold(5);
  expect(repeat("k")).toBe(answer);
  nowMs = dueMs - 1;
  sweep();
  expect(left()).toMatchObject({ states: 6, keys: 6 });
  nowMs = dueMs;
  sweep();
  expect(left()).toMatchObject({ states: 5, keys: 5 });
});

test("[E85] … and so does one of version 6, whose folds have names of keys that have rows", () => {
  const old = makeOld(6);
  const answer = JSON.stringify({ id: "old", time: new Date(nowMs).toISOString(), ttl: 60, recipients: ["u"] });
  const inShort = JSON.stringify(["old", nowMs, 60, "u"]);
  const dueMs = nowMs + 3_600_000;
  old.prepare("INSERT INTO folds (n, due_ms, first, last, keys) VALUES (1, ?, 'old', 'old', '[[\"/users/alice\",\"k\"]]')").run(dueMs);
  old
    .prepare("INSERT INTO idempotency (source, key, hash, accepted, due_ms, checksum, fold) VALUES ('/users/alice', 'k', 'h', ?, ?, ?, 1)")
    .run(inShort, dueMs, checksumOfKey("/users/alice", "k", "h", inShort, dueMs));
  old
    .prepare(
      `INSERT INTO deliveries (message, mailbox, seq, source, bytes, attempts, expires_ms, ending, ended_ms, fold)
        VALUES ('old', 1, 1, '/users/alice', 9, 1, ?, 'acked', ?, 1)`,
    )
    .run(dueMs, dueMs - DAY_MS);
  old.close();
  open();
  fold(5);
  expect(repeat("k")).toBe(answer);
  db.close();
  expect(examineFolder(options.dir)).toMatchObject({ notes: [] });
  open();
  nowMs = dueMs - 1;
  sweep();
  expect(left()).toEqual({ states: 6, keys: 6, folds: 2 });
  nowMs = dueMs;
  sweep();
  expect(left()).toEqual({ states: 5, keys: 5, folds: 1 });
});

test("[E85] … and so does one of version 7, whose folds have the keys, and states rows, with its fresh mail", () => {
  const old = makeOld(7);
  const dueMs = Math.ceil((nowMs + 3_600_000) / STROKE_MS) * STROKE_MS;
  const number = numberOf(nameOfKey("/users/alice", "k"));
  const numbers = Buffer.from(Float64Array.of(number).buffer);
  const keys = JSON.stringify([["/users/alice", "k", "h", "old", nowMs, 60, "u", dueMs]]);
  old
    .prepare("INSERT INTO folds (n, due_ms, first, last, keys, keys_checksum, numbers, numbers_checksum) VALUES (1, ?, 'old', 'old', ?, ?, ?, ?)")
    .run(dueMs, keys, crc32(keys), numbers, crc32(numbers, dueMs % 2 ** 32));
  old.prepare("INSERT INTO folded_keys (number, fold) VALUES (?, 1)").run(number);
  old
    .prepare("INSERT INTO mailboxes (id, user, head, count, bytes, forgotten, checksum) VALUES (1, 'u', 1, 0, 0, 0, ?)")
    .run(checksumOfMailbox({ id: 1, user: "u", head: 1, count: 0, bytes: 0, forgotten: 0, holds: 0 }));
  old
    .prepare(
      `INSERT INTO deliveries (message, mailbox, seq, source, bytes, attempts, expires_ms, ending, ended_ms, fold)
        VALUES ('old', 1, 1, '/users/alice', 9, 1, ?, 'acked', ?, 1)`,
    )
    .run(dueMs, dueMs - DAY_MS);
  const text = '{"id":"young"}';
  const came = ["young", 1, 2, "/users/alice", text.length, crc32(text), nowMs, nowMs + 3_600_000, 3_600, "young", "h", nowMs + DAY_MS];
  const header = JSON.stringify({ now: nowMs, came: [came], acked: [], moved: [] });
  old.prepare("INSERT INTO fresh (n, mails, checksum, header, events) VALUES (1, 1, ?, ?, ?)").run(crc32(header), header, Buffer.from(text));
  old.close();
  open();
  expect(batch(["read", "u", "s", 0, 10, 1e6])).toMatchObject([{ entries: [[2, "young", 1, text, null]] }]);
  expect(repeat("young")).toBe(`{"id":"young","time":"${new Date(nowMs).toISOString()}","ttl":3600,"recipients":["u"]}`);
  fold(5);
  expect(batch(["find", "young"])).toEqual([{ source: "/users/alice", recipients: [["u", "acked", nowMs]] }]);
  const answer = `{"id":"old","time":"${new Date(nowMs).toISOString()}","ttl":60,"recipients":["u"]}`;
  const state = [{ source: "/users/alice", recipients: [["u", "acked", dueMs - DAY_MS]] }];
  const isThere = () => {
    expect(repeat("k")).toBe(answer);
    expect(batch(["find", "old"])).toEqual(state);
  };
  isThere();
  db.close();
  expect(examineFolder(options.dir)).toMatchObject({ findings: [], notes: [] });
  open();
  nowMs = dueMs - 1;
  sweep();
  isThere();
  expect(left()).toEqual({ states: 7, keys: 7, folds: 2 });
  nowMs = dueMs;
  sweep();
  expect(left()).toEqual({ states: 6, keys: 6, folds: 1 });
});
