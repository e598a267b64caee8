/** Power cuts: what `kill -9` cannot show. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { COMPILER, describeWith, MOUNT, type Need } from "../support/needs.ts";
import { Tally } from "./ledger.ts";
import { canMake, cutPower, type FileSystem, makeLyingDisk } from "./power.ts";
import { count, patience, randomOf, report, SEED } from "./report.ts";

const XFS: Need = {
  isThere: MOUNT.isThere && canMake("xfs"),
  reason: "making an xfs needs root and mkfs.xfs",
  how: "apt-get install xfsprogs, and run npm test as root",
};
const EXT4: Need = {
  isThere: MOUNT.isThere && canMake("ext4"),
  reason: "making an ext4 needs root and mkfs.ext4",
  how: "apt-get install e2fsprogs, and run npm test as root",
};
const CONTROL: Need = { ...EXT4, isThere: EXT4.isThere && COMPILER.isThere, how: `${EXT4.how}; ${COMPILER.how}` };
const ROUND_MS = 10_000;

for (const [fileSystem, need, cuts] of [
  ["ext4", EXT4, count(3, 50)],
  ["xfs", XFS, count(2, 50)],
] as const satisfies readonly (readonly [FileSystem, Need, number])[]) {
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

describeWith(CONTROL, "power cuts on a disk that lies", () => {
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
