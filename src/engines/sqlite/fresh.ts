/**
 * Fresh mail: what was accepted a moment ago. On the disk it is one row for each commit, which says what came and what of it was acknowledged; in
 * memory it is looked up. Rows and index entries of its own it gets when it has lain for a while. Most mail is acknowledged before that, and costs its
 * part of a fold (fold.ts) instead of some ten changes of trees: docs/decisions/0002.
 *
 * The other tables know nothing of fresh mail, except the head of its mailbox: they fit together without it.
 * @module
 */
import { crc32 } from "node:zlib";
import { writeTime } from "../../time.ts";
import type { AppendItem } from "./call.ts";
import { type CheckedDelivery, checksumOfKey } from "./checksum.ts";
import { Damaged, type Db } from "./schema.ts";
import type { FreshRow, Statements } from "./statement.ts";

/** What lives shorter has rows from the beginning: what is fresh is never swept. */
const MIN_TTL_MS = 60_000;
const MAX_AGE_MS = 30_000;
/** Nor is a long one fresh: it would be written twice. Characters. */
const MAX_LENGTH = 4_096;
/**
 * Fresh mail beyond this gets rows: the oldest, about so much at a time, since who sends meanwhile waits for that. Where commits bring more, as much as
 * one of them: a step that shares no commit with a batch has a sync of its own, and where syncs take long there shall not be several for each commit.
 */
const MAX_MAILS = 16_384;
const MAX_BYTES = 3 * 1_048_576;
const STEP_MAILS = 250;

/** One message for one recipient, in the columns of its future rows. */
export interface FreshMail extends CheckedDelivery {
  readonly seq: number;
  /** Empty once its acknowledgement is committed: then it is in the file only, where nobody will ask for it. */
  text: string;
  readonly event_checksum: number;
  readonly accepted_ms: number;
  readonly ttl: number;
  readonly key: string | null;
  /** Of source and key: {@link nameOfKey}. */
  readonly keyName: string | null;
  readonly hash: string | null;
  readonly key_due_ms: number;
  /** When it was acknowledged; null while it waits. */
  ended_ms: number | null;
  /** The commit that it came with; infinite until then. */
  commit: number;
  /** Whether it has rows now. */
  isMoved: boolean;
}

/** The fresh mail of one mailbox. */
class Shelf {
  /** The highest number of its mail. */
  head = 0;
  /** Mail, the acknowledged included. */
  size = 0;
  /** How much of it waits. */
  count = 0;
  bytes = 0;
  /** Ascending. What waits is among these, from {@link #first} on. */
  #mails: FreshMail[] = [];
  #first = 0;

  add(mail: FreshMail): void {
    this.head = Math.max(this.head, mail.seq);
    this.size += 1;
    if (mail.ended_ms !== null) return;
    if (this.#first > 32 && this.#first * 2 > this.#mails.length) {
      this.#mails = this.#mails.slice(this.#first);
      this.#first = 0;
    }
    this.#mails.push(mail);
    this.count += 1;
    this.bytes += mail.bytes;
  }

