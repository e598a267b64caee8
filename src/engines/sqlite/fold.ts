/**
 * Folds: what is known for 24 hours of mail that was fresh: the idempotency keys, and of what was acknowledged by then the states. A fold is one text
 * with what up to {@link MAX_MAILS} messages leave, and one date, in place of rows and entries of indexes for each. A state is found by the ids between
 * which those of a fold lie; a key by a number made of it, which says in which fold to look. docs/decisions/0002 has the figures.
 *
 * Where messages would lie between those of another fold, since the time of day was set back across a start, their states have rows in `deliveries`,
 * as in a store of version 7. In one of version 6 a fold had the names of its keys only, and each key a row of its own; such folds have no checksums,
 * and go with those rows.
 * @module
 */
import { crc32 } from "node:zlib";
import { KEEP_MS, strokeOf } from "./keep.ts";
import { answerOf, keyRow, nameOfKey } from "./key.ts";
import { RowsInserted } from "./rows.ts";
import type { FreshMail } from "./shelf.ts";
import type { FoldRow, Statements } from "./statement.ts";

/** More would make a repeat, for which its fold is read, and damage to the text, cost more; with fewer the dates cost more. */
const MAX_MAILS = 250;
/**
 * Nor has one messages from times that lie further apart: where the time of day was wrong for a while, all that came later would lie between its first
 * and its last.
 */
const MAX_SPAN_MS = 3_600_000;
/** Folds go until so many lines have, so that others get their turn. */
const STEP_LINES = 1_000;

/**
 * What a message leaves in a fold: source, key if it has one, hash, what its sender was answered: message, when it was accepted, ttl, user; until when
 * its key is known; and when it was acknowledged, where its state is in no row.
 */
export type FoldedMail = readonly [
  source: string,
  key: string | null,
  hash: string,
  message: string,
  accepted_ms: number,
  ttl: number,
  user: string,
  due_ms: number,
  ended_ms?: number,
];
/** One that has a key. */
export type FoldedKey = readonly [source: string, key: string, ...rest: FoldedMail extends readonly [unknown, unknown, ...infer Rest] ? Rest : never];

/** What a key was used for: the hash of its message, the answer to its sender, and until when that is known. */
export interface KnownKey {
  readonly hash: string | null;
  readonly answer: string;
  readonly due_ms: number;
}

type FoldStatements = Pick<
  Statements,
  | "addFold"
  | "foldAround"
  | "lastFold"
  | "addAcked"
  | "addAckedMany"
  | "addKey"
  | "addFoldedKey"
  | "addFoldedKeys"
  | "foldOfKey"
  | "keysOfFold"
  | "dropFoldedKey"
  | "dropFoldedKeyOf"
  | "dropFoldedRow"
  | "dropFolded"
  | "dueFolds"
  | "fold"
  | "moveFold"
  | "dropFold"
>;

export class FoldBook {
  readonly #run: FoldStatements;

  constructor(run: FoldStatements) {
    this.#run = run;
  }

