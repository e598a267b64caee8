/**
 * Reads SQLite's write-ahead log as SQLite does, and further: SQLite ends silently at the first frame that is not in order, which is right for
 * the torn end that a power cut leaves, and wrong for a damaged frame with durable commits behind it.
 * @see https://sqlite.org/fileformat2.html#the_write_ahead_log for the format and its checksum
 * @module
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

const HEAD_BYTES = 32;
const FRAME_HEAD_BYTES = 24;
const MAGIC = 0x377f0682;
/** Frames that are read at a time. */
const BLOCK = 256;

export interface Frame {
  /** Its place in the log, from 1. */
  readonly place: number;
  /** Number of the page of which it is a version. */
  readonly page: number;
  /** For the last frame of a commit, how many pages the file has then; else 0. */
  readonly pages: number;
  /** Whether all frames up to this one are in order: SQLite would use it, once its commit is there. */
  readonly isChained: boolean;
  /** Whether it is in order by itself, whatever the frames before it are. */
  readonly isWhole: boolean;
  /** The page; valid until the next frame is asked for. */
  readonly bytes: Buffer;
}

/** A log, or why it cannot be read as one: what is behind its head cannot be trusted. */
export class Log {
  readonly #fd: number;
  readonly #frames: number;
  readonly #head: Buffer;
  readonly pageSize: number;
  readonly isHeadDamaged: boolean;
  readonly #isBigEndian: boolean;

  /**
   * @param file       which must exist
   * @param guessHead  when the head is damaged, take from the first two frames what it should say
   */
  constructor(file: string, { guessHead = false, pageSize = 4_096 } = {}) {
    this.#fd = openSync(file, "r");
    const { size } = fstatSync(this.#fd);
    this.#head = Buffer.alloc(HEAD_BYTES);
    const length = readSync(this.#fd, this.#head, 0, HEAD_BYTES, 0);
    const magic = this.#head.readUInt32BE(0);
    this.#isBigEndian = (magic & 1) === 1;
    const [one, two] = this.#sum(this.#head.subarray(0, 24), 0, 0);
    const isSound = (magic & ~1) === MAGIC && one === this.#head.readUInt32BE(24) && two === this.#head.readUInt32BE(28);
    this.isHeadDamaged = length === HEAD_BYTES && size > HEAD_BYTES && !isSound;
    this.pageSize = isSound ? this.#head.readUInt32BE(8) : pageSize;
    this.#frames = isSound || guessHead ? Math.max(0, Math.floor((size - HEAD_BYTES) / (FRAME_HEAD_BYTES + this.pageSize))) : 0;
    if (isSound || this.#frames < 2) return;
    // Our own machine's order of bytes; and the run that both frames say they are of.
    this.#isBigEndian = false;
    const salts = Buffer.alloc(16);
    readSync(this.#fd, salts, 0, 8, HEAD_BYTES + 8);
    readSync(this.#fd, salts, 8, 8, HEAD_BYTES + FRAME_HEAD_BYTES + this.pageSize + 8);
    if (salts.compare(salts, 8, 16, 0, 8) === 0) salts.copy(this.#head, 16, 0, 8);
  }

  /** How many frames there are, those of an earlier run included. */
  get length(): number {
    return this.#frames;
  }

  /** All frames of this log's run, in order; those of an earlier run, which were not yet overwritten, are left out. */
  *frames(): Generator<Frame> {
    const length = FRAME_HEAD_BYTES + this.pageSize;
    const block = Buffer.allocUnsafeSlow(BLOCK * length);
    let isChained = true;
    // The checksum goes on from frame to frame; of one that is damaged, the next goes on from what is written there.
    let [one, two] = [this.#head.readUInt32BE(24), this.#head.readUInt32BE(28)];
    for (let place = 0; place < this.#frames; place += 1) {
      const at = (place % BLOCK) * length;
      if (at === 0) readSync(this.#fd, block, 0, Math.min(BLOCK, this.#frames - place) * length, HEAD_BYTES + place * length);
      const frame = block.subarray(at, at + length);
      const isOfThisRun = frame.compare(this.#head, 16, 24, 8, 16) === 0;
      const [first, second] = this.#sum(frame.subarray(FRAME_HEAD_BYTES), ...this.#sum(frame.subarray(0, 8), one, two));
      [one, two] = [frame.readUInt32BE(16), frame.readUInt32BE(20)];
      const isWhole = isOfThisRun && one === first && two === second;
      isChained &&= isWhole;
      if (isOfThisRun)
        yield {
          place: place + 1,
          page: frame.readUInt32BE(0),
          pages: frame.readUInt32BE(4),
          isChained,
          isWhole,
          bytes: frame.subarray(FRAME_HEAD_BYTES),
        };
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #sum(bytes: Buffer, one: number, two: number): [number, number] {
    let [first, second] = [one, two];
    for (let at = 0; at < bytes.length; at += 8) {
      first = (first + (this.#isBigEndian ? bytes.readUInt32BE(at) : bytes.readUInt32LE(at)) + second) >>> 0;
      second = (second + (this.#isBigEndian ? bytes.readUInt32BE(at + 4) : bytes.readUInt32LE(at + 4)) + first) >>> 0;
    }
    return [first, second];
  }
}

/**
 * What is wrong with a log: a frame that is not in order, and behind it, in order, the end of a commit and frames of a later one. Each commit is
 * synced before the next begins, so a power cut can tear the last one only.
 * @returns the words for the operator, or undefined when nothing is
 */
export function damageOfLog(file: string): string | undefined {
  const log = new Log(file);
  try {
    if (log.isHeadDamaged) return "its head";
    let broken: number | undefined;
    let next = 1;
    let hasCommitBehind = false;
    for (const { place, pages, isChained, isWhole } of log.frames()) {
      if (!isChained) broken ??= next;
      next = place + 1;
      if (isChained || !isWhole) continue;
      if (hasCommitBehind) return `frame ${broken}`;
      hasCommitBehind = pages > 0;
    }
    return undefined;
  } finally {
    log.close();
  }
}
