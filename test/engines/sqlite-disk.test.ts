/** The disk that is full, that fails, that hangs. What the machine does not allow is left out, and said. */
import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { until } from "../../src/testing/engine-bench.ts";
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

/** Mounts a small disk, or says why not. */
function smallDisk(dir: string): boolean {
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=8m", "tmpfs", dir], { stdio: "pipe" });
    return true;
  } catch (thrown) {
    console.log(`left out, a small disk cannot be mounted here: ${String(thrown).split("\n")[0]}`);
    return false;
  }
}

/** Compiles the shim that makes syncs fail or hang when a file says so; undefined where there is no compiler. */
function faultyDisk(dir: string): { readonly library: string; readonly control: string } | undefined {
  const control = join(dir, "fault");
  const source = join(dir, "fault.c");
  const library = join(dir, "fault.so");
  writeFileSync(control, "");
  writeFileSync(
    source,
    `#include <errno.h>
     #include <fcntl.h>
     #include <string.h>
     #include <sys/syscall.h>
     #include <unistd.h>
     static int fault(long call, int fd) {
       char what[8] = "";
       int file = open("${control}", O_RDONLY);
       if (file >= 0) { if (read(file, what, 7) < 0) what[0] = 0; close(file); }
       if (strncmp(what, "eio", 3) == 0) { errno = EIO; return -1; }
       if (strncmp(what, "hang", 4) == 0) sleep(25);
       return syscall(call, fd);
     }
     int fsync(int fd) { return fault(SYS_fsync, fd); }
     int fdatasync(int fd) { return fault(SYS_fdatasync, fd); }`,
  );
  try {
    execFileSync("gcc", ["-shared", "-fPIC", "-O1", "-o", library, source], { stdio: "pipe" });
    return { library, control };
  } catch (thrown) {
    console.log(`left out, there is no C compiler here: ${String(thrown).split("\n")[0]}`);
    return undefined;
  }
}

test("a full disk: new mail is refused with store-full, reading and acknowledging go on, and mail is taken again soon after there is room", async () => {
  if (process.platform !== "linux" || !smallDisk(folder.dir)) return;
  const { dir } = folder;
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
      expect(await desk.settle([{ kind: "acked", seqs: [seq] }], S)).toEqual([{ seq, ending: "acked" }]);
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
    execFileSync("umount", ["-l", dir]);
  }
}, 60_000);

for (const fault of ["eio", "hang"]) {
  test(`a disk whose sync ${fault === "eio" ? "fails" : "hangs"}: every call is refused, the store says once that it failed, and what was accepted is there afterwards`, async () => {
    const disk = faultyDisk(folder.dir);
    if (process.platform !== "linux" || !disk) return;
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
