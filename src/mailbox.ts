/**
 * One user's mailbox as this node sees it: the engine's live tail on one side, the user's receivers on the other.
 * @module
 */
import type { Attachment, Ended, Engine, Entry, MailboxEvents, Page } from "./engine.ts";
import { HandoverError } from "./errors.ts";
import {
  type AckForms,
  type Epoch,
  type MessageId,
  PROTOCOL,
  type ReceiverId,
  type Seq,
  type SessionId,
  type UserId,
  writeDelivery,
} from "./protocol.ts";
import { type ReadableMailbox, Receiver } from "./receiver.ts";

/** How long a receiver is remembered after its last poll, and else after its last connection or its first word (PROTOCOL.md, section 5). */
const LIVE_AFTER_POLL_MS = 30_000;
const REMEMBERED_MS = 90_000;
/** How long a stream that the server ended, to see its client come back, counts as live still. */
const LIVE_AFTER_STREAM_MS = 10_000;

/** Whether a receiver has a link, or polled within the last 30 s, or is between two streams. */
export function isLive(receiver: Receiver): boolean {
  if (receiver.isConnected) return true;
  const awayMs = performance.now() - receiver.seenAtMs;
  return (receiver.polls && awayMs < LIVE_AFTER_POLL_MS) || (receiver.isReturning && awayMs < LIVE_AFTER_STREAM_MS);
}

/** A receiver's name is its own within its session. */
function keyOf({ session, id }: Pick<Receiver, "session" | "id">): string {
  return `${session} ${id}`;
}

/** What a mailbox knows of its messages with TTL 0. */
class Reserving {
  /** Those on their way to the engine, and since when: only those who are live when it has them are handed them. */
  readonly announced = new Map<MessageId, number>();
  /** … and then, by number, who that is, by name: whoever was forgotten and comes back is the same. Until they end, within 30 s. */
  readonly reserved = new Map<Seq, ReadonlySet<string>>();
  /** Their numbers now: a nack gives a new one. */
  readonly reservedAt = new Map<MessageId, Seq>();
}

export class Mailbox implements MailboxEvents, ReadableMailbox {
  readonly user: UserId;
  readonly #onLost: (mailbox: Mailbox, cause: HandoverError) => void;
  readonly #receivers = new Map<string, Receiver>();
  /** From the first message with TTL 0 on: most mailboxes never have one. */
  #reserving: Reserving | undefined;
  #attachment: Attachment | undefined;
  #head: Seq = 0;

  private constructor(user: UserId, onLost: (mailbox: Mailbox, cause: HandoverError) => void) {
    this.user = user;
    this.#onLost = onLost;
  }

  /**
   * Opens a user's mailbox on this node.
   * @param onLost  the engine ended it; it must not be used any more
   * @throws HandoverError store-unavailable
   */
  static async attach(engine: Engine, user: UserId, onLost: (mailbox: Mailbox, cause: HandoverError) => void): Promise<Mailbox> {
    const mailbox = new Mailbox(user, onLost);
    const attachment = await engine.attach(user, mailbox);
    mailbox.#attachment = attachment;
    mailbox.#head = Math.max(mailbox.#head, attachment.head);
    return mailbox;
  }

  get head(): Seq {
    return this.#head;
  }

  get epoch(): Epoch {
    return this.#requireAttachment().epoch;
  }

  /** How many receivers it knows, connected and absent. */
  get size(): number {
    return this.#receivers.size;
  }

  /** Whether it knows of mail that is for some receivers only: nobody else does. */
  get isReserving(): boolean {
    return this.#reserving !== undefined && this.#reserving.reserved.size + this.#reserving.announced.size > 0;
  }

  receivers(): IterableIterator<Receiver> {
    return this.#receivers.values();
  }

  /** Whether a receiver (of that session, if one is named) is live. */
  isLive(session: SessionId | undefined): boolean {
    for (const receiver of this.#receivers.values()) {
      if (session !== undefined && receiver.session !== session) continue;
      if (isLive(receiver)) return true;
    }
    return false;
  }

  receiver(id: ReceiverId, session: SessionId): Receiver | undefined {
    return this.#receivers.get(keyOf({ session, id }));
  }

  addReceiver(id: ReceiverId, session: SessionId): Receiver {
    const receiver = new Receiver(id, session, this);
    this.#receivers.set(keyOf(receiver), receiver);
    return receiver;
  }

  /** Forgets receivers that have been away for long. Their mail stays; should they come back, their cursor says where they were. */
  forgetAbsent(): void {
    const nowMs = performance.now();
    // Announced and not stored after all.
    const announced = this.#reserving?.announced;
    if (announced) for (const [id, atMs] of announced) if (nowMs - atMs > PROTOCOL.ttlZeroMs) announced.delete(id);
    for (const [key, receiver] of this.#receivers) {
      const remembered = receiver.polls ? LIVE_AFTER_POLL_MS : REMEMBERED_MS;
      if (!receiver.isConnected && nowMs - receiver.seenAtMs >= remembered) this.#receivers.delete(key);
    }
  }

