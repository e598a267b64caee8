/**
 * The fresh mail of one mailbox, in memory.
 * @module
 */
import type { CheckedDelivery } from "./checksum.ts";

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
export class Shelf {
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
