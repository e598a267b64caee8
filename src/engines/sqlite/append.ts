/**
 * How a message comes into the store: by its key it is a repeat or not; then it is fresh, or has its rows at once.
 * @module
 */
import { crc32 } from "node:zlib";
import type { Books } from "./books.ts";
import { type AppendItem, type AppendResult, CONFLICT, EXPIRED, FULL, REPLACED, SESSION_ENDED } from "./call.ts";
import { checksumOfDelivery, checksumOfKey } from "./checksum.ts";
import type { KnownKey } from "./fold.ts";
import { giveRows } from "./give-rows.ts";
import { KEEP_MS, strokeOf } from "./keep.ts";
import { answerOf, answerOfRow, nameOfKey } from "./key.ts";
import { ACCEPTED, FIRST_ENDING, UNSETTLED } from "./ledger.ts";
import type { KeyRow } from "./statement.ts";

export class Appends {
  readonly #books: Books;
  /** Of all messages that were ever stored: a higher one is new. */
  #lastMessage: string;

  constructor(books: Books) {
    this.#books = books;
    const [ofRows, ofFolds] = [books.run.lastMessage.get()?.message ?? "", books.folds.lastMessage];
    this.#lastMessage = books.fresh.lastMessage(ofRows > ofFolds ? ofRows : ofFolds);
  }

  /** Stores one message, or says why not; the caller has begun a transaction. */
  one(item: AppendItem): AppendResult {
    const books = this.#books;
    const [id, source, event, bytes, acceptedAtMs, expiresAtMs, ttlSeconds, users, sessions, topic, key, hash] = item;
    const keyName = key === null ? null : nameOfKey(source, key);
    if (key !== null && keyName !== null) {
      const known = this.#knownKey(source, key, keyName);
      if (known) return known.hash === hash ? known.answer : CONFLICT;
    }
    if (id > this.#lastMessage) this.#lastMessage = id;
    else if (books.fresh.has(id) || books.run.isMessage.get(id) || typeof books.folds.ofMessage(id) === "object")
      throw new Error(`message ${id} is there already`);
    if (books.fresh.takes(item)) return this.#addFresh(item, keyName);
    if (sessions?.some((session) => session !== null && books.sessions.hasEnded(session, books.outcome.nowMs))) return SESSION_ENDED;
    const isExpired = expiresAtMs <= acceptedAtMs;
    const { mailboxMaxMessages, mailboxMaxBytes } = books.options;
    const places = users.map((user, at) => {
      const box = books.ledger.mailboxOf(user);
      const session = sessions?.[at] ?? null;
      const replaced = box && topic !== null ? books.run.ofTopic.all(box.id, topic, source, session) : [];
      const freed = replaced.reduce((sum, row) => sum + row.bytes, 0);
      const count = (box?.count ?? 0) - replaced.length + 1;
      const hasRoom = isExpired || (count <= mailboxMaxMessages && (box?.bytes ?? 0) - freed + bytes <= mailboxMaxBytes);
      return { user, session, replaced, hasRoom };
    });
    const taken = places.reduce((sum, place) => sum + (place.hasRoom ? 1 : 0), 0);
    if (taken === 0) return FULL;

    const eventChecksum = isExpired ? null : crc32(event);
    const eventRow = isExpired ? null : Number(books.run.addEvent.run(taken, taken, eventChecksum, event).lastInsertRowid);
    const dueMs = isExpired ? books.deliveries.keptUntil(EXPIRED) : expiresAtMs;
    const seqs = places.map(({ user, session, replaced, hasRoom }) => {
      if (!hasRoom) return 0;
      for (const row of replaced) books.deliveries.endAndTell(row, books.deliveries.hasExpired(row) ? EXPIRED : REPLACED);
      const box = books.ledger.touch(books.ledger.mailboxOf(user) ?? books.ledger.makeMailbox(user));
      box.head += 1;
      if (!isExpired) {
        box.count += 1;
        box.bytes += bytes;
      }
      const [ending, endedMs] = isExpired ? ["expired", books.outcome.nowMs] : [null, null];
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
      books.run.addDelivery.run(id, box.id, box.head, eventRow, source, session, topic, bytes, expiresAtMs, dueMs, ending, endedMs, checksum);
      if (isExpired) books.outcome.tellEnded(user, [box.head, id, EXPIRED]);
      return box.head;
    });
    books.ledger.count(ACCEPTED, taken);
    books.ledger.count(isExpired ? FIRST_ENDING + EXPIRED : UNSETTLED, taken);
    books.outcome.noteDue(dueMs);
    if (key !== null) {
      const named = (hasRoom: boolean) => places.filter((place) => place.hasRoom === hasRoom).map((place) => place.user);
      const accepted = { id, time: new Date(acceptedAtMs).toISOString(), ttl: ttlSeconds, recipients: named(true) };
      const answer = JSON.stringify(taken === users.length ? accepted : { ...accepted, refused: named(false) });
      const keyDueMs = strokeOf(books.outcome.nowMs + KEEP_MS);
      books.run.addKey.run(source, key, hash, answer, keyDueMs, checksumOfKey(source, key, hash ?? "", answer, keyDueMs), null);
      books.outcome.noteDue(keyDueMs);
    }
    return seqs;
  }

  #addFresh(item: AppendItem, keyName: string | null): AppendResult {
    const books = this.#books;
    const [message, source, text, bytes, accepted_ms, expires_ms, ttl, [user = ""], , , key, hash] = item;
    const known = books.ledger.mailboxOf(user);
    if ((known?.count ?? 0) >= books.options.mailboxMaxMessages || (known?.bytes ?? 0) + bytes > books.options.mailboxMaxBytes) return FULL;
    // A new mailbox has its row from the beginning.
    const box = known ? books.ledger.touchFresh(known) : books.ledger.touch(books.ledger.makeMailbox(user));
    box.head += 1;
    box.count += 1;
    box.bytes += bytes;
    const key_due_ms = strokeOf(books.outcome.nowMs + KEEP_MS);
    books.fresh.add({
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
    books.outcome.noteDue(Math.min(expires_ms, key_due_ms));
    books.outcome.wrote = true;
    return [box.head];
  }

  /** What an idempotency key was used for, while it is known. */
  #knownKey(source: string, key: string, keyName: string): KnownKey | undefined {
    const books = this.#books;
    const fresh = books.fresh.ofKey(keyName);
    if (fresh) {
      const { hash, key_due_ms: due_ms } = fresh;
      if (due_ms > books.outcome.nowMs) return { hash, answer: answerOf(fresh, books.ledger.mailbox(fresh.mailbox).user), due_ms };
      // The new one takes its place: the older shall be in its rows first.
      giveRows(books, [fresh]);
    }
    const row = books.run.key.get(source, key);
    const known = row ? ofKeyRow(source, key, row) : books.folds.find(source, key, keyName);
    if (!known) return undefined;
    if (known === "damaged")
      books.outcome.sayDamaged(`An idempotency key of ${source} is damaged on the disk: a repeat of its message is stored again.`);
    else if (known.due_ms > books.outcome.nowMs) return known;
    if (row) books.run.dropKey.run(source, key);
    else books.folds.forget(keyName);
    books.outcome.wrote = true;
    return undefined;
  }
}

function ofKeyRow(source: string, key: string, { hash, accepted, due_ms, checksum }: KeyRow): KnownKey | "damaged" {
  if (checksumOfKey(source, key, hash, accepted, due_ms) !== checksum) return "damaged";
  return { hash, answer: answerOfRow(accepted), due_ms };
}
