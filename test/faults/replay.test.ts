/** Every moment is a moment for a power cut: disks made from what was written, synced and said, in that order. */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Child } from "../engines/process.ts";
import { COMPILER, describeWith } from "../support/needs.ts";
import { inspect, Tally } from "./ledger.ts";
import { CrashStates, makeRecorder } from "./recorder.ts";
import { count, patience, randomOf, report, SEED } from "./report.ts";

// Enough for the log to be written back and begun anew: twice, or more often.
const LOG_BYTES = count(10, 24) * 1_048_576;
const ROUND_MS = 1_000;

/** Lets the store work under the recorder for a while, then looks at `states` disks that a power cut could have left. */
async function replay(states: number, tally: Tally, environment: Readonly<Record<string, string>> = {}): Promise<number> {
  const dir = mkdtempSync(join(tmpdir(), "handover-replay-"));
  try {
    const log = join(dir, "log");
    const child = new Child(["churn", join(dir, "data"), "m"], { LD_PRELOAD: makeRecorder(dir), CRASH_LOG: log, ...environment });
    // It says nothing any more: its words stand in the log.
    await expect.poll(() => statSync(log, { throwIfNoEntry: false })?.size ?? 0, { timeout: 30_000, interval: 20 }).toBeGreaterThan(LOG_BYTES);
    await child.kill();
    const crash = new CrashStates(log);
    const random = randomOf(SEED);
    for (let state = 1; state <= states; state += 1) {
      const disk = join(dir, "disk");
      const said = crash.make(disk, random);
      tally.add(said, inspect(disk, said), `state ${state} of seed ${SEED}`);
      rmSync(disk, { recursive: true });
    }
    return crash.syncs;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

describeWith(COMPILER, "crash states", () => {
  const states = count(100, 1_000);
  test(
    "[D3] of every disk that a power cut could leave, torn at 512 bytes: all that was stored is there, nothing that was acknowledged is back",
    async () => {
      const tally = new Tally();
      const syncs = await replay(states, tally);
      report("R3", "crash states by replay", { seed: SEED, syncs, ...tally.figures() });
      expect(tally.stored).toBeGreaterThan(states);
      expect(tally.examples).toEqual([]);
    },
    patience(states, ROUND_MS),
  );

  test(
    "[D4] the same without syncs loses mail or the store: the test would see it",
    async () => {
      const tally = new Tally();
      await replay(count(5, 50), tally, { CRASH_NO_SYNC: "1" });
      report("R3", "control: no syncs", { seed: SEED, ...tally.figures() });
      expect(tally.damages).toBeGreaterThan(0);
    },
    patience(count(5, 50), ROUND_MS),
  );
});
