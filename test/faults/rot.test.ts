/** Rot: a disk that gives back something else than was written, in the files of a store that was closed and of one that was killed. */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterAll, beforeAll, expect, test } from "vitest";
import { examineFolder, repair } from "../../src/engines/sqlite/doctor.ts";
import { count, patience, randomOf, report, SEED } from "./report.ts";
import { hurt, judge, judgeRepair, Looker, makeStore, type Outcome, STATES, type Truth } from "./rot.ts";
import { USERS } from "./rotten.ts";

const MUTANTS = count(48, 528);
let dir = "";
const looker = new Looker();
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "handover-rot-"));
});
afterAll(() => {
  looker.end();
  rmSync(dir, { recursive: true, force: true });
});

test("[D11] of a store that is in order, however it was left, a repair loses nothing and changes nothing but the epoch", async () => {
  for (const state of STATES) {
    const truth = await makeStore(join(dir, `whole-${state}`), state);
    const copy = join(dir, "copy");
    cpSync(join(dir, `whole-${state}`), copy, { recursive: true });
    expect(examineFolder(copy), state).toMatchObject({ findings: [], notes: [], misses: false, content: { unsettled: truth.unsettled } });
    const { salvaged } = repair(copy, { misses: false });
    expect(salvaged, state).toMatchObject({ lost: [], unaddressed: [], missing: 0, unreadableCells: 0, taken: { unsettled: truth.unsettled } });
    const found = await looker.look(copy);
    expect(judge(truth, found, new Set()), state).toEqual(["unharmed"]);
    // One for each user, which the looker sent.
    if (typeof found === "object") expect(found.totals, state).toMatchObject({ dead: 0, unsettled: USERS.length });
    rmSync(copy, { recursive: true });
  }
}, 30_000);

test("[D5] … a damaged date, of which no checksum says anything, moves no message when the store is repaired", async () => {
  const copy = join(dir, "dates");
  const truth = await makeStore(copy, "closed");
  const db = new Database(join(copy, "handover.db"));
  expect(db.prepare("UPDATE deliveries SET due_ms = due_ms - 4294967296000 WHERE ending IS NULL").run().changes).toBe(truth.unsettled);
  db.close();
  repair(copy, { misses: false });
  expect(judge(truth, await looker.look(copy), new Set())).toEqual(["unharmed"]);
  rmSync(copy, { recursive: true });
}, 30_000);

test(
  "[D5] of damaged files nothing wrong is delivered, nothing to anybody else, and no damage goes unsaid: dead letter and log line, or no start and what to do",
  async () => {
    const random = randomOf(SEED);
    const stores: [string, Truth][] = [];
    for (const state of STATES) stores.push([state, await makeStore(join(dir, state), state)]);
    const outcomes = new Map<Outcome, number>();
    const wrong: string[] = [];
    let [repaired, owed, saved] = [0, 0, 0];
    for (let mutant = 0; mutant < MUTANTS; mutant += 1) {
      const [kind, truth] = stores[mutant % STATES.length] ?? [];
      if (!kind || !truth) throw new Error("no store");
      const copy = join(dir, "mutant");
      cpSync(join(dir, kind), copy, { recursive: true });
      const how = hurt(copy, random, Math.floor(mutant / STATES.length));
      // A process that stops because of the damage is started again: it must come to an end of that.
      const got = new Set<string>();
      for (let start = 1; ; start += 1) {
        const [outcome, example] = judge(truth, await looker.look(copy), got);
        if (outcome === "stopped" && start < 3) continue;
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        if (!["unharmed", "quarantined", "refused"].includes(outcome))
          wrong.push(`mutant ${mutant} of seed ${SEED} (${kind}; ${how}), start ${start}: ${outcome}: ${example}`);
        if (outcome === "refused") {
          const repair = await looker.repair(copy);
          const wrongRepair = judgeRepair(truth, repair, await looker.look(copy), got);
          if (wrongRepair) wrong.push(`mutant ${mutant} of seed ${SEED} (${kind}; ${how}), repaired: ${wrongRepair}`);
          repaired += 1;
          // What is gone with a whole file cannot be saved.
          if (/bits|zeroed/.test(how)) {
            owed += truth.unsettled;
            saved += typeof repair === "string" ? 0 : repair.saved;
          }
        }
        break;
      }
      rmSync(copy, { recursive: true });
    }
    report("R4", "rot", { seed: SEED, mutants: MUTANTS, ...Object.fromEntries(outcomes), repaired, owed, saved });
    expect(wrong).toEqual([]);
    expect(saved / owed, "saved of what was unsettled, where pages were damaged").toBeGreaterThan(0.7);
    for (const outcome of ["unharmed", "quarantined", "refused"] as const) expect(outcomes.get(outcome), outcome).toBeGreaterThan(0);
  },
  patience(MUTANTS, 2_000),
);
