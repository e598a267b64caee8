/**
 * Reads SQLite's pages and records without SQLite, which stops at the first one that is damaged.
 * @see https://sqlite.org/fileformat2.html
 * @module
 */
import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";
import { type Frame, Log } from "./log.ts";
import { databaseFile, MIGRATIONS } from "./schema.ts";

/** The page size of all our stores; so the head of a damaged file need not be believed. */
const PAGE_BYTES = 4_096;
/** The page behind this byte is never used: it is what locks are made of. */
const LOCK_PAGE = 0x40000000 / PAGE_BYTES + 1;
const [INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE] = [2, 5, 10, 13] as const;
/** Kinds of pages in the pointer map: a root, and a page with a parent. */
const [MAP_ROOT, MAP_CHILD] = [1, 5] as const;

export type Value = null | number | string | Buffer;
/** A row of a table, or an entry of an index: columns in the order of the file, and the rowid where there is one. */
export interface Row {
  readonly values: readonly Value[];
  readonly rowid: number | undefined;
}

/** A page as it was last committed, as far as it can be read. */
interface Version {
  readonly bytes: Buffer;
  /** From a frame of the log that is not in order: what it says counts only where rows have checksums. */
  readonly isDoubtful: boolean;
}

/** The pages of a store that may be damaged: its file, overlaid with its log. */
export class Pages {
  readonly #file: number | undefined;
  readonly #fileSize: number;
  readonly #logged = new Map<number, Buffer>();
  readonly #doubtful = new Map<number, Buffer>();
  readonly count: number;

