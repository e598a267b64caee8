/** The disk that is full, that fails, that hangs. */
import { rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type SqliteEngine, sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { until } from "../../src/testing/engine-bench.ts";
import { fill, makeFaultyDisk, mountSmallDisk } from "../support/disk.ts";
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

/** The whole disk, and what of it is somebody else's until it is given free, MiB. */
const [DISK, FILLER] = [28, 6] as const;

describeWith(MOUNT, "a full disk", () => {
  let unmount = () => {};
  const lines: string[] = [];
  const open = async () => {
    const engine = sqliteEngine({ dir: folder.dir, mailboxMaxBytes: 1e9, log: (line: string) => lines.push(line) });
    await engine.open((cause) => {
      throw cause;
    });
    return engine;
  };
  const nothing = { deliver: () => {}, ended: () => {}, lost: () => {} };
  const send = (engine: SqliteEngine, id: string, bytes: number) =>
    engine.append([makeMessage(id, ["u"], { event: JSON.stringify("x".repeat(bytes)) })]).then(
      () => true,
      (thrown: { code: string }) => {
        expect(thrown.code).toBe("store-full");
        return false;
      },
    );
  beforeEach(() => {
    lines.length = 0;
    unmount = mountSmallDisk(folder.dir, DISK);
  });
  afterEach(() => unmount());

  // What the log holds may fill a disk sooner than the file does, when mail is large and comes from many.
  test.each([
    [8_000, 5],
    [60_000, 64],
  ])(
    "[E44] a full disk: new mail is refused with store-full, all that is there can be read and acknowledged one by one, and mail is taken again soon after there is room (%i bytes each, from %i)",
    async (bytes, senders) => {
      const engine = await open();
      const desk = await engine.attach(U, nothing);
      writeFileSync(join(folder.dir, "filler"), Buffer.alloc(FILLER * 1_048_576));
      const stored = new Set<string>();
      let [sent, refused] = [0, 0];
      const sender = async () => {
        while (refused < 100) {
          const id = `m${sent++}`;
          if (await send(engine, id, bytes)) stored.add(id);
          else refused += 1;
        }
      };
      await Promise.all(Array.from({ length: senders }, sender));
      expect(stored.size * bytes).toBeGreaterThan(1_048_576);
      expect(lines.filter((line) => line.includes("disk is full")).length).toBe(1);

      const page = await desk.read({ after: 0, limit: 10_000, maxBytes: 100_000_000, session: S });
      expect(new Set(page.entries.map(({ id }) => id))).toEqual(stored);
      const [evicted, left, ...others] = page.entries;
      if (!evicted || !left) throw new Error("no mail");
      // Each is a commit of its own: together they write more than the log had left.
      for (const { seq, id } of others) expect(await desk.settle([{ kind: "acked", seqs: [seq] }], S)).toEqual([{ seq, id, ending: "acked" }]);
      expect(await engine.evict(evicted.id)).toBe(1);

      rmSync(join(folder.dir, "filler"));
      const freedMs = performance.now();
      await until(
        () => send(engine, "again", bytes),
        () => "mail to be taken again",
      );
      expect(performance.now() - freedMs).toBeLessThan(5_000);
      await engine.close();

      const again = await open();
      const other = await again.attach(U, nothing);
      const rest = await other.read({ after: 0, limit: 10_000, maxBytes: 100_000_000, session: S });
      expect(rest.entries.map(({ id }) => id)).toEqual([left.id, "again"]);
      await again.close();
    },
    60_000,
  );

  test("[E58] mail that is acknowledged makes room for new mail, before all of it is, on a disk that nobody clears", async () => {
    const engine = await open();
    const desk = await engine.attach(U, nothing);
    let stored = 0;
    while (await send(engine, `m${stored}`, 8_000)) stored += 1;
    expect(stored).toBeGreaterThan(1_000);
    for (let seq = 1; seq <= (stored * 3) / 4; seq += 1) expect(await desk.settle([{ kind: "acked", seqs: [seq] }], S)).toHaveLength(1);
    let tries = 0;
    await until(
      () => send(engine, `again-${tries++}`, 8_000),
      () => "mail to be taken again",
    );
    await engine.close();
  }, 60_000);

  test("[E89] a store whose disk is full, and has no room kept, opens although something is due; what waits is read, and what is due goes when there is room", async () => {
    const engine = await open();
    const dueMs = Date.now() + 500;
    // More than the log has room for.
    const due = Array.from({ length: 300 }, (_none, n) => makeMessage(`goes-${n}`, [n === 0 ? "u" : `u${n}`], { expiresAtMs: dueMs }));
    await engine.append(due);
    expect(await send(engine, "stays", 100)).toBe(true);
    await engine.close();
    rmSync(join(folder.dir, "reserve"));
    const filler = join(folder.dir, "filler");
    fill(filler, Number.POSITIVE_INFINITY);
    // Reading takes half of that.
    truncateSync(filler, statSync(filler).size - 65_536);
    await until(
      () => Date.now() > dueMs,
      () => "the messages to be due",
    );

    const again = await open();
    const ended: string[] = [];
    const desk = await again.attach(U, { ...nothing, ended: (endings) => ended.push(...endings.map(({ id }) => id)) });
    const read = async () => (await desk.read({ after: 0, limit: 10, maxBytes: 100_000, session: S })).entries.map(({ id }) => id);
    expect(await read()).toEqual(["stays"]);
    expect(ended).toEqual([]);
    rmSync(filler);
    await until(
      () => ended.length > 0,
      () => "what is due to go",
    );
    expect(ended).toEqual(["goes-0"]);
    expect(await again.totals()).toMatchObject({ unsettled: 1, expired: 300 });
    expect(await read()).toEqual(["stays"]);
    await again.close();
  });
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