  /**
   * Keeps what fresh mail leaves that was acknowledged or has a key.
   * @param userOf  whose a mailbox is
   * @returns when the first of it goes, ms since the Unix epoch; infinite where there is none
   */
  add(mails: readonly FreshMail[], userOf: (mailbox: number) => string): number {
    // In the order of their rows, so that those that go together lie together.
    const sorted = [...mails].sort((one, other) => (one.message < other.message ? -1 : 1));
    let firstMs = Number.POSITIVE_INFINITY;
    for (let at = 0; at < sorted.length; ) {
      const mails = sorted.slice(at, at + MAX_MAILS);
      const gap = mails.findIndex(({ accepted_ms }) => Math.abs(accepted_ms - (mails[0]?.accepted_ms ?? 0)) > MAX_SPAN_MS);
      if (gap > 0) mails.length = gap;
      firstMs = Math.min(firstMs, this.#addOne(mails, userOf));
      at += mails.length;
    }
    return firstMs;
  }

  #addOne(mails: readonly FreshMail[], userOf: (mailbox: number) => string): number {
    const acked = mails.filter(({ ended_ms }) => ended_ms !== null);
    const [first = "", last = ""] = [acked[0]?.message, acked.at(-1)?.message];
    const around = this.#run.foldAround.get(last);
    const isApart = !around || around.last < first;
    let dueMs = 0;
    const folded: FoldedMail[] = [];
    for (const { source, key, hash, message, accepted_ms, ttl, mailbox, key_due_ms, ended_ms } of mails) {
      const keyDueMs = key === null ? (ended_ms ?? 0) : key_due_ms;
      dueMs = Math.max(dueMs, ended_ms === null ? 0 : ended_ms + KEEP_MS, keyDueMs);
      if (isApart && ended_ms !== null) folded.push([source, key, hash ?? "", message, accepted_ms, ttl, userOf(mailbox), keyDueMs, ended_ms]);
      else if (key !== null) folded.push([source, key, hash ?? "", message, accepted_ms, ttl, userOf(mailbox), keyDueMs]);
    }
    dueMs = strokeOf(dueMs);
    const keys = folded.filter(isKey);
    // Sorted, they are put into their tree, and taken out of it, from one end to the other.
    const numbers = Float64Array.from(keys, numberOfKey).sort();
    const text = writeMails(folded, dueMs);
    const bytes = Buffer.from(numbers.buffer);
    const checksums = [crc32(text), checksumOfNumbers(dueMs, bytes)] as const;
    const row = [dueMs, first, last, text, checksums[0], bytes, checksums[1], isApart && acked.length > 0 ? acked.length : null] as const;
    const n = Number(this.#run.addFold.run(...row).lastInsertRowid);
    if (!isApart) this.#addStates(n, acked);
    this.#addNumbers(n, numbers, keys);
    return dueMs;
  }

  #addStates(n: number, mails: readonly FreshMail[]): void {
    const acked = new RowsInserted(this.#run.addAcked, this.#run.addAckedMany);
    for (const { message, mailbox, seq, source, bytes, expires_ms, ended_ms } of mails)
      acked.add([message, mailbox, seq, source, bytes, expires_ms, ended_ms, n]);
    acked.end();
  }

  /** Rows by which the keys of a fold are found. Where a number is another key's already, which is next to never, the later key has a row of its own. */
  #addNumbers(n: number, numbers: Float64Array, keys: readonly FoldedKey[]): void {
    const rows = new RowsInserted(this.#run.addFoldedKey, this.#run.addFoldedKeys);
    for (const number of numbers) rows.add([number, n]);
    if (rows.end() === keys.length) return;
    const taken = new Set<number>();
    for (const key of keys) {
      const number = numberOfKey(key);
      if (!taken.has(number) && this.#run.foldOfKey.get(number)?.fold === n) taken.add(number);
      else this.#run.addKey.run(...rowOf(key), null);
    }
  }

  /** What a fold knows of a key; `damaged` where it is no longer what was written; undefined where no fold has it. */
  find(source: string, key: string, keyName: string): KnownKey | "damaged" | undefined {
    const number = numberOf(keyName);
    const n = this.#run.foldOfKey.get(number)?.fold;
    if (n === undefined) return undefined;
    const fold = this.#run.keysOfFold.get(n);
    if (!fold || crc32(fold.keys) !== fold.keys_checksum) return "damaged";
    const mail = lineOf(fold.keys, JSON.stringify([source, key]).slice(0, -1), (each) => each[0] === source && each[1] === key);
    // The number is another key's, then.
    if (!mail) return mailsOf(fold)?.some((each) => isKey(each) && numberOfKey(each) === number) ? undefined : "damaged";
    const [, , hash, message, accepted_ms, ttl, user, due_ms] = mail;
    return { hash, answer: answerOf({ message, accepted_ms, ttl }, user), due_ms };
  }

  /**
   * What a fold has of a message whose state is in no row.
   * @returns the number of the fold where that is damaged; undefined where none has it
   */
  ofMessage(message: string): FoldedMail | number | undefined {
    const around = this.#run.foldAround.get(message);
    if (!around || around.last < message) return undefined;
    const fold = this.#run.keysOfFold.get(around.n);
    if (!fold || crc32(fold.keys) !== fold.keys_checksum) return around.n;
    return lineOf(fold.keys, JSON.stringify(message), (each) => each[3] === message && each[8] !== undefined);
  }

  /** The highest id of a message whose state is in a fold. */
  get lastMessage(): string {
    return this.#run.lastFold.get()?.last ?? "";
  }

  /** A key that is found no more. */
  forget(keyName: string): void {
    this.#run.dropFoldedKey.run(numberOf(keyName));
  }

  /**
   * Lets go of the first folds whose date has come, and of all that goes with them. What of it has a date to come, since the fold's own is damaged, stays.
   * @returns whether there were any
   */
  dropDue(nowMs: number): boolean {
    const due = this.#run.dueFolds.all(nowMs);
    let lines = 0;
    for (const { n, size } of due) {
      if (lines > 0 && lines + size > STEP_LINES) break;
      lines += Math.max(1, size);
      const fold = this.#run.fold.get(n);
      if (!fold) continue;
      const { first, last } = fold;
      if (fold.mails === null) this.#run.dropFolded.run(first, last, n, nowMs - KEEP_MS);
      const latestMs = fold.keys_checksum === null ? this.#dropRows(fold, nowMs) : this.#dropNumbers(fold, nowMs);
      // What it says goes with it: not before the last of it.
      if (latestMs > nowMs) this.#run.moveFold.run(strokeOf(latestMs), n);
      else this.#run.dropFold.run(n);
    }
    return due.length > 0;
  }

  /** @returns the last date of what the fold says, ms since the Unix epoch; 0 where nothing says it */
  #dropNumbers(fold: FoldRow, nowMs: number): number {
    const numbers = numbersOf(fold);
    // Its own date or its numbers are not what was written: the text says both, too.
    const mails = numbers ? [] : (mailsOf(fold) ?? []);
    const latestMs = mails.reduce(
      (latest, [, , , , , , , keyDueMs, endedMs]) => Math.max(latest, keyDueMs, endedMs === undefined ? 0 : endedMs + KEEP_MS),
      0,
    );
    if (latestMs > nowMs) return latestMs;
    for (const number of numbers ?? mails.filter(isKey).map(numberOfKey)) this.#run.dropFoldedKeyOf.run(number, fold.n);
    return latestMs;
  }

  /** Of a fold of version 6: keys with a date to come stay, without it. */
  #dropRows({ n, keys }: FoldRow, nowMs: number): number {
    for (const [source, key] of namesOf(keys)) this.#run.dropFoldedRow.run(source, key, n, nowMs);
    return 0;
  }
}

