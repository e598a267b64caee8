/**
 * What becomes of a delivery that has rows: its ending, its return, and at last its purge.
 * @module
 */
import { crc32 } from "node:zlib";
import { ACKED, DEAD, ENDINGS, EVICTED, EXPIRED } from "./call.ts";
import { checksumOfDelivery, isIntact } from "./checksum.ts";
import type { HoldBook } from "./hold.ts";
import { KEEP_DEAD_MS, KEEP_MS, strokeOf } from "./keep.ts";
import { FIRST_ENDING, type Ledger, UNSETTLED } from "./ledger.ts";
import type { Outcome } from "./outcome.ts";
import type { DeliveryRow, Statements } from "./statement.ts";

/** The longest delay that a nack may ask for: PROTOCOL.md. */
const MAX_DELAY_MS = 24 * 3600_000;
/** Why a dead letter is one. */
const DAMAGED = "damaged";

export class DeliveryBook {
  readonly #run: Statements;
  readonly #ledger: Ledger;
  readonly #holds: HoldBook;
  readonly #outcome: Outcome;

  constructor(run: Statements, ledger: Ledger, holds: HoldBook, outcome: Outcome) {
    this.#run = run;
    this.#ledger = ledger;
    this.#holds = holds;
    this.#outcome = outcome;
  }

  /** @returns those of them whose time was not over anyway */
  evict(rows: readonly DeliveryRow[]): readonly DeliveryRow[] {
    return rows.filter((row) => {
      const hasExpired = this.hasExpired(row);
      this.endAndTell(row, hasExpired ? EXPIRED : EVICTED);
      return !hasExpired;
    });
  }

  /** Gives one delivery its ending. @returns its number; what waited without one gets one, so that a resumer is told of the gap */
  end(row: DeliveryRow, ending: number, reason: string | null): number {
    const box = this.#ledger.touch(this.#ledger.mailbox(row.mailbox));
    if (row.seq === null) box.head += 1;
    else this.#holds.drop(box, row.seq);
    const seq = row.seq ?? box.head;
    box.count -= 1;
    // A damaged row may name another message's event, and any size: neither is touched then.
    const isSound = isIntact(row, box.user);
    if (!isSound && reason !== DAMAGED) this.#outcome.sayDamaged(damageOf(row));
    const event = isSound ? row.event : null;
    box.bytes = isSound ? box.bytes - row.bytes : (this.#run.bytesOfOthers.get(row.mailbox, row.message)?.bytes ?? 0);
    this.#ledger.count(UNSETTLED, -1);
    this.#ledger.count(FIRST_ENDING + ending, 1);
    const isDead = ending === DEAD;
    let isLast = true;
    if (event !== null) {
      if (row.recipients === 1 && !isDead) this.#run.dropEvent.run(event);
      else {
        const use = this.#run.useEvent.get(isDead ? 1 : 0, event);
        isLast = !use || use.unsettled === 0;
        if (use?.unsettled === 0 && use.dead === 0) this.#run.dropEvent.run(event);
      }
    }
    // The state of a message is known until a while after its last ending: until then no row of it may be purged.
    const dueMs = isLast ? this.keptUntil(ending) : null;
    this.#run.endDelivery.run(seq, isDead ? event : null, ENDINGS[ending], this.#outcome.nowMs, dueMs, reason, row.message, row.mailbox);
    if (isLast && row.recipients !== 1) this.#run.releaseDeliveries.run(this.keptUntil(DEAD), this.keptUntil(ACKED), row.message);
    if (dueMs !== null) this.#outcome.noteDue(this.keptUntil(ACKED));
    return seq;
  }

  #move(row: DeliveryRow, seq: number | null, attempts: number, dueMs: number): void {
    const { user } = this.#ledger.mailbox(row.mailbox);
    const checksum = checksumOfDelivery({ ...row, seq, attempts }, user, row.event_checksum);
    this.#run.moveDelivery.run(seq, attempts, dueMs, checksum, row.message, row.mailbox);
  }

  /** Takes a message out of its mailbox until its time has come. */
  delay(row: DeliveryRow, untilMs: number): void {
    const dueMs = Math.min(untilMs, row.expires_ms);
    if (row.seq !== null) this.#holds.drop(this.#ledger.mailbox(row.mailbox), row.seq);
    this.#move(row, null, row.attempts + 1, dueMs);
    this.#outcome.noteDue(dueMs);
    this.#outcome.wrote = true;
  }

  /**
   * A delay lasts as long as it was to, although its end is kept as a date. One that would last longer than any may is over: the time of day was set
   * back when nobody looked.
   */
  comeEarlier(byMs: number): void {
    const nowMs = this.#outcome.nowMs;
    if (this.#run.comeEarlier.run(byMs, nowMs + MAX_DELAY_MS, nowMs, byMs, nowMs).changes > 0) this.#outcome.wrote = true;
  }

  /** Puts a message at the end of its mailbox again; one whose text was damaged is dead instead. */
  comeAgain(row: DeliveryRow, deliveryCount: number): void {
    const box = this.#ledger.touch(this.#ledger.mailbox(row.mailbox));
    const stored = row.event === null ? undefined : this.#run.readEvent.get(row.event);
    if (!stored || !isIntact(row, box.user) || crc32(stored.event) !== row.event_checksum) {
      this.endDamaged(row);
      return;
    }
    if (row.seq !== null) this.#holds.drop(box, row.seq);
    box.head += 1;
    this.#move(row, box.head, deliveryCount, row.expires_ms);
    this.#outcome.noteDue(row.expires_ms);
    this.#outcome.tellAgain(box.user, [box.head, row.message, deliveryCount, stored.event, row.session]);
  }

  /** Forgets a delivery that ended long ago; its mailbox remembers up to which number it forgot. */
  purge(row: DeliveryRow): void {
    this.#run.dropDelivery.run(row.message, row.mailbox);
    if (row.ending !== "acked" && row.seq !== null) {
      const box = this.#ledger.mailbox(row.mailbox);
      if (row.seq > box.forgotten) this.#ledger.touch(box).forgotten = row.seq;
    }
    if (row.event === null) return;
    const use = this.#run.buryEvent.get(row.event);
    if (use?.unsettled === 0 && use.dead === 0) this.#run.dropEvent.run(row.event);
  }

  /** What cannot be trusted is handed to nobody. */
  endDamaged(row: DeliveryRow): void {
    this.#outcome.sayDamaged(damageOf(row));
    this.endAndTell(row, DEAD, DAMAGED);
  }

  /** Ends a delivery for a reason that is not a receiver's settlement, and tells its mailbox. */
  endAndTell(row: DeliveryRow, ending: number, reason: string | null = null): void {
    const seq = this.end(row, ending, reason);
    this.#outcome.tellEnded(this.#ledger.mailbox(row.mailbox).user, [seq, row.message, ending]);
  }

  hasExpired(row: Pick<DeliveryRow, "expires_ms">): boolean {
    return row.expires_ms <= this.#outcome.nowMs;
  }

  /** Until when the state of what ends now is known, ms since the Unix epoch. */
  keptUntil(ending: number): number {
    return strokeOf(this.#outcome.nowMs + (ending === DEAD ? KEEP_DEAD_MS : KEEP_MS));
  }
}

function damageOf(row: DeliveryRow): string {
  return `Message ${row.message} is damaged on the disk (its checksum is wrong): not delivered, kept as a dead letter.`;
}