  /** @param takesTail  whether commits are known to be missing: then the end of the log counts, though its commit cannot be read */
  constructor(dir: string, takesTail: boolean) {
    const file = databaseFile(dir);
    // Without the file, there is what the log has.
    this.#file = existsSync(file) ? openSync(file, "r") : undefined;
    this.#fileSize = this.#file === undefined ? 0 : fstatSync(this.#file).size;
    if (existsSync(`${file}-wal`)) this.#readLog(`${file}-wal`, takesTail);
    let count = Math.ceil(this.#fileSize / PAGE_BYTES);
    for (const pages of [this.#logged, this.#doubtful]) for (const page of pages.keys()) count = Math.max(count, page);
    this.count = count;
  }

  #readLog(file: string, takesTail: boolean): void {
    const log = new Log(file, { guessHead: true });
    let pending: Pick<Frame, "page" | "isWhole" | "bytes">[] = [];
    const take = () => {
      for (const { page, isWhole, bytes } of pending) {
        if (isWhole) {
          this.#logged.set(page, bytes);
          this.#doubtful.delete(page);
        } else this.#doubtful.set(page, bytes);
      }
      pending = [];
    };
    try {
      if (log.pageSize !== PAGE_BYTES) return;
      const most = Math.ceil(this.#fileSize / PAGE_BYTES) + log.length;
      for (const { page, isWhole, bytes, pages } of log.frames()) {
        // A number that cannot be is a damaged one.
        if (page <= most) pending.push({ page, isWhole, bytes: Buffer.from(bytes) });
        if (pages > 0 && isWhole) take();
      }
      if (takesTail) take();
    } finally {
      log.close();
    }
  }

  /** What can be read of a page: one version, or, when the newest is doubtful, that one behind the last sound one. */
  versions(page: number): Version[] {
    const found: Version[] = [];
    const sound = this.read(page);
    if (sound) found.push({ bytes: sound, isDoubtful: false });
    const doubtful = this.#doubtful.get(page);
    if (doubtful) found.push({ bytes: doubtful, isDoubtful: true });
    return found;
  }

  read(page: number): Buffer | undefined {
    const logged = this.#logged.get(page);
    if (logged) return logged;
    if (this.#file === undefined || page < 1 || page * PAGE_BYTES > this.#fileSize) return undefined;
    const bytes = Buffer.alloc(PAGE_BYTES);
    return readSync(this.#file, bytes, 0, PAGE_BYTES, (page - 1) * PAGE_BYTES) === PAGE_BYTES ? bytes : undefined;
  }

  /** The version of the schema, as the file's head says it; undefined when that cannot be. */
  get version(): number | undefined {
    const version = this.read(1)?.readUInt32BE(60) ?? 0;
    return version > 0 && version <= MIGRATIONS.length ? version : undefined;
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
  }

  /**
   * Which tree each page belongs to. What an inner page and the pointer map say alike comes first; then what only one of the two says, since
   * the other may be what is damaged. Pages that were given back belong to none: what lies there is over.
   */
  trees(roots: readonly number[]): Map<number, number> {
    const treeOf = new Map<number, number>();
    const visit = (first: number, root: number, isSure: boolean) => {
      const waiting = [first];
      for (let page = waiting.pop(); page !== undefined; page = waiting.pop()) {
        if (page < 1 || page > this.count || (treeOf.has(page) && page !== first)) continue;
        treeOf.set(page, root);
        for (const child of this.#children(page)) if (!isSure || this.#parentOf(child) === page) waiting.push(child);
      }
    };
    for (const root of roots) visit(root, root, true);
    for (const [page, root] of [...treeOf]) visit(page, root, false);
    for (let page = 2; page <= this.count; page += 1) {
      const root = treeOf.has(page) ? undefined : this.#rootByMap(page, treeOf);
      if (root !== undefined) visit(page, root, false);
    }
    return treeOf;
  }

  #children(page: number): number[] {
    return this.versions(page).flatMap(({ bytes }) => childrenOf(page, bytes));
  }

  /** What the pointer map says: the page above, 0 for a root, undefined for a page of no tree, or where the map cannot be read. */
  #parentOf(page: number): number | undefined {
    const map = mapOf(page);
    const entry = 5 * (page - map - 1);
    const bytes = entry < 0 || entry + 5 > PAGE_BYTES ? undefined : this.read(map);
    if (bytes?.[entry] === MAP_ROOT) return 0;
    return bytes?.[entry] === MAP_CHILD ? bytes.readUInt32BE(entry + 1) : undefined;
  }

  #rootByMap(page: number, treeOf: ReadonlyMap<number, number>): number | undefined {
    let at = page;
    // No tree is deeper than this.
    for (let depth = 0; depth < 20; depth += 1) {
      const known = treeOf.get(at);
      if (known !== undefined) return known;
      const parent = this.#parentOf(at);
      if (parent === undefined) return undefined;
      if (parent === 0) return at;
      at = parent;
    }
    return undefined;
  }

  /** All rows on a page that can be read. `onUnreadable` is told of the others. */
  *rows(page: number, onUnreadable: () => void): Generator<Row & { readonly isDoubtful: boolean }> {
    for (const { bytes, isDoubtful } of this.versions(page)) {
      const cells = cellsOf(page, bytes);
      if (!cells) {
        onUnreadable();
        continue;
      }
      const kind = kindOf(page, bytes);
      for (const cell of cells) {
        if (kind === INTERIOR_TABLE) continue;
        const row = attempt(() => this.#row(bytes, kind, cell));
        if (row) yield { ...row, isDoubtful };
        else onUnreadable();
      }
    }
  }

  #row(bytes: Buffer, kind: number, cell: number): Row {
    let at = kind === INTERIOR_INDEX ? cell + 4 : cell;
    const [length, afterLength] = varint(bytes, at);
    at = afterLength;
    let rowid: number | undefined;
    if (kind === LEAF_TABLE) [rowid, at] = varint(bytes, at);
    return { values: valuesOf(this.#payload(bytes, at, length, kind === LEAF_TABLE)), rowid };
  }

  /** What a cell holds, with what is on overflow pages. @throws Error when it cannot be all of it */
  #payload(bytes: Buffer, at: number, length: number, isTable: boolean): Buffer {
    const most = isTable ? PAGE_BYTES - 35 : Math.floor(((PAGE_BYTES - 12) * 64) / 255) - 23;
    const least = Math.floor(((PAGE_BYTES - 12) * 32) / 255) - 23;
    const cut = least + ((length - least) % (PAGE_BYTES - 4));
    const local = length <= most ? length : cut <= most ? cut : least;
    if (at + local > PAGE_BYTES) throw new Error("The cell ends outside of its page.");
    const parts = [bytes.subarray(at, at + local)];
    let next = length > local ? bytes.readUInt32BE(at + local) : 0;
    for (let rest = length - local; rest > 0; rest -= PAGE_BYTES - 4) {
      const page = this.read(next);
      if (!page) throw new Error("An overflow page is not there.");
      parts.push(page.subarray(4, 4 + Math.min(rest, PAGE_BYTES - 4)));
      next = page.readUInt32BE(0);
    }
    return Buffer.concat(parts);
  }
}

/** The page of the pointer map that has the entry of a page. */
function mapOf(page: number): number {
  const each = Math.floor(PAGE_BYTES / 5) + 1;
  const map = Math.floor((page - 2) / each) * each + 2;
  return map === LOCK_PAGE ? map + 1 : map;
}

function kindOf(page: number, bytes: Buffer): number {
  return bytes[page === 1 ? 100 : 0] ?? 0;
}

/** Where the cells of a page begin; undefined for one that is no page of a tree. */
function cellsOf(page: number, bytes: Buffer): number[] | undefined {
  const head = page === 1 ? 100 : 0;
  const kind = kindOf(page, bytes);
  const isInterior = kind === INTERIOR_INDEX || kind === INTERIOR_TABLE;
  if (!isInterior && kind !== LEAF_INDEX && kind !== LEAF_TABLE) return undefined;
  const count = bytes.readUInt16BE(head + 3);
  const first = head + (isInterior ? 12 : 8);
  if (first + 2 * count > PAGE_BYTES) return undefined;
  return Array.from({ length: count }, (_none, n) => bytes.readUInt16BE(first + 2 * n));
}

function childrenOf(page: number, bytes: Buffer): number[] {
  const kind = kindOf(page, bytes);
  if (kind !== INTERIOR_INDEX && kind !== INTERIOR_TABLE) return [];
  const cells = cellsOf(page, bytes) ?? [];
  const last = bytes.readUInt32BE((page === 1 ? 100 : 0) + 8);
  return [...cells.filter((cell) => cell + 4 <= PAGE_BYTES).map((cell) => bytes.readUInt32BE(cell)), last];
}

/** @returns the number, and where it ends */
function varint(bytes: Buffer, at: number): [number, number] {
  let value = 0n;
  for (let n = 0; n < 9; n += 1) {
    const byte = bytes[at + n];
    if (byte === undefined) throw new Error("A number ends outside of its page.");
    if (n === 8) return [Number(BigInt.asIntN(64, (value << 8n) | BigInt(byte))), at + 9];
    value = (value << 7n) | BigInt(byte & 0x7f);
    if (byte < 0x80) return [Number(value), at + n + 1];
  }
  throw new Error("unreachable");
}

/** The columns of a record. @throws Error when it is not one */
function valuesOf(record: Buffer): Value[] {
  const [headLength, afterLength] = varint(record, 0);
  if (headLength > record.length) throw new Error("The record's head is longer than the record.");
  const values: Value[] = [];
  let body = headLength;
  for (let at = afterLength; at < headLength; ) {
    const [type, next] = varint(record, at);
    at = next;
    const length = type >= 12 ? Math.floor((type - 12) / 2) : (LENGTHS[type] ?? 0);
    if (type < 0 || body + length > record.length) throw new Error("A column ends outside of its record.");
    values.push(columnOf(record.subarray(body, body + length), type));
    body += length;
  }
  return values;
}

const LENGTHS = [0, 1, 2, 3, 4, 6, 8, 8, 0, 0];

function columnOf(bytes: Buffer, type: number): Value {
  if (type === 0) return null;
  if (type <= 5) return bytes.readIntBE(0, bytes.length);
  if (type === 6) return Number(bytes.readBigInt64BE());
  if (type === 7) return bytes.readDoubleBE();
  if (type === 8 || type === 9) return type - 8;
  if (type < 12) throw new Error("There is no such type of column.");
  return type % 2 === 1 ? bytes.toString() : bytes;
}

function attempt<T>(what: () => T): T | undefined {
  try {
    return what();
  } catch {
    return undefined;
  }
}