/**
 * The text of a fold: a JSON array with a line for each message, so that one is found without reading all. Its first element is a date, from which those
 * of the messages are counted: small numbers are written in half the time.
 */
function writeMails(mails: readonly FoldedMail[], baseMs: number): string {
  let text = `[${baseMs}`;
  for (const mail of mails) text += `,\n${JSON.stringify(shifted(mail, -baseMs))}`;
  return `${text}]`;
}

/** The messages of a fold; undefined where they are not what was written. Of version 6: none, of version 7: those with keys. */
export function mailsOf({ keys, keys_checksum }: Pick<FoldRow, "keys" | "keys_checksum">): readonly FoldedMail[] | undefined {
  if (keys_checksum === null) return [];
  if (crc32(keys) !== keys_checksum) return undefined;
  const [first, ...rest] = JSON.parse(keys) as [number | FoldedMail, ...FoldedMail[]] | [];
  if (typeof first !== "number") return first === undefined ? [] : [first, ...rest];
  return rest.map((mail) => shifted(mail, first));
}

/** The first message of a fold's text whose line has a text in it and that is the one. In JSON, what is between quotation marks has no line break. */
function lineOf(keys: string, part: string, isIt: (mail: FoldedMail) => boolean): FoldedMail | undefined {
  const [first = "", ...rest] = keys.slice(1, -1).split(",\n");
  // Of version 7, the first line is a message.
  const [baseMs, lines] = first.startsWith("[") ? [0, [first, ...rest]] : [Number(first), rest];
  for (const line of lines) {
    if (!line.includes(part)) continue;
    const mail = shifted(JSON.parse(line) as FoldedMail, baseMs);
    if (isIt(mail)) return mail;
  }
  return undefined;
}

