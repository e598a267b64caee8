/**
 * One reader of a mailbox. It outlives its links: a poll, a reconnect or a change of transport finds the same window.
 *
 * Nothing is queued here. A receiver is a position in its mailbox; what its window or its link cannot take now stays in the engine
 * and is read from there when there is room. So what one tab leaves lying costs memory nowhere and stops nobody.
 * @module
 */
import type { Gap, Page, Settlement } from "./engine.ts";
import { asHandoverError, HandoverError } from "./errors.ts";
import { type AckForms, type Delivery, PROTOCOL, type ReceiverId, type Seq, type SessionId, writeDelivery } from "./protocol.ts";
import type { Link } from "./transport.ts";

/** A `settled` is a hint; of a receiver that is away no more than this many are kept. */
const MAX_UNTOLD = 1_000;
/** Bound of what one receiver may hold: more than a mailbox can have. */
const MAX_HELD = 20_000;

/** What most receivers hold and have in flight, most of the time; nothing is added to it ({@link withSeq}). */
const NONE = new Set<Seq>();

/** Where a receiver reads: its mailbox, as far as it needs to know it. */
export interface ReadableMailbox {
  /** The last number given. */
  readonly head: Seq;
  read(request: { readonly after: Seq; readonly limit: number; readonly maxBytes: number; readonly session: SessionId }): Promise<Page>;
  /** Whether an entry is for this receiver: one with TTL 0 is for those only that were live at its acceptance. */
  isFor(receiver: Receiver, seq: Seq): boolean;
  /** The entries that are not. */
  notFor(receiver: Receiver): readonly Seq[];
  /** What the receiver holds, as the engine remembers it. */
  held(receiver: Receiver): Promise<readonly Seq[]>;
  /** It holds nothing above a number any more; durable when it resolves. */
  releaseHeld(receiver: Receiver, above: Seq): Promise<void>;
}

export class Receiver {
  readonly id: ReceiverId;
  readonly session: SessionId;
  readonly #mailbox: ReadableMailbox;
  #link: Link | undefined;
  /** The number up to which this receiver has been handed its mail. */
  #position: Seq = 0;
  /** The client's word: it has received everything up to here. */
  #claimed: Seq = 0;
  #window: number = PROTOCOL.defaultWindow;
  /** Handed, neither settled nor held. */
  #inFlight = NONE;
  /** Handed, and left unsettled on purpose: outside the window. The engine remembers it too, and longer. */
  #held = NONE;
  #recalling: Promise<void> | undefined;
  #hasRecalled = false;
  /** Nothing is read for the link that comes before what it is handed again is released. */
  #isOpening = false;
  #untold: Seq[] = [];
  /** A receiver that never had anything is not told what it missed. */
  #gapsFrom: Seq = 0;
  #isBlocked = false;
  #reading: Promise<void> | undefined;
  /** By the clock that nobody sets: the time of day can jump. */
  #seenAtMs = performance.now();
  #isReturning = false;
  #transport: Link["kind"] | undefined;

  constructor(id: ReceiverId, session: SessionId, mailbox: ReadableMailbox) {
    this.id = id;
    this.session = session;
    this.#mailbox = mailbox;
  }

  /** The number up to which `link` has been handed the mail; undefined when it is not this receiver's any more. */
  positionOf(link: Link): Seq | undefined {
    return this.#link === link ? this.#position : undefined;
  }

  get isConnected(): boolean {
    return this.#link !== undefined;
  }

  /** When its last link ended, or when it was first heard of, ms by `performance.now()`. */
  get seenAtMs(): number {
    return this.#seenAtMs;
  }

  /** What its last link was; undefined before the first. */
  get transport(): Link["kind"] | undefined {
    return this.#transport;
  }

  /** Whether its last link was a poll: between polls such a receiver is away only to come back. */
  get polls(): boolean {
    return this.#transport === "poll";
  }

  /** Whether the server ended its last link in order to see it come back. */
  get isReturning(): boolean {
    return this.#isReturning;
  }

