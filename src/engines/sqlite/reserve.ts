import { closeSync, existsSync, fsyncSync, openSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { syncFolder } from "./folder.ts";

const RETRY_MS = 1_000;

/**
 * A file that takes up room on the disk, so that there is some when the disk is full: it is given up then, and acknowledgements, evictions
 * and sweeps, which make room in the end, can still be written. New mail is refused until it could be made again.
 */
export class Reserve {
  readonly #dir: string;
  readonly #file: string;
  /** How much room it keeps. */
  readonly bytes: number;
  #isThere = false;
  #triedMs = Number.NEGATIVE_INFINITY;

  constructor(dir: string, bytes: number) {
    this.#dir = dir;
    this.#file = reserveFile(dir);
    this.bytes = bytes;
  }

  get isThere(): boolean {
    return this.#isThere;
  }

  /** Whether the room is kept; makes it again if it can, trying at most once a second. */
  restore(): boolean {
    if (this.#isThere) return true;
    const nowMs = performance.now();
    if (nowMs - this.#triedMs < RETRY_MS) return false;
    this.#triedMs = nowMs;
    try {
      if (statSync(this.#file, { throwIfNoEntry: false })?.size !== this.bytes) this.#write();
      this.#isThere = true;
    } catch {
      this.release();
    }
    return this.#isThere;
  }

  /** Gives the room up. */
  release(): void {
    this.#isThere = false;
    this.#triedMs = performance.now();
    try {
      rmSync(this.#file, { force: true });
    } catch {
      // Without the room, what needs it is refused as well: the store says so itself.
    }
  }

  #write(): void {
    const fd = openSync(this.#file, "w", 0o600);
    try {
      // Not zeros, and not a hole: a file system that compresses would keep no room for either.
      const block = crypto.getRandomValues(new Uint8Array(65_536));
      for (let at = 0; at < this.bytes; ) at += writeSync(fd, block, 0, Math.min(block.length, this.bytes - at));
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    syncFolder(this.#dir);
  }
}

function reserveFile(dir: string): string {
  return join(dir, "reserve");
}

/** Gives up the room that is kept for a store which nobody has open. @returns whether there was any */
export function giveUpReserve(dir: string): boolean {
  if (!existsSync(reserveFile(dir))) return false;
  rmSync(reserveFile(dir));
  return true;
}
