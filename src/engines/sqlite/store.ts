/**
 * The store itself: what each operation of the engine does to the database (how messages come: append.ts; how they are settled: settle.ts). Runs in
 * the worker thread, one operation at a time, inside the transaction that the worker opens around a batch.
 * @module
 */
import { Appends } from "./append.ts";
import type { Books } from "./books.ts";
import {
  ACKED,
  type AppendItem,
  type AppendResult,
  ENDINGS,
  type EndResult,
  EXPIRED,
  type FindResult,
  NOT_STORED,
  type Op,
  type ReadResult,
  type Result,
  type UnsettledResult,
  type WorkerOptions,
} from "./call.ts";
import { DeliveryBook } from "./delivery.ts";
import { FoldBook } from "./fold.ts";
import { FreshBook } from "./fresh.ts";
import { mergeGaps } from "./gap.ts";
import { giveRows } from "./give-rows.ts";
import { HoldBook } from "./hold.ts";
import { strokeOf } from "./keep.ts";
import { Ledger } from "./ledger.ts";
import { Outcome } from "./outcome.ts";
import { readMail, walkMail } from "./reading.ts";
import { Damaged, type Db } from "./schema.ts";
import { SessionBook } from "./session.ts";
import { settle } from "./settle.ts";
import { prepareAll, STEP_ROWS } from "./statement.ts";

/** How long it is remembered that a session has ended. */
const REMEMBER_ENDED_MS = 366 * 24 * 3600_000;
/** What is forgotten at its time without any other effect: how, and when there is more. */
const FORGET = [
  ["dropKeys", "nextKeyDue"],
  ["dropSessions", "nextSessionDue"],
  ["dropEnded", "nextEndedDue"],
] as const;

export class Store {
  readonly epoch: string;
  /** What the operations since the last {@link begin} did besides their results. */
  readonly outcome = new Outcome();
  /** Commits that changed something, since the store was made; as far as they are durable. */
  commits: number;

  readonly #books: Books;
  readonly #appends: Appends;
  readonly #control: Readonly<Record<"begin" | "commit" | "rollback" | "mark" | "release" | "back", () => void>>;
  readonly #inTransaction: () => boolean;