  /** Mail that waited, and does so no more. */
  remove(mail: FreshMail): void {
    this.count -= 1;
    this.bytes -= mail.bytes;
    for (let next = this.#mails[this.#first]; next && !isWaiting(next); next = this.#mails[this.#first]) this.#first += 1;
  }

  waitingAt(seq: number): FreshMail | undefined {
    let [low, high] = [this.#first, this.#mails.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#mails[middle]?.seq ?? 0) < seq) low = middle + 1;
      else high = middle;
    }
    const mail = this.#mails[low];
    return mail?.seq === seq && isWaiting(mail) ? mail : undefined;
  }

  *waiting(): Generator<FreshMail> {
    for (let at = this.#first; at < this.#mails.length; at++) {
      const mail = this.#mails[at];
      if (mail && isWaiting(mail)) yield mail;
    }
  }
}

function isWaiting(mail: FreshMail): boolean {
  return mail.ended_ms === null && !mail.isMoved;
}

interface Arrival {
  readonly commit: number;
  /** Between these its ids are. */
  readonly first: string;
  readonly last: string;
  readonly nowMs: number;
  readonly mails: readonly FreshMail[];
  readonly bytes: number;
}

/** Per mail: message, mailbox, seq, source, bytes, event's checksum, accepted_ms, expires_ms, ttl, key, hash, key_due_ms. */
type Tuple = readonly [string, number, number, string, number, number, number, number, number, string | null, string | null, number];

/** What a row says, as JSON. */
interface Header {
  readonly now: number;
  /** Times are counted from `now`, and the checksum is signed: small numbers are written in half the time. */
  readonly mails: readonly Tuple[];
  /** In their place until version 7: with dates. */
  readonly came?: readonly Tuple[];
  /** Pairs: mailbox, seq; acknowledged at `now`. */
  readonly acked: readonly number[];
  /** Pairs: what has rows since this commit. */
  readonly moved: readonly number[];
}

export class FreshBook {
  readonly #run: Pick<Statements, "addFresh" | "dropFresh" | "foldedTo">;
  readonly #shelves = new Map<number, Shelf>();
  readonly #byKey = new Map<string, FreshMail>();
  /** In the order of the commits; what was moved is still in it. */
  #arrivals: Arrival[] = [];
  #came: FreshMail[] = [];
  #acked: FreshMail[] = [];
  #moved: FreshMail[] = [];
  #marks: (readonly [came: number, acked: number, moved: number, dropping: number])[] = [];
  /** Arrivals that this transaction drops. */
  #dropping = 0;
  /** Whether this transaction has written a row. */
  #tells = false;
  /** Of all arrivals, moved mail included: it is in the file until its row goes. */
  #size = 0;
  #bytes = 0;
  /** By id, from when somebody wants to know of ids by the thousand. */
  #byId: Map<string, FreshMail> | undefined;
  /** Mail that has no rows yet, and how much of it waits. */
  #count = 0;
  #waitingCount = 0;
  /** While a copy of the file is made, everything has rows. */
  isPaused = false;

  constructor(run: Statements) {
    this.#run = run;
  }

