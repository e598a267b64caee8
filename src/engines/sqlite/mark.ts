/**
 * How many commits the store has made, noted outside of it: in `mark`, beside the database. What is noted was durable in the log before it was
 * noted, so a store with fewer commits than its mark has lost some: its log was damaged, cut short or removed, or the file is an old copy.
 * The note itself is not synced. A power cut may leave an older one, which says less but nothing wrong.
 * @module
 */
import { closeSync, constants, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";

export interface Noted {
  /** Commits of another store say nothing about this one. */
  readonly epoch: string;
  readonly commits: number;
}

export function markFile(dir: string): string {
  return join(dir, "mark");
}

/** Reads the mark of a data folder; undefined when there is none that can be trusted. */
export function readMark(dir: string): Noted | undefined {
  try {
    const [epoch = "", commits = "", checksum = ""] = readFileSync(markFile(dir), "utf8").trim().split(/ +/);
    const noted = { epoch, commits: Number(commits) };
    return checksum === checksumOf(noted) && Number.isSafeInteger(noted.commits) ? noted : undefined;
  } catch {
    return undefined;
  }
}

/** Keeps the mark of an open store. */
export class Mark {
  readonly #epoch: string;
  #fd: number | undefined;

  /** @param dir  the data folder; where the mark cannot be kept, the store works without it */
  constructor(dir: string, noted: Noted) {
    this.#epoch = noted.epoch;
    try {
      // Not emptied first: an older note says more than none.
      this.#fd = openSync(markFile(dir), constants.O_RDWR | constants.O_CREAT, 0o600);
    } catch {
      this.#fd = undefined;
    }
    this.note(noted.commits);
  }

  /** To be called after a commit, before it is answered. */
  note(commits: number): void {
    if (this.#fd === undefined) return;
    try {
      // Of one length, within one sector: it is replaced as a whole.
      const noted = { epoch: this.#epoch, commits };
      writeSync(this.#fd, `${noted.epoch} ${String(commits).padStart(16)} ${checksumOf(noted)}\n`, 0);
    } catch {
      // A full disk, at most. The older note stays, or none.
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

function checksumOf({ epoch, commits }: Noted): string {
  return crc32(`${epoch} ${commits}`).toString(16).padStart(8, "0");
}
