/**
 * Fresh mail: what was accepted a moment ago. On the disk it is one row for each commit, which says what came and what of it was acknowledged; in
 * memory it is looked up. Rows and index entries of its own it gets when it has lain for a while. Most mail is acknowledged before that, and costs its
 * part of a fold (fold.ts) instead of some ten changes of trees: docs/decisions/0002.
 *
 * The other tables know nothing of fresh mail, except the head of its mailbox: they fit together without it.
 * @module
 */
import type { AppendItem } from "./call.ts";
import { type Arrival, idsOf, readFresh, writeFresh } from "./fresh-row.ts";
import { Damaged, type Db } from "./schema.ts";
import { type FreshMail, Shelf } from "./shelf.ts";
import type { Statements } from "./statement.ts";

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
    this.#run.addFresh.run(commit, ...writeFresh({ came: this.#came, acked: this.#acked, moved: told }, nowMs));
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
    for (const mail of this.#present()) this.#place(mail);
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
