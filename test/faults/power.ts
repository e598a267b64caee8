/**
 * Power cuts, as a disk sees them: the store works on a disk that is a file (a loop device on a tmpfs). The process is frozen, the file is
 * copied, and the copy is all that is left: what had not reached the disk is gone, as the file system's own caches are.
 * @module
 */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Child } from "../engines/process.ts";
import { type FileSystem, makeImage, mountImage } from "../support/disk.ts";
import { inspect, readSaid, type Tally } from "./ledger.ts";

const IMAGE_BYTES = { ext4: 96 * 1_048_576, xfs: 320 * 1_048_576 };
/** The copy has the identity of a file system that is mounted already, which xfs refuses unless told. */
const MOUNT_COPY = { ext4: "loop", xfs: "loop,nouuid" };

/** A library that makes every sync a lie: the control of these tests. */
export function makeLyingDisk(dir: string): string {
  const source = join(dir, "lie.c");
  const library = join(dir, "lie.so");
  writeFileSync(
    source,
    "int fsync(int fd) { (void)fd; return 0; }\nint fdatasync(int fd) { (void)fd; return 0; }\nint sync_file_range() { return 0; }\n",
  );
  execFileSync("gcc", ["-shared", "-fPIC", "-O1", "-w", "-o", library, source], { stdio: "pipe" });
  return library;
}

/**
 * Cuts the power `cuts` times, each time under load, and looks at what is left.
 * @param preload  a library for the process that works on the disk, or undefined
 */
export async function cutPower(fileSystem: FileSystem, cuts: number, random: () => number, tally: Tally, preload?: string): Promise<void> {
  const images = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "handover-power-"));
  const dir = mkdtempSync(join(tmpdir(), "handover-power-"));
  const unmounts: (() => void)[] = [];
  const unmountAll = () => {
    for (const unmount of unmounts.splice(0).reverse()) unmount();
  };
  try {
    for (let cut = 1; cut <= cuts; cut += 1) {
      const disk = join(images, "disk");
      const left = join(images, "left");
      makeImage(disk, fileSystem, IMAGE_BYTES[fileSystem]);
      unmounts.push(mountImage(disk, join(dir, "disk")));
      const data = join(dir, "disk", "data");
      const child = new Child(["churn", data, `cut${cut}`], preload === undefined ? {} : { LD_PRELOAD: preload });
      try {
        await child.said("ready");
        await new Promise((resolve) => setTimeout(resolve, 200 + random() * 700));
        process.kill(child.pid, "SIGSTOP");
        // Sparse: only what was written is copied.
        execFileSync("cp", ["--sparse=always", disk, left], { stdio: "pipe" });
      } finally {
        await child.kill();
      }
      unmounts.push(mountImage(left, join(dir, "left"), MOUNT_COPY[fileSystem]));
      // On a copy of the folder, so that what the store does when it opens is not done on a loop device without room.
      const copy = join(dir, "copy");
      const said = readSaid(child.lines);
      if (existsSync(join(dir, "left", "data"))) {
        cpSync(join(dir, "left", "data"), copy, { recursive: true });
        tally.add(said, inspect(copy, said), `cut ${cut}`);
        rmSync(copy, { recursive: true });
      } else tally.add(said, { lost: said.stored.size, back: 0, unreadable: "the data folder is not there" }, `cut ${cut}`);
      unmountAll();
    }
  } finally {
    unmountAll();
    for (const folder of [images, dir]) rmSync(folder, { recursive: true, force: true });
  }
}
