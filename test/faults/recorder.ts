/**
 * Crash states: a library notes every write, sync and truncation of the store's files, in the order in which they happened, together with
 * what the process said. From that, {@link CrashStates} makes disks as a power cut could have left them: all that was synced, and of
 * the rest some, torn at 512 bytes.
 * @see RELIABILITY.md of the project's founding papers, R3; Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, for the method
 * @module
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readSaid, type Said } from "./ledger.ts";

const SECTOR = 512;

/** Compiles the library in `dir`. With CRASH_LOG set it notes into that file; with CRASH_NO_SYNC syncs do nothing, which is the control. */
export function makeRecorder(dir: string): string {
  const source = join(dir, "record.c");
  const library = join(dir, "record.so");
  writeFileSync(source, RECORDER);
  execFileSync("gcc", ["-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], { stdio: "pipe" });
  return library;
}

/** One record: kind, file, where (or how long), how many bytes; then the bytes. */
const HEADER_BYTES = 14;
const RECORDER = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
static int log_fd = -1, lies = 0;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char tracked[65536];
__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CRASH_LOG");
  lies = getenv("CRASH_NO_SYNC") != 0;
  if (path) log_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND, 0644);
}
static void note(char kind, unsigned char file, int64_t at, const void *bytes, uint32_t n) {
  unsigned char head[14];
  head[0] = kind; head[1] = file; memcpy(head + 2, &at, 8); memcpy(head + 10, &n, 4);
  struct iovec parts[2] = {{head, 14}, {(void *)bytes, n}};
  if (log_fd >= 0) syscall(SYS_writev, log_fd, parts, n ? 2 : 1);
}
static int ends(const char *path, const char *with) {
  size_t n = strlen(path), m = strlen(with);
  return n >= m && strcmp(path + n - m, with) == 0;
}
static int opened(int fd, const char *path) {
  if (fd >= 0 && fd < 65536) tracked[fd] = ends(path, "handover.db") ? 1 : ends(path, "handover.db-wal") ? 2 : ends(path, "/mark") ? 3 : 0;
  return fd;
}
#define OPEN(name) int name(const char *path, int flags, ...) { va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); return opened(syscall(SYS_openat, AT_FDCWD, path, flags, mode), path); }
OPEN(open) OPEN(open64)
static int is(int fd) { return fd >= 0 && fd < 65536 ? tracked[fd] : 0; }
static ssize_t at_place(int fd, const void *bytes, size_t n, off_t at) {
  if (!is(fd)) return syscall(SYS_pwrite64, fd, bytes, n, at);
  pthread_mutex_lock(&lock);
  ssize_t done = syscall(SYS_pwrite64, fd, bytes, n, at);
  if (done > 0) note('W', is(fd), at, bytes, done);
  pthread_mutex_unlock(&lock);
  return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return at_place(fd, bytes, n, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) { return at_place(fd, bytes, n, at); }
ssize_t write(int fd, const void *bytes, size_t n) {
  if (fd == 1) { pthread_mutex_lock(&lock); note('A', 0, 0, bytes, n); pthread_mutex_unlock(&lock); return n; }
  return syscall(SYS_write, fd, bytes, n);
}
static int sync_of(long call, int fd) {
  if (!is(fd)) return lies ? 0 : syscall(call, fd);
  if (lies) return 0;
  pthread_mutex_lock(&lock); note('S', is(fd), 0, 0, 0); pthread_mutex_unlock(&lock);
  int failed = syscall(call, fd);
  if (!failed) { pthread_mutex_lock(&lock); note('s', is(fd), 0, 0, 0); pthread_mutex_unlock(&lock); }
  return failed;
}
int fsync(int fd) { return sync_of(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_of(SYS_fdatasync, fd); }
static int cut(int fd, off_t length) {
  pthread_mutex_lock(&lock);
  int failed = syscall(SYS_ftruncate, fd, length);
  if (!failed && is(fd)) note('T', is(fd), length, 0, 0);
  pthread_mutex_unlock(&lock);
  return failed;
}
int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off_t length) { return cut(fd, length); }
`;

interface Noted {
  /** W written, T truncated, S sync begun, s sync done, A said. */
  readonly kind: string;
  readonly file: number;
  /** Where it was written, or the new length. */
  readonly at: number;
  readonly bytes: Buffer;
}

const FILES = ["", "handover.db", "handover.db-wal", "mark"];

export class CrashStates {
  readonly #noted: Noted[] = [];
  readonly #firstStored: number;

  constructor(logFile: string) {
    const log = readFileSync(logFile);
    for (let at = 0; at + HEADER_BYTES <= log.length; ) {
      const length = log.readUInt32LE(at + 10);
      const bytes = log.subarray(at + HEADER_BYTES, at + HEADER_BYTES + length);
      this.#noted.push({ kind: String.fromCharCode(log[at] ?? 0), file: log[at + 1] ?? 0, at: Number(log.readBigInt64LE(at + 2)), bytes });
      at += HEADER_BYTES + length;
    }
    this.#firstStored = this.#noted.findIndex(({ kind, bytes }) => kind === "A" && bytes.toString().startsWith("stored "));
    if (this.#firstStored < 0) throw new Error("The process had not stored anything when it was ended.");
  }

  /** How many writes, syncs and truncations there are, and so how many moments for a power cut. */
  get size(): number {
    return this.#noted.length - this.#firstStored;
  }

  get syncs(): number {
    return this.#noted.filter(({ kind }) => kind === "s").length;
  }

  /** Makes, in `dir`, a disk as a power cut at some moment could have left it. @returns what the process had said by then */
  make(dir: string, random: () => number): Said {
    const end = this.#firstStored + 1 + Math.floor(random() * (this.size - 1));
    const begun = FILES.map(() => -1);
    const synced = FILES.map(() => -1);
    const lines: string[] = [];
    for (const [place, { kind, file, bytes }] of this.#noted.slice(0, end).entries()) {
      if (kind === "S") begun[file] = place;
      else if (kind === "s") synced[file] = begun[file] ?? -1;
      else if (kind === "A") lines.push(...bytes.toString().trimEnd().split("\n"));
    }
    // How much of what was not synced had reached the disk: hardly anything, about half, nearly all.
    const luck = [0.05, 0.5, 0.95][Math.floor(random() * 3)] ?? 0.5;
    const disks = FILES.map((_name, file) => new Disk(this.#longest(file)));
    for (const [place, { kind, file, at, bytes }] of this.#noted.slice(0, end).entries()) {
      const isSafe = place < (synced[file] ?? -1);
      if (kind === "T" && (isSafe || random() < luck)) disks[file]?.cut(at);
      else if (kind === "W") {
        if (isSafe) disks[file]?.put(at, bytes);
        else if (random() < luck) {
          const isTorn = random() < 0.3;
          for (let from = 0; from < bytes.length; from += SECTOR) {
            if (!isTorn || random() < 0.5) disks[file]?.put(at + from, bytes.subarray(from, from + SECTOR));
          }
        }
      }
    }
    mkdirSync(dir, { recursive: true });
    for (const [file, name] of FILES.entries()) if (file > 0) writeFileSync(join(dir, name), disks[file]?.content ?? "");
    return readSaid(lines);
  }

  #longest(file: number): number {
    return this.#noted.reduce((longest, noted) => (noted.file === file ? Math.max(longest, noted.at + noted.bytes.length) : longest), 0);
  }
}

/** A file's content while it is put together. */
class Disk {
  readonly #bytes: Buffer;
  #length = 0;

  constructor(longest: number) {
    this.#bytes = Buffer.alloc(longest);
  }

  get content(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  put(at: number, bytes: Buffer): void {
    bytes.copy(this.#bytes, at);
    this.#length = Math.max(this.#length, at + bytes.length);
  }

  cut(length: number): void {
    if (length < this.#length) this.#bytes.fill(0, length, this.#length);
    this.#length = length;
  }
}
