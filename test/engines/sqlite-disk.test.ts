/** The disk that is full, that fails, that hangs. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { until } from "../../src/testing/engine-bench.ts";
import { makeFaultyDisk, mountSmallDisk } from "../support/disk.ts";
import { COMPILER, describeWith, MOUNT } from "../support/needs.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";
import { Child } from "./process.ts";

const U = "u" as UserId;
const S = "s" as SessionId;

let folder: ReturnType<typeof makeFolder>;
beforeEach(() => {
  folder = makeFolder();
});
afterEach(() => folder.remove());

describeWith(MOUNT, "a full disk", () => {
  test("[E44] a full disk: new mail is refused with store-full, reading and acknowledging go on, and mail is taken again soon after there is room", async () => {
    const { dir } = folder;
    const unmount = mountSmallDisk(dir);
    const options = { dir, reserveBytes: 1024 * 1024, log: (line: string) => lines.push(line) };
    const lines: string[] = [];
    try {
      const engine = sqliteEngine(options);
      await engine.open((cause) => {
        throw cause;
      });
      const desk = await engine.attach(U, { deliver: () => {}, ended: () => {}, lost: () => {} });
      writeFileSync(join(dir, "filler"), Buffer.alloc(4 * 1024 * 1024));
      const stored = new Set<string>();
      let refused = 0;
      const event = JSON.stringify("x".repeat(8_000));
      const send = (id: string) =>
        engine.append([makeMessage(id, ["u"], { event })]).then(
          () => stored.add(id),
          (thrown: { code: string }) => {
            expect(thrown.code).toBe("store-full");
            refused += 1;
          },
        );
      for (let n = 0; n < 2_000 && refused < 50; n += 5) await Promise.all([0, 1, 2, 3, 4].map((each) => send(`m${n + each}`)));
      expect(refused).toBeGreaterThanOrEqual(50);
      expect(stored.size).toBeGreaterThan(10);
      expect(lines.filter((line) => line.includes("disk is full")).length).toBe(1);

      const page = await desk.read({ after: 0, limit: 1_000, maxBytes: 100_000_000, session: S });
      expect(page.entries.map(({ id }) => id)).toEqual([...stored]);
      for (const { seq, id } of page.entries.slice(0, 20)) {
        expect(await desk.settle([{ kind: "acked", seqs: [seq] }], S)).toEqual([{ seq, id, ending: "acked" }]);
        stored.delete(id);
      }
      const [first] = page.entries.slice(20);
      if (first) {
        expect(await engine.evict(first.id)).toBe(1);
        stored.delete(first.id);
      }

      rmSync(join(dir, "filler"));
      const freedMs = performance.now();
      let last = 0;
      await until(
        async () => {
          const before = stored.size;
          last += 1;
          await send(`again-${last}`);
          return stored.size > before;
        },
        () => "mail to be taken again",
      );
      expect(performance.now() - freedMs).toBeLessThan(5_000);
      await engine.close();

      const again = sqliteEngine(options);
      await again.open((cause) => {
        throw cause;
      });
      const other = await again.attach(U, { deliver: () => {}, ended: () => {}, lost: () => {} });
      const rest = await other.read({ after: 0, limit: 2_000, maxBytes: 100_000_000, session: S });
      expect(rest.entries.map(({ id }) => id)).toEqual([...stored]);
      await again.close();
    } finally {
      unmount();
    }
  }, 60_000);
});

describeWith(MOUNT, "a full disk that nobody clears", () => {
  test("[E58] mail that is acknowledged makes room for new mail, before all of it is", async () => {
    const { dir } = folder;
    const unmount = mountSmallDisk(dir);
    try {
      const engine = sqliteEngine({ dir, reserveBytes: 1024 * 1024, log: () => {} });
      await engine.open((cause) => {
        throw cause;
      });
      const desk = await engine.attach(U, { deliver: () => {}, ended: () => {}, lost: () => {} });
      const event = JSON.stringify("x".repeat(8_000));
      const send = (id: string) =>
        engine.append([makeMessage(id, ["u"], { event })]).then(
          () => true,
          (thrown: { code: string }) => {
            expect(thrown.code).toBe("store-full");
            return false;
          },
        );
      let stored = 0;
      while (await send(`m${stored}`)) stored += 1;
      expect(stored).toBeGreaterThan(200);
      const half = Array.from({ length: Math.floor(stored / 2) }, (_, n) => n + 1);
      expect((await desk.settle([{ kind: "acked", seqs: half }], S)).length).toBe(half.length);
      let tries = 0;
      await until(
        () => send(`again-${tries++}`),
        () => "mail to be taken again",
      );
      await engine.close();
    } finally {
      unmount();
    }
  }, 60_000);
});

describeWith(COMPILER, "a disk that fails", () => {
  for (const fault of ["eio", "hang"]) {
    test(`[E45] a disk whose sync ${fault === "eio" ? "fails" : "hangs"}: every call is refused, the store says once that it failed, and what was accepted is there afterwards`, async () => {
      const disk = makeFaultyDisk(folder.dir);
      const dir = join(folder.dir, "data");
      const startedMs = performance.now();
      const child = new Child(["suffer", dir, `${disk.control},${fault}`], { LD_PRELOAD: disk.library });
      await child.said("done");
      expect(performance.now() - startedMs).toBeLessThan(15_000);
      await child.kill();
      expect(child.lines).toEqual([
        "stored before",
        "lost store-unavailable",
        "failed store-unavailable",
        "refused store-unavailable",
        "refused store-unavailable",
        "refused store-unavailable",
        "refused store-unavailable",
        "done",
      ]);
      const engine = sqliteEngine({ dir, reserveBytes: 65_536, log: () => {} });
      await engine.open((cause) => {
        throw cause;
      });
      const desk = await engine.attach(U, { deliver: () => {}, ended: () => {}, lost: () => {} });
      const { entries } = await desk.read({ after: 0, limit: 10, maxBytes: 1_000_000, session: S });
      expect(entries.map(({ id }) => id)).toContain("kept");
      expect(entries.map(({ id }) => id)).not.toContain("after");
      await engine.close();
    }, 60_000);
  }
});