  /** Lets go of a session that has ended. */
  forgetSession(session: SessionId): void {
    for (const [key, receiver] of this.#receivers) {
      if (receiver.session !== session) continue;
      receiver.disconnect(new HandoverError("session-ended", "The session was ended."));
      this.#receivers.delete(key);
    }
  }

  /** Forgets the receiver that has been away longest, to make room. @returns whether there was one */
  forgetOldestAbsent(): boolean {
    let oldest: [string, Receiver] | undefined;
    for (const entry of this.#receivers) {
      if (!entry[1].isConnected && (!oldest || entry[1].seenAtMs < oldest[1].seenAtMs)) oldest = entry;
    }
    return oldest !== undefined && this.#receivers.delete(oldest[0]);
  }

  /**
   * Settles on behalf of one receiver, and tells the others.
   * @returns how many messages newly ended
   * @throws HandoverError store-unavailable
   */
  async acknowledge(receiver: Receiver, forms: AckForms, cursor: Seq | undefined): Promise<number> {
    await receiver.recall();
    const changes = receiver.settlements(forms, cursor);
    const endings = changes.length === 0 ? [] : await this.#requireAttachment().settle(changes, receiver.session);
    receiver.acknowledged(changes);
    if (endings.length > 0) {
      const seqs = this.#forgetReserved(endings);
      for (const other of this.#receivers.values()) if (other !== receiver) other.settledElsewhere(seqs);
    }
    return endings.length;
  }

  async read(request: { readonly after: Seq; readonly limit: number; readonly maxBytes: number; readonly session: SessionId }): Promise<Page> {
    const page = await this.#requireAttachment().read(request);
    this.#advance(page.upto);
    return page;
  }

  held(receiver: Receiver): Promise<readonly Seq[]> {
    return this.#requireAttachment().held(receiver.id, receiver.session);
  }

  async releaseHeld(receiver: Receiver, above: Seq): Promise<void> {
    await this.#requireAttachment().settle([{ kind: "released", receiver: receiver.id, above }], receiver.session);
  }

  async detach(): Promise<void> {
    await this.#attachment?.detach();
  }

  deliver(entries: readonly Entry[]): void {
    const before = this.#head;
    const reserving = this.#reserving;
    if (reserving && this.isReserving) for (const { id, seq } of entries) this.#reserve(reserving, id, seq);
    const deliveries = entries.map(writeDelivery);
    this.#advance(entries.at(-1)?.seq ?? before);
    for (const receiver of this.#receivers.values()) receiver.offer(before, deliveries, this.#head);
  }

  ended(endings: readonly Ended[]): void {
    const seqs = this.#forgetReserved(endings);
    // A number can be given and ended at once: a message that expired as it was accepted was never delivered.
    for (const seq of seqs) this.#advance(seq);
    for (const receiver of this.#receivers.values()) receiver.settledElsewhere(seqs);
  }

  lost(cause: HandoverError): void {
    this.#onLost(this, cause);
  }

  /** A message with TTL 0 is about to be stored. */
  announce(id: MessageId): void {
    this.#reserving ??= new Reserving();
    this.#reserving.announced.set(id, performance.now());
  }

  isFor(receiver: Receiver, seq: Seq): boolean {
    return this.#reserving?.reserved.get(seq)?.has(keyOf(receiver)) ?? true;
  }

  notFor(receiver: Receiver): readonly Seq[] {
    return [...(this.#reserving?.reserved ?? [])].flatMap(([seq, receivers]) => (receivers.has(keyOf(receiver)) ? [] : seq));
  }

  /** Keeps a message with TTL 0 for those who are live when it is stored, under whatever number it comes again. */
  #reserve({ announced, reserved, reservedAt }: Reserving, id: MessageId, seq: Seq): void {
    const former = reservedAt.get(id) ?? 0;
    let receivers = reserved.get(former);
    if (announced.delete(id)) {
      receivers = new Set([...this.#receivers.values()].filter(isLive).map(keyOf));
    }
    if (!receivers) return;
    reserved.delete(former);
    reserved.set(seq, receivers);
    reservedAt.set(id, seq);
  }

  #forgetReserved(endings: readonly Ended[]): Seq[] {
    return endings.map(({ id, seq }) => {
      this.#reserving?.reserved.delete(this.#reserving.reservedAt.get(id) ?? seq);
      this.#reserving?.reservedAt.delete(id);
      return seq;
    });
  }

  #advance(seq: Seq): void {
    this.#head = Math.max(this.#head, seq);
  }

  #requireAttachment(): Attachment {
    if (!this.#attachment) throw new HandoverError("store-unavailable", "The mailbox is not open yet; try again.");
    return this.#attachment;
  }
}
