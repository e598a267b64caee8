/** Power cuts: what `kill -9` cannot show. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { FileSystem } from "../support/disk.ts";
import { both, COMPILER, describeWith, EXT4, XFS } from "../support/needs.ts";
import { Tally } from "./ledger.ts";
import { cutPower, makeLyingDisk } from "./power.ts";
import { count, patience, randomOf, report, SEED } from "./report.ts";

const ROUND_MS = 10_000;

for (const [fileSystem, need, cuts] of [
  ["ext4", EXT4, count(3, 50)],
  ["xfs", XFS, count(2, 50)],
] as const satisfies readonly (readonly [FileSystem, object, number])[]) {
  describeWith(need, `power cuts on ${fileSystem}`, () => {
    test(
      `[D1] the power is cut under load, on ${fileSystem}: all that was stored is there, nothing that was acknowledged is back`,
      async () => {
        const tally = new Tally();
        await cutPower(fileSystem, cuts, randomOf(SEED), tally);
        report("R2", `power cut, image copy, ${fileSystem}`, { seed: SEED, ...tally.figures() });
        expect(tally.stored).toBeGreaterThan(100 * cuts);
        expect(tally.examples).toEqual([]);
      },
      patience(cuts, ROUND_MS),
    );
  });
}

describeWith(both(EXT4, COMPILER), "power cuts on a disk that lies", () => {
  test(
    "[D2] the same with syncs that do nothing loses mail: the test would see it",
    async () => {
      const dir = mkdtempSync(join(tmpdir(), "handover-lie-"));
      const cuts = count(1, 3);
      try {
        const tally = new Tally();
        await cutPower("ext4", cuts, randomOf(SEED), tally, makeLyingDisk(dir));
        report("R2", "control: syncs that do nothing, ext4", { seed: SEED, ...tally.figures() });
        expect(tally.damages).toBeGreaterThan(0);
      } finally {
        rmSync(dir, { recursive: true });
      }
    },
    patience(count(1, 3), ROUND_MS),
  );
});