  /** Mail that has no rows yet, for the totals. */
  get totals(): { readonly accepted: number; readonly unsettled: number; readonly acked: number } {
    return { accepted: this.#count, unsettled: this.#waitingCount, acked: this.#count - this.#waitingCount };
  }

  get isEmpty(): boolean {
    return this.#arrivals.length === 0;
  }

  /** The highest id that is here, or the one given. */
  lastMessage(atLeast: string): string {
    let last = atLeast;
    for (const arrival of this.#arrivals) if (arrival.last > last) last = arrival.last;
    return last;
  }

  /** Whether there is so much that the oldest shall get rows, besides what gets them in this transaction. */
  get isFull(): boolean {
    let [size, bytes] = [this.#size, this.#bytes];
    for (let at = 0; at < this.#dropping; at++) {
      size -= this.#arrivals[at]?.mails.length ?? 0;
      bytes -= this.#arrivals[at]?.bytes ?? 0;
    }
    return size > MAX_MAILS || bytes > MAX_BYTES;
  }

  /** When it will have been here longer than it should when something is swept, ms since the Unix epoch: the clock was set, or nobody had time. */
  get oldAtMs(): number | null {
    const oldest = this.#arrivals[this.#dropping];
    return oldest ? oldest.nowMs + MAX_AGE_MS : null;
  }

  /** Whether a message may be fresh: one recipient, without what has to be looked up in other ways than by number, id and key. */
  takes(item: AppendItem): boolean {
    const [, , event, , acceptedAtMs, expiresAtMs, , users, sessions, topic] = item;
    const isPlain = users.length === 1 && sessions === null && topic === null;
    return isPlain && !this.isPaused && expiresAtMs - acceptedAtMs >= MIN_TTL_MS && event.length <= MAX_LENGTH;
  }

  add(mail: FreshMail): void {
    this.#came.push(mail);
    this.#place(mail);
  }

  /** Of a mailbox: its last number here, and how much of it waits here. */
  shelf(mailbox: number): { readonly head: number; readonly count: number; readonly bytes: number } {
    return this.#shelves.get(mailbox) ?? NOTHING;
  }

  waitingAt(mailbox: number, seq: number): FreshMail | undefined {
    return this.#shelves.get(mailbox)?.waitingAt(seq);
  }

  /** What waits in a mailbox, ascending. */
  waiting(mailbox: number): Iterable<FreshMail> {
    return this.#shelves.get(mailbox)?.waiting() ?? [];
  }

  /** Whether there is mail with an id: asked for each message while the time of day lies behind that of ids in the store. */
  has(id: string): boolean {
    if (!this.#byId) {
      this.#byId = new Map();
      for (const mail of this.#present()) this.#byId.set(mail.message, mail);
    }
    return this.#byId.has(id);
  }

  /** The mail with an id: asked for seldom, so that no index is kept for it before {@link has} needs one. */
  find(id: string): FreshMail | undefined {
    if (this.#byId) return this.#byId.get(id);
    const isIt = (mail: FreshMail) => mail.message === id && !mail.isMoved;
    const came = this.#came.find(isIt);
    if (came) return came;
    for (const { first, last, mails } of this.#arrivals) {
      const found = first <= id && id <= last ? mails.find(isIt) : undefined;
      if (found) return found;
    }
    return undefined;
  }

  ofKey(keyName: string): FreshMail | undefined {
    return this.#byKey.get(keyName);
  }

  /** Mail that is acknowledged. */
  ack(mail: FreshMail, nowMs: number): void {
    mail.ended_ms = nowMs;
    this.#acked.push(mail);
    this.#takeDown(mail);
  }

  /** Mail that has rows from now on. */
  leave(mail: FreshMail): void {
    mail.isMoved = true;
    if (mail.ended_ms === null) this.#takeDown(mail);
    this.#moved.push(mail);
    this.#byId?.delete(mail.message);
    this.#count -= 1;
    if (mail.keyName !== null) this.#byKey.delete(mail.keyName);
    const shelf = this.#shelves.get(mail.mailbox);
    if (!shelf) return;
    shelf.size -= 1;
    if (shelf.size === 0) this.#shelves.delete(mail.mailbox);
  }

  /** The oldest mail, to be moved in this transaction: what the rows of those commits say is dropped with it. */
  takeOldest(): readonly FreshMail[] {
    const mails: FreshMail[] = [];
    const step = Math.max(STEP_MAILS, this.#arrivals.at(-1)?.mails.length ?? 0);
    for (;;) {
      // What this transaction has taken before is not taken again.
      const arrival = this.#arrivals[this.#dropping];
      if (!arrival || (mails.length > 0 && mails.length + arrival.mails.length > step)) break;
      this.#dropping += 1;
      for (const mail of arrival.mails) if (!mail.isMoved) mails.push(mail);
    }
    return mails;
  }

  /** All of it, to be moved in this transaction. */
  takeAll(): readonly FreshMail[] {
    this.#dropping = this.#arrivals.length;
    return this.#present();
  }

  /** Writes what this transaction changed. @returns whether it wrote a row, which then counts the commit */
  write(commit: number, nowMs: number): boolean {
    let told = this.#moved;
    const last = this.#dropping > 0 ? this.#arrivals[this.#dropping - 1] : undefined;
    if (last) {
      this.#run.dropFresh.run(last.commit);
      this.#run.foldedTo.run(last.commit);
      // What is moved together with its row needs no word.
      told = told.filter((mail) => mail.commit > last.commit);
    }
    this.#tells = this.#came.length + this.#acked.length + told.length > 0;
    if (!this.#tells) return false;
    const header: Header = {
      now: nowMs,
      mails: this.#came.map((mail) => toTuple(mail, nowMs)),
      acked: this.#acked.flatMap(place),
      moved: told.flatMap(place),
    };
    const text = JSON.stringify(header);
    this.#run.addFresh.run(commit, this.#came.length, crc32(text), text, Buffer.from(this.#came.map((mail) => mail.text).join("")));
    return true;
  }

  committed(commit: number, nowMs: number): void {
    for (const mail of this.#acked) mail.text = "";
    for (const { mails, bytes } of this.#arrivals.splice(0, this.#dropping)) {
      this.#size -= mails.length;
      this.#bytes -= bytes;
    }
    if (this.#tells) {
      let bytes = 0;
      for (const mail of this.#came) {
        mail.commit = commit;
        bytes += mail.bytes;
      }
      this.#arrivals.push({ commit, ...idsOf(this.#came), nowMs, mails: this.#came, bytes });
      this.#size += this.#came.length;
      this.#bytes += bytes;
    }
    this.#begin();
  }

  rolledBack(): void {
    this.#undo(0, 0, 0, 0);
    this.#begin();
  }

  /** With each savepoint. */
  mark(): void {
    this.#marks.push([this.#came.length, this.#acked.length, this.#moved.length, this.#dropping]);
  }

  release(): void {
    this.#marks.pop();
  }

  back(): void {
    const mark = this.#marks.pop();
    if (mark) this.#undo(...mark);
  }

  /**
   * Takes what an open database holds. To be called before anything else.
   * @throws Damaged
   */
  load(db: Db): void {
    const { arrivals, damaged } = readFresh(db);
    if (damaged > 0) throw new Damaged(`${damaged} rows of fresh mail are not what was written`);
    this.#arrivals = arrivals;
    this.#size = arrivals.reduce((sum, { mails }) => sum + mails.length, 0);
    this.#bytes = arrivals.reduce((sum, { bytes }) => sum + bytes, 0);
    this.#placeAll();
  }

  /** All of it that has no rows. */
  #present(): readonly FreshMail[] {
    return [...this.#arrivals, { mails: this.#came }].flatMap(({ mails }) => mails.filter((mail) => !mail.isMoved));
  }

  #begin(): void {
    this.#came = [];
    this.#acked = [];
    this.#moved = [];
    this.#marks = [];
    this.#dropping = 0;
    this.#tells = false;
  }

  #undo(came: number, acked: number, moved: number, dropping: number): void {
    this.#dropping = dropping;
    if (this.#came.length === came && this.#acked.length === acked && this.#moved.length === moved) return;
    this.#came.length = came;
    for (const mail of this.#acked.splice(acked)) mail.ended_ms = null;
    for (const mail of this.#moved.splice(moved)) mail.isMoved = false;
    this.#placeAll();
  }

  #placeAll(): void {
    this.#shelves.clear();
    this.#byId?.clear();
    this.#byKey.clear();
    this.#count = 0;
    this.#waitingCount = 0;
    for (const { mails } of [...this.#arrivals, { mails: this.#came }]) for (const mail of mails) if (!mail.isMoved) this.#place(mail);
  }

  #place(mail: FreshMail): void {
    this.#count += 1;
    this.#byId?.set(mail.message, mail);
    if (mail.keyName !== null) this.#byKey.set(mail.keyName, mail);
    let shelf = this.#shelves.get(mail.mailbox);
    if (!shelf) {
      shelf = new Shelf();
      this.#shelves.set(mail.mailbox, shelf);
    }
    shelf.add(mail);
    if (mail.ended_ms === null) this.#waitingCount += 1;
  }

  #takeDown(mail: FreshMail): void {
    this.#shelves.get(mail.mailbox)?.remove(mail);
    this.#waitingCount -= 1;
  }
}

const NOTHING = { head: 0, count: 0, bytes: 0 } as const;

function toTuple(mail: FreshMail, nowMs: number): Tuple {
  const { message, mailbox, seq, source, bytes, event_checksum, accepted_ms, expires_ms, ttl, key, hash, key_due_ms } = mail;
  const [accepted, expires, keyDue] = [accepted_ms - nowMs, expires_ms - nowMs, key_due_ms - nowMs];
  return [message, mailbox, seq, source, bytes, event_checksum | 0, accepted, expires, ttl, key, hash, keyDue];
}

function place(mail: FreshMail): readonly [number, number] {
  return [mail.mailbox, mail.seq];
}

/** Between which ids mail is. */
function idsOf(mails: readonly FreshMail[]): { readonly first: string; readonly last: string } {
  let [first, last] = [mails[0]?.message ?? "", ""];
  for (const { message } of mails) {
    if (message < first) first = message;
    if (message > last) last = message;
  }
  return { first, last };
}

/** The fresh mail of a database, and how many of its rows are not what was written. */
export function readFresh(db: Db): ReturnType<typeof replayFresh> {
  return replayFresh(db.prepare<[], FreshRow>("SELECT n, mails, checksum, header, events FROM fresh ORDER BY n").all());
}

/** How many rows of fresh mail are not what was written: without reading the mail in them, which is done once, when the store is opened. */
export function countDamagedFresh(db: Db): number {
  const rows = db.prepare<[], Pick<FreshRow, "checksum" | "header">>("SELECT checksum, header FROM fresh").all();
  return rows.filter((row) => !isWhole(row)).length;
}

function isWhole({ checksum, header }: Pick<FreshRow, "checksum" | "header">): boolean {
  return crc32(header) === checksum;
}

/** What rows of fresh mail say together. @param rows  in the order of the commits */
export function replayFresh(rows: readonly FreshRow[]): { arrivals: Arrival[]; damaged: number; lost: number } {
  const arrivals: Arrival[] = [];
  const byPlace = new Map<string, FreshMail>();
  let damaged = 0;
  let lost = 0;
  for (const { n, mails: count, checksum, header, events } of rows) {
    if (!isWhole({ checksum, header })) {
      damaged += 1;
      lost += count;
      continue;
    }
    const { now, mails: tuples, came, acked, moved } = JSON.parse(header) as Header;
    const baseMs = came ? 0 : now;
    let at = 0;
    const mails = (came ?? tuples).map((tuple): FreshMail => {
      const [message, mailbox, seq, source, bytes, checksumAsWritten, accepted, expires, ttl, key, hash, keyDue] = tuple;
      const event_checksum = checksumAsWritten >>> 0;
      const [accepted_ms, expires_ms, key_due_ms] = [baseMs + accepted, baseMs + expires, baseMs + keyDue];
      // A text that is not what was written is found when it is read, as that of a row.
      const text = events.toString("utf8", at, at + bytes);
      at += bytes;
      const keyName = key === null ? null : nameOfKey(source, key);
      const ofMessage = { message, source, text, event_checksum, bytes, accepted_ms, expires_ms, ttl, key, keyName, hash, key_due_ms };
      return { ...ofMessage, mailbox, seq, event: null, session: null, topic: null, attempts: 1, ended_ms: null, commit: n, isMoved: false };
    });
    for (const mail of mails) byPlace.set(`${mail.mailbox} ${mail.seq}`, mail);
    const each = (pairs: readonly number[], change: (mail: FreshMail) => void) => {
      for (let pair = 0; pair < pairs.length; pair += 2) {
        const mail = byPlace.get(`${pairs[pair]} ${pairs[pair + 1]}`);
        if (mail) change(mail);
      }
    };
    each(acked, (mail) => {
      mail.ended_ms = now;
    });
    each(moved, (mail) => {
      mail.isMoved = true;
    });
    arrivals.push({ commit: n, ...idsOf(mails), nowMs: now, mails, bytes: at });
  }
  return { arrivals, damaged, lost };
}

/** A source's key, as one name: made once for each message, and looked up three times. */
export function nameOfKey(source: string, key: string): string {
  return `${source}\n${key}`;
}

/** The row of a message's idempotency key, as {@link keyRow}; undefined where it has none. */
export function keyOf(mail: FreshMail, user: string): ReturnType<typeof keyRow> | undefined {
  const { source, key, hash, key_due_ms } = mail;
  return key === null ? undefined : keyRow(source, key, hash ?? "", mail, user, key_due_ms);
}

/** A row of an idempotency key: source, key, hash, the answer in short, due_ms, checksum. */
export function keyRow(
  source: string,
  key: string,
  hash: string,
  { message, accepted_ms, ttl }: Pick<FreshMail, "message" | "accepted_ms" | "ttl">,
  user: string,
  dueMs: number,
): readonly [string, string, string, string, number, number] {
  const accepted = JSON.stringify([message, accepted_ms, ttl, user]);
  return [source, key, hash, accepted, dueMs, checksumOfKey(source, key, hash, accepted, dueMs)];
}

/** The answer to whoever sent it, as it is repeated for its idempotency key. */
export function answerOf({ message, accepted_ms, ttl }: Pick<FreshMail, "message" | "accepted_ms" | "ttl">, user: string): string {
  return JSON.stringify({ id: message, time: writeTime(accepted_ms), ttl, recipients: [user] });
}

/** The answer that a key's row holds: as it is, or, of mail that was fresh, in short. */
export function answerOfRow(accepted: string): string {
  if (!accepted.startsWith("[")) return accepted;
  const [message, accepted_ms, ttl, user] = JSON.parse(accepted) as [string, number, number, string];
  return answerOf({ message, accepted_ms, ttl }, user);
}
