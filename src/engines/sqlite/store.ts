/**
 * The store itself: what each operation of the engine does to the database. Runs in the worker thread, one operation at a time, inside the
 * transaction that the worker opens around a batch.
 * @module
 */
import { crc32 } from "node:zlib";
import {
  ACKED,
  type AppendItem,
  type AppendResult,
  type Change,
  CONFLICT,
  DEAD,
  ENDINGS,
  type EndedRow,
  type EndResult,
  EXPIRED,
  type FindResult,
  FULL,
  NOT_STORED,
  type Op,
  REPLACED,
  type ReadResult,
  type Result,
  SESSION_ENDED,
  type UnsettledResult,
  type WorkerOptions,
} from "./call.ts";
import { checksumOfDelivery, checksumOfKey, isIntact } from "./checksum.ts";
import { DeliveryBook } from "./delivery.ts";
import { FoldBook, type KnownKey } from "./fold.ts";
import { FreshBook } from "./fresh.ts";
import { mergeGaps } from "./gap.ts";
import { HoldBook } from "./hold.ts";
import { KEEP_MS, strokeOf } from "./keep.ts";
import { answerOf, answerOfRow, keyOf, nameOfKey } from "./key.ts";
import { ACCEPTED, FIRST_ENDING, Ledger, UNSETTLED } from "./ledger.ts";
import { Outcome } from "./outcome.ts";
import { readMail, walkMail } from "./reading.ts";
import { Damaged, type Db } from "./schema.ts";
import { SessionBook } from "./session.ts";
import type { FreshMail } from "./shelf.ts";
import { type DeliveryRow, type KeyRow, type MailboxRow, prepareAll, STEP_ROWS, type Statements } from "./statement.ts";

