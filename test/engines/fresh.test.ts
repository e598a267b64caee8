/**
 * Fresh mail is in the file in another form than all other mail. A copy of the files, made between two commits, is what a process that is killed there
 * leaves behind.
 */
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { AppendResult, EndedRow, Op, ReadResult, Result, WorkerOptions } from "../../src/engines/sqlite/call.ts";
import { openDatabase } from "../../src/engines/sqlite/open.ts";
import { Store } from "../../src/engines/sqlite/store.ts";
import { toItem } from "../../src/engines/sqlite/value.ts";
import { count, patience, randomOf, report, SEED } from "../faults/report.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";

const USERS = ["u", "v", "w"];
const COMMITS = count(160, 2_000);
const FOLD_EVERY = 40;
/** So many of the last messages and keys are asked for after each commit. */
const LOOKED_AT = 500;

let folder: ReturnType<typeof makeFolder>;
let options: WorkerOptions;
beforeEach(() => {
  folder = makeFolder();
  options = { dir: join(folder.dir, "store"), mailboxMaxMessages: 60, mailboxMaxBytes: 1e9, maxAttempts: 3, reserveBytes: 65_536 };
});
afterEach(() => folder.remove());

const nameOf = (n: number) => `m${String(n).padStart(6, "0")}`;
const keyed = (id: string, user: string, key: string, acceptedAtMs: number) =>
  toItem(makeMessage(id, [user], { acceptedAtMs, idempotency: { key, hash: "h" } }));

/** What a store says to whoever asks; asking changes nothing. */
function allOf(store: Store, nowMs: number, sent: number): Result[] {
  store.begin(nowMs);
  const reads = USERS.map((user): Op => ["read", user, "s", 0, 1_000, 1e9]);
  const finds = Array.from({ length: Math.min(sent, LOOKED_AT) }, (_none, n): Op => ["find", nameOf(sent - 1 - n)]);
  const results = [...reads, ["totals"] as const, ...finds].map((op, place) => store.run(op, place));
  store.commit();
  return results;
}

test(
  `[E81] a store that is killed after any commit has all that was committed: fresh mail, what was acknowledged of it, its keys, and what got rows meanwhile`,
  () => {
    const random = randomOf(SEED);
    const upto = (n: number) => Math.floor(random() * n);
    const pick = () => USERS[upto(USERS.length)] ?? "u";
    const db = openDatabase(options.dir);
    const store = new Store(db, options);
    let nowMs = Date.now();
    store.begin(nowMs);
    store.run(["append", [toItem(makeMessage(nameOf(0), ["u"], { acceptedAtMs: nowMs }))]], 0);
    store.commit();
    let sent = 1;
    let commit = 0;
    /** What was stored under a key, as it is answered when it comes again. */
    const keys = new Map<string, string>();
    const stored = [nameOf(0)];
    const counts = { stored: 0, refused: 0, acked: 0, undone: 0, swept: 0, folded: 0, "folded in part": 0, repeated: 0 };

    const items = () =>
      Array.from({ length: 1 + upto(30) }, () => {
        const id = nameOf(sent);
        sent += 1;
        return random() < 0.5 ? toItem(makeMessage(id, [pick()], { acceptedAtMs: nowMs })) : keyed(id, pick(), `key-${id}`, nowMs);
      });
    const waiting = (user: string) => {
      const { entries } = store.run(["read", user, "s", 0, 1_000, 1e9], 0) as ReadResult;
      return entries.map(([seq]) => seq);
    };
    /** Does one thing, as the store's thread does it in the midst of others. */
    const act = () => {
      const user = pick();
      const seqs = waiting(user);
      const seq = seqs[upto(seqs.length)] ?? 1;
      const run = <R extends Result>(op: Op) => store.runApart(op, 0) as R;
      const what = upto(10);
      if (what < 4) {
        const each = items();
        const results = run<readonly AppendResult[]>(what < 3 ? ["each", each] : ["append", each]);
        for (const [place, [id, , , , , , , , , , key]] of each.entries()) {
          const isStored = typeof results[place] === "object";
          counts[isStored ? "stored" : "refused"] += 1;
          if (isStored) stored.push(id);
          if (isStored && key !== null) keys.set(key, id);
        }
      } else if (what < 7) {
        const acked = ["acked", seqs.filter(() => random() < 0.4)] as const;
        counts.acked += run<readonly EndedRow[]>(["settle", user, "s", [upto(3) === 0 ? ["acked-upto", seq, []] : acked]]).length;
      } else if (what === 7) run(["settle", user, "s", [["nacked", seq, upto(2) * 60_000]]]);
      else if (what === 8) {
        // One of several is there already: nothing of this is left.
        const there = toItem(makeMessage(stored.at(-1) ?? nameOf(0), [user], { acceptedAtMs: nowMs }));
        expect(() => run(["append", [...items(), there]])).toThrow("there already");
        counts.undone += 1;
      } else {
        // Then what is fresh becomes old; at other times there shall come to be more of it than one fold takes.
        if (commit % FOLD_EVERY < 5) nowMs += 31_000;
        run(["sweep", null]);
        run(["sweep", null]);
        counts.swept += 1;
      }
    };

    /** More than a step takes, in one commit, each for another user. */
    const appendMuch = () => {
      const many = Array.from({ length: 300 }, () => {
        const id = nameOf(sent);
        sent += 1;
        return toItem(makeMessage(id, [`of-${id}`], { acceptedAtMs: nowMs }));
      });
      store.begin(nowMs);
      store.run(["append", many], 0);
      store.commit();
    };

    for (; commit < COMMITS; commit += 1) {
      if (commit % FOLD_EVERY === FOLD_EVERY - 1 && store.isToFold(true)) {
        // Once there is more than one fold takes, whatever the seed.
        if (counts.folded === 0) for (let n = 0; n < 2; n += 1) appendMuch();
        store.fold();
        counts.folded += 1;
        if (store.isToFold(true)) counts["folded in part"] += 1;
      } else {
        store.begin(nowMs);
        const before = [sent, new Map(keys), stored.length] as const;
        for (let n = 1 + upto(3); n > 0; n -= 1) act();
        // A batch that cannot be committed is undone, and what it stored may be sent again.
        if (upto(15) === 0) {
          store.rollback();
          sent = before[0];
          stored.length = before[2];
          keys.clear();
          for (const [key, id] of before[1]) keys.set(key, id);
        } else store.commit();
      }
      if (upto(10) === 0) db.pragma("wal_checkpoint(PASSIVE)");

      const copy = join(folder.dir, "copy");
      cpSync(options.dir, copy, { recursive: true });
      const copied = openDatabase(copy);
      const other = new Store(copied, { ...options, dir: copy });
      const where = `commit ${commit} of HANDOVER_TEST_SEED=${SEED}`;
      expect(allOf(other, nowMs, sent), where).toEqual(allOf(store, nowMs, sent));
      other.begin(nowMs);
      for (const [key, id] of [...keys].slice(-LOOKED_AT)) {
        const [again] = other.run(["append", [keyed("z", "u", key, nowMs)]], 0) as readonly AppendResult[];
        expect(typeof again === "string" && JSON.parse(again).id, `${where}: ${key}`).toBe(id);
        counts.repeated += 1;
      }
      other.rollback();
      copied.close();
      rmSync(copy, { recursive: true });
    }
    db.close();
    report("R1", "a copy after each commit", { seed: SEED, commits: COMMITS, ...counts });
    // It comes to all of it, or proves nothing.
    expect(Object.entries(counts).filter(([, n]) => n === 0)).toEqual([]);
  },
  patience(COMMITS, 300),
);