  constructor(db: Db, options: WorkerOptions) {
    const { outcome } = this;
    const run = prepareAll(db);
    const fresh = new FreshBook(run);
    const ledger = new Ledger(run, fresh, outcome);
    const holds = new HoldBook(run, ledger);
    this.#books = {
      options,
      run,
      fresh,
      folds: new FoldBook(run),
      ledger,
      sessions: new SessionBook(run),
      holds,
      deliveries: new DeliveryBook(run, ledger, holds, outcome),
      outcome,
    };
    const control = (sql: string) => {
      const statement = db.prepare(sql);
      return () => {
        statement.run();
      };
    };
    this.#control = {
      begin: control("BEGIN"),
      commit: control("COMMIT"),
      rollback: control("ROLLBACK"),
      mark: control("SAVEPOINT op"),
      release: control("RELEASE op"),
      back: control("ROLLBACK TO op"),
    };
    this.#inTransaction = () => db.inTransaction;
    this.commits = run.commits.get()?.n ?? 0;
    this.epoch = String(db.prepare("SELECT value FROM meta WHERE key = 'epoch'").pluck().get());
    // What a process that was killed has left.
    fresh.load(db);
    this.#appends = new Appends(this.#books);
  }

  /** Whether fresh mail shall get its rows, because there is much of it; and when there is time, any. */
  isToFold(isQuiet: boolean): boolean {
    return isQuiet ? !this.#books.fresh.isEmpty : this.#books.fresh.isFull;
  }

  /** Gives the oldest fresh mail its rows, in a commit of its own that answers nobody. May throw as {@link commit}; then {@link rollback}. */
  fold(): void {
    this.begin(this.outcome.nowMs);
    this.foldOldest();
    this.commit();
  }

  /** Gives the oldest fresh mail its rows, in the transaction that was begun. */
  foldOldest(): void {
    giveRows(this.#books, this.#books.fresh.takeOldest());
  }

  /** From now on nothing is fresh, and the file is whole without it; until {@link resumeFresh}. */
  pauseFresh(): void {
    this.#books.fresh.isPaused = true;
    while (!this.#books.fresh.isEmpty) this.fold();
  }

  resumeFresh(): void {
    this.#books.fresh.isPaused = false;
  }

  begin(nowMs: number): void {
    this.outcome.begin(nowMs);
    this.#control.begin();
  }

  /** Durable when it returns. */
  commit(): void {
    this.#books.ledger.write();
    const isCounted = this.#books.fresh.write(this.commits + 1, this.outcome.nowMs);
    if (this.outcome.wrote && !isCounted) this.#books.run.countCommit.run(this.commits + 1);
    this.#control.commit();
    if (this.outcome.wrote) this.commits += 1;
    this.#books.ledger.committed();
    this.#books.fresh.committed(this.commits, this.outcome.nowMs);
  }

  rollback(): void {
    // SQLite itself has rolled back after some errors.
    if (this.#inTransaction()) this.#control.rollback();
    this.#books.fresh.rolledBack();
    this.#books.ledger.rolledBack();
    this.outcome.rolledBack();
  }

  /** Runs one operation; `place` is its place in the batch, for what happens meanwhile. */
  run(op: Op, place: number): Result {
    this.outcome.op = place;
    switch (op[0]) {
      case "append":
        return this.#append(op[1]);
      case "each":
        return op[1].map((item) => this.#appends.one(item));
      case "attach":
        this.outcome.attached.add(op[1]);
        return this.#books.ledger.mailboxOf(op[1])?.head ?? 0;
      case "detach":
        this.outcome.attached.delete(op[1]);
        return null;
      case "read":
        return this.#read(op[1], op[2], op[3], op[4], op[5]);
      case "settle":
        return settle(this.#books, op[1], op[2], op[3]);
      case "held": {
        const box = this.#books.ledger.mailboxOf(op[1]);
        return box ? this.#books.holds.heldBy(box, op[2], op[3]) : [];
      }
      case "find":
        return this.#find(op[1]);
      case "evict":
        return this.#evict(op[1]);
      case "admit":
        return this.#admit(op[1], op[2], op[3]);
      case "users":
        return this.#books.sessions.usersOf(op[1], this.outcome.nowMs, op[2]);
      case "end":
        return this.#endSession(op[1]);
      case "unsettled":
        return this.#unsettled(op[1], op[2]);
      case "totals":
        return this.#books.ledger.totals();
      case "sweep":
        return this.#sweep(op[1]);
    }
  }

  /** Runs one operation so that an error in it undoes it alone. */
  runApart(op: Op, place: number): Result {
    const { depth } = this.outcome;
    this.#mark();
    try {
      const result = this.run(op, place);
      this.#release();
      return result;
    } catch (thrown) {
      // After some errors SQLite has rolled back everything; the caller then sees that from the next statement.
      while (this.#inTransaction() && this.outcome.depth > depth) this.#back();
      throw thrown;
    }
  }

  #append(items: readonly AppendItem[]): readonly AppendResult[] {
    const [first] = items;
    if (first && items.length === 1) return [this.#appends.one(first)];
    this.#mark();
    const results = items.map((item) => this.#appends.one(item));
    if (results.every((result) => typeof result !== "number")) {
      this.#release();
      return results;
    }
    this.#back();
    const ids = new Set(items.map(([id]) => id));
    return results.map((result) => {
      if (typeof result === "number") return result;
      const isOfThisCall = typeof result !== "string" || ids.has((JSON.parse(result) as { id: string }).id);
      return isOfThisCall ? NOT_STORED : result;
    });
  }

  #read(user: string, session: string, after: number, limit: number, maxBytes: number): ReadResult {
    const box = this.#books.ledger.mailboxOf(user);
    if (!box) return { entries: [], gaps: [], lookedAt: 0, more: false };
    const { entries, unsettled, ended, damaged, lookedAt, more } = readMail(this.#books.run, box, this.#books.fresh, {
      session,
      after,
      limit,
      maxBytes,
      nowMs: this.outcome.nowMs,
    });
    for (const row of damaged) {
      const delivery = this.#books.run.atSeq.get(row.mailbox, row.seq);
      if (!delivery) throw new Damaged(`message ${row.message} is in an index, and not in its place`);
      this.#books.deliveries.endDamaged(delivery);
      ended.push({ seq: row.seq, ending: "dead", session: null });
    }
    if (damaged.length > 0) ended.sort((one, other) => one.seq - other.seq);
    const mine = ended.filter((row) => row.session === null || row.session === session);
    return { entries, gaps: mergeGaps(after, lookedAt, unsettled, mine, box.forgotten), lookedAt, more };
  }

  #find(id: string): FindResult | null {
    const mail = this.#books.fresh.find(id);
    if (mail) {
      const { user } = this.#books.ledger.mailbox(mail.mailbox);
      return { source: mail.source, recipients: [[user, mail.ended_ms === null ? null : ENDINGS[ACKED], mail.ended_ms]] };
    }
    const rows = this.#books.run.states.all(id);
    const [first] = rows;
    if (first) return { source: first.source, recipients: rows.map((row) => [row.user, row.ending, row.ended_ms]) };
    const folded = this.#books.folds.ofMessage(id);
    if (typeof folded === "number") {
      const line = "States of acknowledged messages are damaged on the disk: whoever asks for them is told that they are not known.";
      this.outcome.sayDamagedOnce(folded, line);
      return null;
    }
    if (!folded) return null;
    const [source, , , , , , user, , ended_ms = null] = folded;
    return { source, recipients: [[user, ENDINGS[ACKED], ended_ms]] };
  }

  #evict(id: string): number {
    const mail = this.#books.fresh.find(id);
    if (mail?.ended_ms === null) giveRows(this.#books, [mail]);
    return this.#books.deliveries.evict(this.#books.run.ofMessage.all(id)).length;
  }

  #admit(session: string, user: string, untilMs: number): boolean {
    if (this.#books.sessions.hasEnded(session, this.outcome.nowMs)) return false;
    const dueMs = strokeOf(untilMs);
    if (this.#books.sessions.admit(session, user, dueMs)) {
      this.outcome.noteDue(dueMs);
      this.outcome.wrote = true;
    }
    return true;
  }

  #endSession(session: string): EndResult {
    const { users, dueMs } = this.#books.sessions.end(session, this.outcome.nowMs, strokeOf(this.outcome.nowMs + REMEMBER_ENDED_MS));
    this.outcome.noteDue(dueMs);
    this.outcome.wrote = true;
    this.#books.holds.endSession(session);
    const evicted = this.#books.deliveries.evict(this.#books.run.ofSession.all(session));
    return { users, evicted: evicted.map((row) => [row.message, this.#books.ledger.mailbox(row.mailbox).user]) };
  }

  /** One step of a walk through all deliveries: those that wait. Damaged ones end here, as they would when read. */
  #unsettled(message: string, mailbox: number): UnsettledResult {
    giveRows(this.#books, this.#books.fresh.takeAll());
    const { rows, damaged, after } = walkMail(this.#books.run, message, mailbox);
    for (const [id, box] of damaged)
      for (const row of this.#books.run.ofMessage.all(id)) if (row.mailbox === box) this.#books.deliveries.endDamaged(row);
    return { rows, after };
  }

  /** One step of what time does: expiry, return of nacked mail, purge. @returns whether there is more at once */
  #sweep(setBackMs: number | null): boolean {
    if (setBackMs !== null) this.#books.deliveries.comeEarlier(setBackMs);
    const oldMs = this.#books.fresh.oldAtMs;
    if (oldMs !== null && oldMs <= this.outcome.nowMs) {
      this.foldOldest();
      return true;
    }
    const rows = this.#books.run.due.all(this.outcome.nowMs);
    for (const row of rows) {
      if (row.ending !== null) this.#books.deliveries.purge(row);
      else if (this.#books.deliveries.hasExpired(row)) this.#books.deliveries.endAndTell(row, EXPIRED);
      else this.#books.deliveries.comeAgain(row, row.attempts);
    }
    const forgotten = FORGET.map(([drop]) => this.#books.run[drop].run(this.outcome.nowMs).changes);
    if (rows.length > 0 || forgotten.some((n) => n > 0)) this.outcome.wrote = true;
    const hasFold = this.#books.folds.dropDue(this.outcome.nowMs);
    if (hasFold) this.outcome.wrote = true;
    const nexts = [this.#books.run.nextDue.get(), this.#books.run.nextFoldDue.get(), ...FORGET.map(([, nextDue]) => this.#books.run[nextDue].get())];
    for (const next of nexts) if (next) this.outcome.noteDue(next.due_ms);
    // The dates of fresh mail are in no table yet: it is looked at again when it has rows.
    if (oldMs !== null) this.outcome.noteDue(oldMs);
    return rows.length === STEP_ROWS || forgotten.includes(STEP_ROWS) || hasFold;
  }

  #mark(): void {
    this.#control.mark();
    this.#books.ledger.mark();
    this.#books.fresh.mark();
    this.outcome.mark();
  }

  #release(): void {
    this.#control.release();
    this.#books.ledger.release();
    this.#books.fresh.release();
    this.outcome.release();
  }

  #back(): void {
    this.#control.back();
    this.#control.release();
    this.#books.ledger.back();
    this.#books.fresh.back();
    this.outcome.back();
  }
}