/** How long it is remembered that a session has ended. */
const REMEMBER_ENDED_MS = 366 * 24 * 3600_000;
/** Fewer keys of mail that waits have rows of their own. */
const MIN_FOLDED = 8;
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

  readonly #options: WorkerOptions;
  readonly #run: Statements;
  readonly #control: Readonly<Record<"begin" | "commit" | "rollback" | "mark" | "release" | "back", () => void>>;
  readonly #inTransaction: () => boolean;
  readonly #fresh: FreshBook;
  readonly #folds: FoldBook;
  readonly #ledger: Ledger;
  readonly #sessions: SessionBook;
  readonly #holds: HoldBook;
  readonly #deliveries: DeliveryBook;
  /** Of all messages that were ever stored: a higher one is new. */
  #lastMessage: string;

  constructor(db: Db, options: WorkerOptions) {
    this.#options = options;
    this.#run = prepareAll(db);
    this.#fresh = new FreshBook(this.#run);
    this.#folds = new FoldBook(this.#run);
    this.#ledger = new Ledger(this.#run, this.#fresh, this.outcome);
    this.#sessions = new SessionBook(this.#run);
    this.#holds = new HoldBook(this.#run, this.#ledger);
    this.#deliveries = new DeliveryBook(this.#run, this.#ledger, this.#holds, this.outcome);
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
    this.commits = this.#run.commits.get()?.n ?? 0;
    this.epoch = String(db.prepare("SELECT value FROM meta WHERE key = 'epoch'").pluck().get());
    // What a process that was killed has left.
    this.#fresh.load(db);
    const [ofRows, ofFolds] = [this.#run.lastMessage.get()?.message ?? "", this.#folds.lastMessage];
    this.#lastMessage = this.#fresh.lastMessage(ofRows > ofFolds ? ofRows : ofFolds);
  }

  /** Whether fresh mail shall get its rows, because there is much of it; and when there is time, any. */
  isToFold(isQuiet: boolean): boolean {
    return isQuiet ? !this.#fresh.isEmpty : this.#fresh.isFull;
  }

  /** Gives the oldest fresh mail its rows, in a commit of its own that answers nobody. May throw as {@link commit}; then {@link rollback}. */
  fold(): void {
    this.begin(this.outcome.nowMs);
    this.foldOldest();
    this.commit();
  }

  /** Gives the oldest fresh mail its rows, in the transaction that was begun. */
  foldOldest(): void {
    this.#giveRows(this.#fresh.takeOldest());
  }

  /** From now on nothing is fresh, and the file is whole without it; until {@link resumeFresh}. */
  pauseFresh(): void {
    this.#fresh.isPaused = true;
    while (!this.#fresh.isEmpty) this.fold();
  }

  resumeFresh(): void {
    this.#fresh.isPaused = false;
  }

  begin(nowMs: number): void {
    this.outcome.begin(nowMs);
    this.#control.begin();
  }

  /** Durable when it returns. */
  commit(): void {
    this.#ledger.write();
    const isCounted = this.#fresh.write(this.commits + 1, this.outcome.nowMs);
    if (this.outcome.wrote && !isCounted) this.#run.countCommit.run(this.commits + 1);
    this.#control.commit();
    if (this.outcome.wrote) this.commits += 1;
    this.#ledger.committed();
    this.#fresh.committed(this.commits, this.outcome.nowMs);
  }

  rollback(): void {
    // SQLite itself has rolled back after some errors.
    if (this.#inTransaction()) this.#control.rollback();
    this.#fresh.rolledBack();
    this.#ledger.rolledBack();
    this.outcome.rolledBack();
  }

  /** Runs one operation; `place` is its place in the batch, for what happens meanwhile. */
  run(op: Op, place: number): Result {
    this.outcome.op = place;
    switch (op[0]) {
      case "append":
        return this.#append(op[1]);
      case "each":
        return op[1].map((item) => this.#appendOne(item));
      case "attach":
        this.outcome.attached.add(op[1]);
        return this.#ledger.mailboxOf(op[1])?.head ?? 0;
      case "detach":
        this.outcome.attached.delete(op[1]);
        return null;
      case "read":
        return this.#read(op[1], op[2], op[3], op[4], op[5]);
      case "settle":
        return this.#settle(op[1], op[2], op[3]);
      case "held": {
        const box = this.#ledger.mailboxOf(op[1]);
        return box ? this.#holds.heldBy(box, op[2], op[3]) : [];
      }
      case "find":
        return this.#find(op[1]);
      case "evict":
        return this.#evict(op[1]);
      case "admit":
        return this.#admit(op[1], op[2], op[3]);
      case "users":
        return this.#sessions.usersOf(op[1], this.outcome.nowMs, op[2]);
      case "end":
        return this.#endSession(op[1]);
      case "unsettled":
        return this.#unsettled(op[1], op[2]);
      case "totals":
        return this.#ledger.totals();
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
    if (first && items.length === 1) return [this.#appendOne(first)];
    this.#mark();
    const results = items.map((item) => this.#appendOne(item));
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

  #appendOne(item: AppendItem): AppendResult {
    const [id, source, event, bytes, acceptedAtMs, expiresAtMs, ttlSeconds, users, sessions, topic, key, hash] = item;
    const keyName = key === null ? null : nameOfKey(source, key);
    if (key !== null && keyName !== null) {
      const known = this.#knownKey(source, key, keyName);
      if (known) return known.hash === hash ? known.answer : CONFLICT;
    }
    if (id > this.#lastMessage) this.#lastMessage = id;
    else if (this.#fresh.has(id) || this.#run.isMessage.get(id) || typeof this.#folds.ofMessage(id) === "object")
      throw new Error(`message ${id} is there already`);
    if (this.#fresh.takes(item)) return this.#appendFresh(item, keyName);
    if (sessions?.some((session) => session !== null && this.#sessions.hasEnded(session, this.outcome.nowMs))) return SESSION_ENDED;
    const isExpired = expiresAtMs <= acceptedAtMs;
    const { mailboxMaxMessages, mailboxMaxBytes } = this.#options;
    const places = users.map((user, at) => {
      const box = this.#ledger.mailboxOf(user);
      const session = sessions?.[at] ?? null;
      const replaced = box && topic !== null ? this.#run.ofTopic.all(box.id, topic, source, session) : [];
      const freed = replaced.reduce((sum, row) => sum + row.bytes, 0);
      const count = (box?.count ?? 0) - replaced.length + 1;
      const hasRoom = isExpired || (count <= mailboxMaxMessages && (box?.bytes ?? 0) - freed + bytes <= mailboxMaxBytes);
      return { user, session, replaced, hasRoom };
    });
    const taken = places.reduce((sum, place) => sum + (place.hasRoom ? 1 : 0), 0);
    if (taken === 0) return FULL;

    const eventChecksum = isExpired ? null : crc32(event);
    const eventRow = isExpired ? null : Number(this.#run.addEvent.run(taken, taken, eventChecksum, event).lastInsertRowid);
    const dueMs = isExpired ? this.#deliveries.keptUntil(EXPIRED) : expiresAtMs;
    const seqs = places.map(({ user, session, replaced, hasRoom }) => {
      if (!hasRoom) return 0;
      for (const row of replaced) this.#deliveries.endAndTell(row, this.#deliveries.hasExpired(row) ? EXPIRED : REPLACED);
      const box = this.#ledger.touch(this.#ledger.mailboxOf(user) ?? this.#ledger.makeMailbox(user));
      box.head += 1;
      if (!isExpired) {
        box.count += 1;
        box.bytes += bytes;
      }
      const [ending, endedMs] = isExpired ? ["expired", this.outcome.nowMs] : [null, null];
      const row = {
        message: id,
        mailbox: box.id,
        seq: box.head,
        event: eventRow,
        source,
        session,
        topic,
        bytes,
        attempts: 1,
        expires_ms: expiresAtMs,
      };
      const checksum = isExpired ? null : checksumOfDelivery(row, user, eventChecksum);
      this.#run.addDelivery.run(id, box.id, box.head, eventRow, source, session, topic, bytes, expiresAtMs, dueMs, ending, endedMs, checksum);
      if (isExpired) this.outcome.tellEnded(user, [box.head, id, EXPIRED]);
      return box.head;
    });
    this.#ledger.count(ACCEPTED, taken);
    this.#ledger.count(isExpired ? FIRST_ENDING + EXPIRED : UNSETTLED, taken);
    this.outcome.noteDue(dueMs);
    if (key !== null) {
      const named = (hasRoom: boolean) => places.filter((place) => place.hasRoom === hasRoom).map((place) => place.user);
      const accepted = { id, time: new Date(acceptedAtMs).toISOString(), ttl: ttlSeconds, recipients: named(true) };
      const answer = JSON.stringify(taken === users.length ? accepted : { ...accepted, refused: named(false) });
      const keyDueMs = strokeOf(this.outcome.nowMs + KEEP_MS);
      this.#run.addKey.run(source, key, hash, answer, keyDueMs, checksumOfKey(source, key, hash ?? "", answer, keyDueMs), null);
      this.outcome.noteDue(keyDueMs);
    }
    return seqs;
  }

  #appendFresh(item: AppendItem, keyName: string | null): AppendResult {
    const [message, source, text, bytes, accepted_ms, expires_ms, ttl, [user = ""], , , key, hash] = item;
    const known = this.#ledger.mailboxOf(user);
    if ((known?.count ?? 0) >= this.#options.mailboxMaxMessages || (known?.bytes ?? 0) + bytes > this.#options.mailboxMaxBytes) return FULL;
    // A new mailbox has its row from the beginning.
    const box = known ? this.#ledger.touchFresh(known) : this.#ledger.touch(this.#ledger.makeMailbox(user));
    box.head += 1;
    box.count += 1;
    box.bytes += bytes;
    const key_due_ms = strokeOf(this.outcome.nowMs + KEEP_MS);
    this.#fresh.add({
      message,
      mailbox: box.id,
      seq: box.head,
      event: null,
      source,
      session: null,
      topic: null,
      bytes,
      attempts: 1,
      expires_ms,
      text,
      event_checksum: crc32(text),
      accepted_ms,
      ttl,
      key,
      keyName,
      hash,
      key_due_ms,
      ended_ms: null,
      commit: Number.POSITIVE_INFINITY,
      isMoved: false,
    });
    this.outcome.noteDue(Math.min(expires_ms, key_due_ms));
    this.outcome.wrote = true;
    return [box.head];
  }

  #ackFresh(box: MailboxRow, mail: FreshMail): EndedRow {
    this.#ledger.touchFresh(box);
    box.count -= 1;
    box.bytes -= mail.bytes;
    this.#fresh.ack(mail, this.outcome.nowMs);
    this.outcome.noteDue(this.#deliveries.keptUntil(ACKED));
    this.outcome.wrote = true;
    return [mail.seq, mail.message, ACKED];
  }

  /** Gives fresh mail the rows that it would have if it had never been fresh, except that folds keep what is known of it for 24 hours. */
  #giveRows(mails: readonly FreshMail[]): void {
    const folded: FreshMail[] = [];
    for (const mail of mails) {
      const { message, mailbox, seq, source, bytes, expires_ms, ended_ms, text, event_checksum } = mail;
      const { user } = this.#ledger.touch(this.#ledger.mailbox(mailbox));
      if (ended_ms === null) {
        const event = Number(this.#run.addEvent.run(1, 1, event_checksum, text).lastInsertRowid);
        const checksum = checksumOfDelivery({ ...mail, event }, user, event_checksum);
        this.#run.addDelivery.run(message, mailbox, seq, event, source, null, null, bytes, expires_ms, expires_ms, null, null, checksum);
      }
      const key = ended_ms === null ? keyOf(mail, user) : undefined;
      // A fold for few would cost more, now and when it goes.
      if (key && mails.length < MIN_FOLDED) this.#run.addKey.run(...key, null);
      else if (key || ended_ms !== null) folded.push(mail);
      this.#ledger.count(ACCEPTED, 1);
      this.#ledger.count(ended_ms === null ? UNSETTLED : FIRST_ENDING + ACKED, 1);
      this.#fresh.leave(mail);
    }
    if (folded.length > 0) this.outcome.noteDue(this.#folds.add(folded, (mailbox) => this.#ledger.mailbox(mailbox).user));
    this.outcome.wrote = true;
  }

  /** What an idempotency key was used for, while it is known. */
  #knownKey(source: string, key: string, keyName: string): KnownKey | undefined {
    const fresh = this.#fresh.ofKey(keyName);
    if (fresh) {
      const { hash, key_due_ms: due_ms } = fresh;
      if (due_ms > this.outcome.nowMs) return { hash, answer: answerOf(fresh, this.#ledger.mailbox(fresh.mailbox).user), due_ms };
      // The new one takes its place: the older shall be in its rows first.
      this.#giveRows([fresh]);
    }
    const row = this.#run.key.get(source, key);
    const known = row ? ofKeyRow(source, key, row) : this.#folds.find(source, key, keyName);
    if (!known) return undefined;
    if (known === "damaged")
      this.outcome.sayDamaged(`An idempotency key of ${source} is damaged on the disk: a repeat of its message is stored again.`);
    else if (known.due_ms > this.outcome.nowMs) return known;
    if (row) this.#run.dropKey.run(source, key);
    else this.#folds.forget(keyName);
    this.outcome.wrote = true;
    return undefined;
  }

  #read(user: string, session: string, after: number, limit: number, maxBytes: number): ReadResult {
    const box = this.#ledger.mailboxOf(user);
    if (!box) return { entries: [], gaps: [], lookedAt: 0, more: false };
    const { entries, unsettled, ended, damaged, lookedAt, more } = readMail(this.#run, box, this.#fresh, {
      session,
      after,
      limit,
      maxBytes,
      nowMs: this.outcome.nowMs,
    });
    for (const row of damaged) {
      const delivery = this.#run.atSeq.get(row.mailbox, row.seq);
      if (!delivery) throw new Damaged(`message ${row.message} is in an index, and not in its place`);
      this.#deliveries.endDamaged(delivery);
      ended.push({ seq: row.seq, ending: "dead", session: null });
    }
    if (damaged.length > 0) ended.sort((one, other) => one.seq - other.seq);
    const mine = ended.filter((row) => row.session === null || row.session === session);
    return { entries, gaps: mergeGaps(after, lookedAt, unsettled, mine, box.forgotten), lookedAt, more };
  }

  #settle(user: string, session: string, changes: readonly Change[]): readonly EndedRow[] {
    const box = this.#ledger.mailboxOf(user);
    if (!box) return [];
    const settled: EndedRow[] = [];
    const open = (row: DeliveryRow | undefined): row is DeliveryRow => {
      if (!row || (row.session !== null && row.session !== session)) return false;
      if (!this.#deliveries.hasExpired(row)) return true;
      this.#deliveries.endAndTell(row, EXPIRED);
      return false;
    };
    /** What else is done with fresh mail than to acknowledge it is done with its rows. */
    const rowAt = (seq: number) => {
      const mail = this.#fresh.waitingAt(box.id, seq);
      if (mail) this.#giveRows([mail]);
      return this.#run.atSeq.get(box.id, seq);
    };
    for (const change of changes) {
      switch (change[0]) {
        case "acked":
          for (const seq of change[1]) {
            const mail = this.#fresh.waitingAt(box.id, seq);
            if (mail && !this.#deliveries.hasExpired(mail)) {
              settled.push(this.#ackFresh(box, mail));
              continue;
            }
            const row = rowAt(seq);
            if (open(row)) settled.push([this.#deliveries.end(row, ACKED, null), row.message, ACKED]);
          }
          break;
        case "acked-upto":
          settled.push(...this.#settleUpto(box, change[1], new Set(change[2]), open));
          break;
        case "rejected": {
          const row = rowAt(change[1]);
          if (open(row)) settled.push([this.#deliveries.end(row, DEAD, change[2]), row.message, DEAD]);
          break;
        }
        case "nacked": {
          const row = rowAt(change[1]);
          if (!open(row)) break;
          if (!isIntact(row, user)) this.#deliveries.endDamaged(row);
          else if (row.attempts >= this.#options.maxAttempts)
            settled.push([this.#deliveries.end(row, DEAD, `nacked ${row.attempts} times`), row.message, DEAD]);
          else if (change[2] > 0) this.#deliveries.delay(row, this.outcome.nowMs + change[2]);
          else this.#deliveries.comeAgain(row, row.attempts + 1);
          break;
        }
        case "held": {
          const seqs = change[2].filter((seq) => open(rowAt(seq)));
          if (this.#holds.hold(box, session, change[1], seqs, this.outcome.nowMs)) this.outcome.wrote = true;
          break;
        }
        case "released":
          if (this.#holds.releaseAbove(box, session, change[1], change[2])) this.outcome.wrote = true;
          break;
      }
    }
    return settled;
  }

  #settleUpto(
    box: MailboxRow,
    upto: number,
    except: ReadonlySet<number>,
    open: (row: DeliveryRow | undefined) => row is DeliveryRow,
  ): readonly EndedRow[] {
    const settled: EndedRow[] = [];
    for (const mail of this.#fresh.waiting(box.id)) {
      if (mail.seq > upto) break;
      if (except.has(mail.seq)) continue;
      if (this.#deliveries.hasExpired(mail)) this.#giveRows([mail]);
      else settled.push(this.#ackFresh(box, mail));
    }
    if (box.count === this.#fresh.shelf(box.id).count) return settled;
    const fresh = settled.length;
    for (const row of this.#run.upto.all(box.id, upto))
      if (row.seq !== null && !except.has(row.seq) && open(row)) settled.push([this.#deliveries.end(row, ACKED, null), row.message, ACKED]);
    return fresh === 0 || fresh === settled.length ? settled : settled.sort(([one], [other]) => one - other);
  }

  #find(id: string): FindResult | null {
    const mail = this.#fresh.find(id);
    if (mail) {
      const { user } = this.#ledger.mailbox(mail.mailbox);
      return { source: mail.source, recipients: [[user, mail.ended_ms === null ? null : ENDINGS[ACKED], mail.ended_ms]] };
    }
    const rows = this.#run.states.all(id);
    const [first] = rows;
    if (first) return { source: first.source, recipients: rows.map((row) => [row.user, row.ending, row.ended_ms]) };
    const folded = this.#folds.ofMessage(id);
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
    const mail = this.#fresh.find(id);
    if (mail?.ended_ms === null) this.#giveRows([mail]);
    return this.#deliveries.evict(this.#run.ofMessage.all(id)).length;
  }

  #admit(session: string, user: string, untilMs: number): boolean {
    if (this.#sessions.hasEnded(session, this.outcome.nowMs)) return false;
    const dueMs = strokeOf(untilMs);
    if (this.#sessions.admit(session, user, dueMs)) {
      this.outcome.noteDue(dueMs);
      this.outcome.wrote = true;
    }
    return true;
  }

  #endSession(session: string): EndResult {
    const { users, dueMs } = this.#sessions.end(session, this.outcome.nowMs, strokeOf(this.outcome.nowMs + REMEMBER_ENDED_MS));
    this.outcome.noteDue(dueMs);
    this.outcome.wrote = true;
    this.#holds.endSession(session);
    const evicted = this.#deliveries.evict(this.#run.ofSession.all(session));
    return { users, evicted: evicted.map((row) => [row.message, this.#ledger.mailbox(row.mailbox).user]) };
  }

  /** One step of a walk through all deliveries: those that wait. Damaged ones end here, as they would when read. */
  #unsettled(message: string, mailbox: number): UnsettledResult {
    this.#giveRows(this.#fresh.takeAll());
    const { rows, damaged, after } = walkMail(this.#run, message, mailbox);
    for (const [id, box] of damaged) for (const row of this.#run.ofMessage.all(id)) if (row.mailbox === box) this.#deliveries.endDamaged(row);
    return { rows, after };
  }

  /** One step of what time does: expiry, return of nacked mail, purge. @returns whether there is more at once */
  #sweep(setBackMs: number | null): boolean {
    if (setBackMs !== null) this.#deliveries.comeEarlier(setBackMs);
    const oldMs = this.#fresh.oldAtMs;
    if (oldMs !== null && oldMs <= this.outcome.nowMs) {
      this.foldOldest();
      return true;
    }
    const rows = this.#run.due.all(this.outcome.nowMs);
    for (const row of rows) {
      if (row.ending !== null) this.#deliveries.purge(row);
      else if (this.#deliveries.hasExpired(row)) this.#deliveries.endAndTell(row, EXPIRED);
      else this.#deliveries.comeAgain(row, row.attempts);
    }
    const forgotten = FORGET.map(([drop]) => this.#run[drop].run(this.outcome.nowMs).changes);
    if (rows.length > 0 || forgotten.some((n) => n > 0)) this.outcome.wrote = true;
    const hasFold = this.#folds.dropDue(this.outcome.nowMs);
    if (hasFold) this.outcome.wrote = true;
    const nexts = [this.#run.nextDue.get(), this.#run.nextFoldDue.get(), ...FORGET.map(([, nextDue]) => this.#run[nextDue].get())];
    for (const next of nexts) if (next) this.outcome.noteDue(next.due_ms);
    // The dates of fresh mail are in no table yet: it is looked at again when it has rows.
    if (oldMs !== null) this.outcome.noteDue(oldMs);
    return rows.length === STEP_ROWS || forgotten.includes(STEP_ROWS) || hasFold;
  }

  #mark(): void {
    this.#control.mark();
    this.#ledger.mark();
    this.#fresh.mark();
    this.outcome.mark();
  }

  #release(): void {
    this.#control.release();
    this.#ledger.release();
    this.#fresh.release();
    this.outcome.release();
  }

  #back(): void {
    this.#control.back();
    this.#control.release();
    this.#ledger.back();
    this.#fresh.back();
    this.outcome.back();
  }
}

function ofKeyRow(source: string, key: string, { hash, accepted, due_ms, checksum }: KeyRow): KnownKey | "damaged" {
  if (checksumOfKey(source, key, hash, accepted, due_ms) !== checksum) return "damaged";
  return { hash, answer: answerOfRow(accepted), due_ms };
}