/** A message with all its dates so much later. */
function shifted(mail: FoldedMail, byMs: number): FoldedMail {
  const [source, key, hash, message, accepted_ms, ttl, user, due_ms, ended_ms] = mail;
  return ended_ms === undefined
    ? [source, key, hash, message, accepted_ms + byMs, ttl, user, due_ms + byMs]
    : [source, key, hash, message, accepted_ms + byMs, ttl, user, due_ms + byMs, ended_ms + byMs];
}

export function isKey(mail: FoldedMail): mail is FoldedKey {
  return mail[1] !== null;
}

/** The row that a key would have of its own: source, key, hash, accepted, due_ms, checksum. */
export function rowOf([source, key, hash, message, accepted_ms, ttl, user, due_ms]: FoldedKey): ReturnType<typeof keyRow> {
  return keyRow(source, key, hash, { message, accepted_ms, ttl }, user, due_ms);
}

/** The numbers of a fold's keys; undefined where they, or its date, are not what was written. */
function numbersOf({ due_ms, numbers, numbers_checksum }: FoldRow): Float64Array | undefined {
  if (numbers === null || numbers.length % 8 !== 0) return undefined;
  // In version 7 the checksum covered the lower 32 bits of the date only.
  const isWhole = checksumOfNumbers(due_ms, numbers) === numbers_checksum || crc32(numbers, due_ms >>> 0) === numbers_checksum;
  return isWhole ? new Float64Array(Uint8Array.from(numbers).buffer) : undefined;
}

function checksumOfNumbers(dueMs: number, numbers: Buffer): number {
  return crc32(numbers, crc32(String(dueMs)));
}

/** The names of keys that a fold of version 6 has; what is not as it was written names none. */
function namesOf(text: string): readonly (readonly [string, string])[] {
  try {
    const names: unknown = JSON.parse(text);
    const isName = (name: unknown): name is [string, string] =>
      Array.isArray(name) && name.every((part) => typeof part === "string") && name.length === 2;
    return Array.isArray(names) ? names.filter(isName) : [];
  } catch {
    return [];
  }
}

/** By which a key is found: {@link numberOf} its name. */
export function numberOfKey([source, key]: FoldedKey): number {
  return numberOf(nameOfKey(source, key));
}

/**
 * A number made of a key's name, of 52 bits. It only has to be another for nearly every name: two with the same one are both found. 26 bits are made
 * of all but the last two characters, 14 are these, and 12 are made of all: so keys that count up lie beside each other in their tree, where they
 * are put and taken out together.
 * @see Fowler, Noll, Vo: FNV-1a, for the first; what is made of all must not follow from it
 */
export function numberOf(keyName: string): number {
  const begin = Math.max(0, keyName.length - 2);
  let ofBegin = 0x811c9dc5;
  let ofAll = 0x2545f491;
  let last = 0;
  for (let at = 0; at < keyName.length; at++) {
    const unit = keyName.charCodeAt(at);
    if (at < begin) ofBegin = Math.imul(ofBegin ^ unit, 0x01000193);
    else last = last * 128 + (unit & 127);
    ofAll = Math.imul(ofAll ^ unit, 0x5bd1e995);
    ofAll ^= ofAll >>> 15;
  }
  return (mixed(ofBegin) >>> 6) * 2 ** 26 + last * 2 ** 12 + (mixed(ofAll) >>> 20);
}

/** Spreads what differs in some bits over all; the factor is one of MurmurHash3's. */
function mixed(hash: number): number {
  return Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
}