  /**
   * Takes a new link, in place of the one it had, and sends it what is waiting, as far as the window allows.
   * @param cursor  what the client has received, or undefined for a receiver that starts from the beginning
   */
  async open(link: Link, cursor: Seq | undefined, window: number): Promise<void> {
    const older = this.#link;
    this.#link = link;
    older?.close(new HandoverError("replaced", "A newer connection of the same receiver took over."));
    this.#transport = link.kind;
    this.#window = Math.min(window, PROTOCOL.maxWindow);
    this.#isBlocked = false;
    this.#position = cursor ?? 0;
    this.#claimed = this.#position;
    this.#gapsFrom = cursor ?? this.#mailbox.head;
    // What it was handed above its cursor it has not received: it is handed out again, so it is not in flight now. A poll's window is its
    // own answer.
    for (const seq of this.#inFlight) if (this.polls || seq > this.#position) this.#inFlight.delete(seq);
    this.#isOpening = true;
    try {
      if (!this.#hasRecalled) await this.recall();
      if (this.#held.size > 0 && this.#link === link) await this.#releaseAbove(cursor ?? 0);
    } catch (thrown) {
      if (this.#link === link) this.disconnect(asHandoverError(thrown));
    }
    // A newer link opens on its own.
    if (this.#link === link) this.#isOpening = false;
    if (this.#reading || this.#wantsMore()) await this.catchUp();
    if (!this.#reading) this.#tell();
  }

  /**
   * Remembers what it held before this node knew it. To be awaited before {@link settlements}.
   * @throws HandoverError store-unavailable
   */
  recall(): Promise<void> {
    this.#recalling ??= this.#mailbox.held(this).then(
      (seqs) => {
        for (const seq of seqs) this.#held = withSeq(this.#held, seq);
        this.#hasRecalled = true;
      },
      (thrown: unknown) => {
        this.#recalling = undefined;
        throw thrown;
      },
    );
    return this.#recalling;
  }

  /** What is handed again is held no longer. */
  async #releaseAbove(above: Seq): Promise<void> {
    const released = [...this.#held].filter((seq) => seq > above);
    if (released.length === 0) return;
    await this.#mailbox.releaseHeld(this, above);
    for (const seq of released) this.#held.delete(seq);
  }

  /** Ends `link`, if it is still this receiver's. @param isReturning  its client comes back at once, by itself */
  close(link: Link, isReturning = false): void {
    if (this.#link !== link) return;
    this.#link = undefined;
    this.#seenAtMs = performance.now();
    this.#isReturning = isReturning;
  }

  /** Closes the link from this side. */
  disconnect(reason: HandoverError): void {
    const link = this.#link;
    if (!link) return;
    this.close(link);
    link.close(reason);
  }

  /** Tells the client that the server is about to stop. @param delaySeconds  time over which clients should spread their return */
  drain(delaySeconds: number): void {
    this.#link?.send({ op: "drain", delay: delaySeconds });
  }

  /** The link takes frames again. */
  drained(link: Link): Promise<void> {
    if (this.#link === link) this.#isBlocked = false;
    return this.catchUp();
  }

  /** New entries at the end of the mailbox. @param before  the mailbox's head before them */
  offer(before: Seq, deliveries: readonly Delivery[], head: Seq): void {
    if (!this.#link || this.#reading || this.#isBlocked) return;
    if (this.#position < before || head - before > deliveries.length) {
      // Behind, or a number between them was given and has ended: it reads these in their turn, and the gap.
      void this.catchUp();
      return;
    }
    this.#hand(
      deliveries.filter(
        ({ seq, session }) => seq > this.#position && (session === undefined || session === this.session) && this.#mailbox.isFor(this, seq),
      ),
      head,
    );
  }

  /** Entries that ended, not by this receiver: no longer in flight, and worth a hint if it had been handed them. */
  settledElsewhere(seqs: readonly Seq[]): void {
    for (const seq of seqs) {
      const wasInFlight = this.#inFlight.delete(seq);
      const wasHeld = this.#held.delete(seq);
      if (wasInFlight || wasHeld || seq <= this.#claimed) this.#untold.push(seq);
    }
    if (this.#untold.length > MAX_UNTOLD) this.#untold = this.#untold.slice(-MAX_UNTOLD);
    if (!this.#reading) this.#tell();
    void this.catchUp();
  }

  /**
   * Turns acknowledgements into what the engine shall do. Never more than this receiver was handed: on this node, or, up to its
   * cursor, by the client's own word.
   */
  settlements(forms: AckForms, cursor: Seq | undefined): Settlement[] {
    // A cursor above head is of other numbers than these: nothing follows from it.
    if (cursor !== undefined && cursor <= this.#mailbox.head) this.#claimed = Math.max(this.#claimed, cursor);
    const handed = Math.max(this.#position, this.#claimed);
    const wasHanded = (seq: Seq) => seq <= handed && this.#mailbox.isFor(this, seq);
    const changes: Settlement[] = [];
    const seqs = forms.seqs?.filter(wasHanded) ?? [];
    if (seqs.length > 0) changes.push({ kind: "acked", seqs });
    for (const { seq, reason } of forms.reject ?? []) if (wasHanded(seq)) changes.push({ kind: "rejected", seq, reason: reason ?? "" });
    for (const { seq, retryAfter } of forms.nack ?? []) {
      if (wasHanded(seq)) changes.push({ kind: "nacked", seq, retryAfterMs: Math.round((retryAfter ?? 0) * 1000) });
    }
    const held = forms.hold?.filter((seq) => {
      if (!wasHanded(seq) || (this.#held.size >= MAX_HELD && !this.#held.has(seq))) return false;
      this.#inFlight.delete(seq);
      // At once: an `upto` that comes before the commit spares it.
      this.#held = withSeq(this.#held, seq);
      return true;
    });
    if (held && held.length > 0) changes.push({ kind: "held", receiver: this.id, seqs: held });
    if (forms.upto !== undefined) {
      const upto = Math.min(forms.upto, handed);
      const spared = [
        ...this.#held,
        ...this.#mailbox.notFor(this),
        ...(forms.nack ?? []).map(({ seq }) => seq),
        ...(forms.reject ?? []).map(({ seq }) => seq),
      ];
      if (upto > 0) changes.push({ kind: "acked-upto", upto, except: spared.filter((seq) => seq <= upto) });
    }
    return changes;
  }

  /** The engine has done what {@link settlements} asked: there is room in the window. */
  acknowledged(changes: readonly Settlement[]): void {
    for (const change of changes) {
      if (change.kind === "acked") {
        for (const seq of change.seqs) this.#forget(seq);
      } else if (change.kind === "acked-upto") {
        for (const seq of this.#inFlight) if (seq <= change.upto) this.#inFlight.delete(seq);
      } else if (change.kind === "rejected" || change.kind === "nacked") {
        this.#forget(change.seq);
      }
    }
    void this.catchUp();
  }

  /** Sends what is waiting, as far as window and link allow. Resolves when there is nothing more to send now; never rejects. */
  catchUp(): Promise<void> {
    if (!this.#reading && this.#wantsMore()) this.#reading = this.#read();
    return this.#reading ?? Promise.resolve();
  }

  async #read(): Promise<void> {
    let link = this.#link;
    try {
      while (this.#wantsMore()) {
        link = this.#link;
        const request = { after: this.#position, limit: this.#room(), maxBytes: PROTOCOL.maxFrameBytes, session: this.session };
        const page = await this.#mailbox.read(request);
        // Another link may have come meanwhile, with a cursor of its own: what was read is not for it.
        if (this.#link === link && this.#position === request.after) this.#take(page);
      }
    } catch (thrown) {
      if (link && this.#link === link) this.disconnect(asHandoverError(thrown));
    } finally {
      this.#reading = undefined;
      this.#tell();
    }
  }

  #take(page: Page): void {
    const entries = page.entries.filter(({ seq }) => this.#mailbox.isFor(this, seq));
    let next = 0;
    for (const gap of page.gaps) {
      // Not to be told: it does not part the deliveries either.
      if (gap.to <= this.#gapsFrom) continue;
      // In the order of the numbers: first the entries below the gap, then the gap.
      const below = next;
      while (next < entries.length && (entries[next]?.seq ?? 0) < gap.from) next++;
      if (next > below && !this.#hand(entries.slice(below, next).map(writeDelivery), gap.from - 1)) return;
      this.#miss(gap);
    }
    this.#hand(entries.slice(next).map(writeDelivery), page.upto);
  }

  #miss(gap: Gap): void {
    this.#position = Math.max(this.#position, gap.to);
    if (this.#link && !this.#link.send({ op: "gap", ...gap })) this.#isBlocked = true;
  }

  /** Hands deliveries to the link, in frames of at most 1 MiB, until window or link is full. @returns whether all went */
  #hand(deliveries: readonly Delivery[], upto: Seq): boolean {
    let next = 0;
    while (next < deliveries.length) {
      if (!this.#link || this.#isBlocked) return false;
      const frame = frameOf(deliveries, next, this.#room());
      const last = frame.at(-1);
      if (!last) return false;
      next += frame.length;
      this.#position = last.seq;
      for (const { seq } of frame) this.#inFlight = withSeq(this.#inFlight, seq);
      if (!this.#link.send({ op: "deliver", deliveries: frame })) this.#isBlocked = true;
    }
    this.#position = Math.max(this.#position, upto);
    return true;
  }

  #room(): number {
    return this.#window - this.#inFlight.size;
  }

  #wantsMore(): boolean {
    return this.#link !== undefined && !this.#isOpening && !this.#isBlocked && this.#room() > 0 && this.#position < this.#mailbox.head;
  }

  #forget(seq: Seq): void {
    this.#inFlight.delete(seq);
    this.#held.delete(seq);
  }

  #tell(): void {
    if (!this.#link || this.#untold.length === 0) return;
    const seqs = this.#untold;
    this.#untold = [];
    if (!this.#link.send({ op: "settled", seqs })) this.#isBlocked = true;
  }
}

/** Adds to a set; to the empty one that all share, by making one. @returns the set that has it */
function withSeq(seqs: Set<Seq>, seq: Seq): Set<Seq> {
  return seqs === NONE ? new Set([seq]) : seqs.add(seq);
}

/** The deliveries from `start` that fit one frame: at most `room`, at most 1 MiB, at least one (if there is room). */
function frameOf(deliveries: readonly Delivery[], start: number, room: number): readonly Delivery[] {
  let bytes = 64;
  let end = start;
  while (end < deliveries.length && end - start < room) {
    const delivery = deliveries[end];
    if (!delivery) break;
    // UTF-16 units times three is the most that UTF-8 can take; exact counting is for long ones only.
    bytes += 1 + (delivery.text.length < 1024 ? delivery.text.length * 3 : Buffer.byteLength(delivery.text));
    if (bytes > PROTOCOL.maxFrameBytes && end > start) break;
    end++;
  }
  return deliveries.slice(start, end);
}
