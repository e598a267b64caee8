/**
 * One user's mailbox as this node sees it: the engine's live tail on one side, the user's receivers on the other.
 * @module
 */
import type { Attachment, Ended, Engine, Entry, MailboxEvents, Page } from "./engine.ts";
import { HandoverError } from "./errors.ts";
import { type AckForms, type Epoch, type ReceiverId, type Seq, type SessionId, type UserId, writeDelivery } from "./protocol.ts";
import { type ReadableMailbox, Receiver, type SharedDelivery } from "./receiver.ts";

/** How long a receiver is remembered after its last poll, and after its last connection (PROTOCOL.md, "The model"). */
const LIVE_AFTER_POLL_MS = 30_000;
const REMEMBERED_MS = 90_000;

export class Mailbox implements MailboxEvents, ReadableMailbox {
  readonly user: UserId;
  readonly #onLost: (mailbox: Mailbox, cause: HandoverError) => void;
  readonly #receivers = new Map<string, Receiver>();
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

  receivers(): IterableIterator<Receiver> {
    return this.#receivers.values();
  }

  /** Whether a receiver (of that session, if one is named) is live: it has a link, or polled within the last 30 s. */
  isLive(session: SessionId | undefined, nowMs: number): boolean {
    for (const receiver of this.#receivers.values()) {
      if (session !== undefined && receiver.session !== session) continue;
      if (receiver.isConnected || (receiver.polls && nowMs - receiver.seenAtMs < LIVE_AFTER_POLL_MS)) return true;
    }
    return false;
  }

  receiver(id: ReceiverId, session: SessionId): Receiver | undefined {
    return this.#receivers.get(`${session} ${id}`);
  }

  addReceiver(id: ReceiverId, session: SessionId): Receiver {
    const receiver = new Receiver(id, session, this);
    this.#receivers.set(`${session} ${id}`, receiver);
    return receiver;
  }

  /** Forgets receivers that have been away for long. Their mail stays; should they come back, their cursor says where they were. */
  forgetAbsent(nowMs: number): void {
    for (const [key, receiver] of this.#receivers) {
      const remembered = receiver.polls ? LIVE_AFTER_POLL_MS : REMEMBERED_MS;
      if (!receiver.isConnected && nowMs - receiver.seenAtMs >= remembered) this.#receivers.delete(key);
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
    const changes = receiver.settlements(forms, cursor);
    const endings = changes.length === 0 ? [] : await this.#requireAttachment().settle(changes, receiver.session);
    receiver.acknowledged(changes);
    if (endings.length > 0) {
      const seqs = endings.map(({ seq }) => seq);
      for (const other of this.#receivers.values()) if (other !== receiver) other.settledElsewhere(seqs);
    }
    return endings.length;
  }

  async read(request: { readonly after: Seq; readonly limit: number; readonly maxBytes: number; readonly session: SessionId }): Promise<Page> {
    const page = await this.#requireAttachment().read(request);
    this.#advance(page.upto);
    return page;
  }

  async detach(): Promise<void> {
    await this.#attachment?.detach();
  }

  deliver(entries: readonly Entry[]): void {
    const before = this.#head;
    const deliveries: SharedDelivery[] = entries.map((entry) => ({ ...writeDelivery(entry), session: entry.session }));
    this.#advance(entries.at(-1)?.seq ?? before);
    for (const receiver of this.#receivers.values()) receiver.offer(before, deliveries, this.#head);
  }

  ended(endings: readonly Ended[]): void {
    const seqs = endings.map(({ seq }) => seq);
    // A number can be given and ended at once: a message that expired as it was accepted was never delivered.
    this.#advance(Math.max(...seqs));
    for (const receiver of this.#receivers.values()) receiver.settledElsewhere(seqs);
  }

  lost(cause: HandoverError): void {
    this.#onLost(this, cause);
  }

  #advance(seq: Seq): void {
    this.#head = Math.max(this.#head, seq);
  }

  #requireAttachment(): Attachment {
    if (!this.#attachment) throw new HandoverError("store-unavailable", "The mailbox is not open yet; try again.");
    return this.#attachment;
  }
}
