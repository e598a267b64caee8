/**
 * Disks that fail on purpose.
 * @module
 */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

/** Mounts a small disk there, with room for a store's reserve and little mail; needs MOUNT. @returns what unmounts it */
export function mountSmallDisk(dir: string, mebibytes = 12): () => void {
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${mebibytes}m`, "tmpfs", dir], { stdio: "pipe" });
  return () => execFileSync("umount", ["-l", dir]);
}

/** Writes a file of that size in bytes, or as much as there is room for; with an infinite one, to the last byte of the disk. */
export function fill(file: string, bytes: number): void {
  const fd = openSync(file, "w");
  let size = 65_536;
  for (let at = 0; at < bytes && size >= 1; ) {
    try {
      at += writeSync(fd, Buffer.alloc(size));
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "ENOSPC") throw thrown;
      if (Number.isFinite(bytes)) break;
      size = Math.floor(size / 2);
    }
  }
  try {
    fsyncSync(fd);
  } catch {
    // As full as it gets.
  }
  closeSync(fd);
}

export type FileSystem = "ext4" | "xfs";

/** Whether this machine can make one. */
export function canMake(fileSystem: FileSystem): boolean {
  return ["/sbin", "/usr/sbin"].some((dir) => existsSync(join(dir, `mkfs.${fileSystem}`)));
}

/** Makes a file that is a disk with an empty file system; needs MOUNT and {@link canMake}. */
export function makeImage(image: string, fileSystem: FileSystem, bytes: number): void {
  writeFileSync(image, "");
  truncateSync(image, bytes);
  const env = { PATH: "/usr/sbin:/sbin:/usr/bin:/bin" };
  execFileSync(`mkfs.${fileSystem}`, [...(fileSystem === "ext4" ? ["-q", "-F"] : ["-q", "-f"]), image], { stdio: "pipe", env });
}

/** Mounts such a file in a folder, which is made. @returns what unmounts it */
export function mountImage(image: string, dir: string, options = "loop"): () => void {
  mkdirSync(dir, { recursive: true });
  execFileSync("mount", ["-o", options, image, dir], { stdio: "pipe" });
  return () => execFileSync("umount", [dir], { stdio: "pipe" });
}

export interface FaultyDisk {
  /** For LD_PRELOAD. */
  readonly library: string;
  /** While this file says `eio` every sync fails, while it says `write` every write to a store's files, and while it says `hang` syncs take 25 s. */
  readonly control: string;
}

/** Compiles, in `dir`, the library that makes syncs fail or hang when a file says so; needs COMPILER. */
export function makeFaultyDisk(dir: string): FaultyDisk {
  const control = join(dir, "fault");
  const source = join(dir, "fault.c");
  const library = join(dir, "fault.so");
  writeFileSync(control, "");
  writeFileSync(
    source,
    `#include <errno.h>
     #include <fcntl.h>
     #include <stdio.h>
     #include <string.h>
     #include <sys/syscall.h>
     #include <unistd.h>
     static void look(char what[8]) {
       memset(what, 0, 8);
       int file = open("${control}", O_RDONLY);
       if (file >= 0) { if (read(file, what, 7) < 0) what[0] = 0; close(file); }
     }
     static ssize_t put(int fd, const void *bytes, size_t n, off_t at) {
       char what[8], link[64], path[256] = "";
       look(what);
       if (strncmp(what, "write", 5) == 0) {
         snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
         if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "handover.db")) { errno = EIO; return -1; }
       }
       return syscall(SYS_pwrite64, fd, bytes, n, at);
     }
     ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at); }
     ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at); }
     static int fault(long call, int fd) {
       char what[8];
       look(what);
       if (strncmp(what, "eio", 3) == 0) { errno = EIO; return -1; }
       if (strncmp(what, "hang", 4) == 0) sleep(25);
       return syscall(call, fd);
     }
     int fsync(int fd) { return fault(SYS_fsync, fd); }
     int fdatasync(int fd) { return fault(SYS_fdatasync, fd); }`,
  );
  execFileSync("gcc", ["-shared", "-fPIC", "-O1", "-o", library, source], { stdio: "pipe" });
  return { library, control };
}
