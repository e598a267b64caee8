/**
 * One session value of x0 and the pages that poll with it.
 *
 * To the hub it is one receiver, whose link stays open from poll to poll. To the pages it is a short list: each page that has polled within the last
 * seconds is given every message on it, one an answer, whichever page settles it first. A page is known by nothing but the order of its polls
 * (processed.ts says which poll follows which answer), so it is a guess here and never leaves this file.
 * @module
 */
import { performance } from "node:perf_hooks";
import { asHandoverError, HandoverError } from "../../errors.ts";
import type { Epoch, ReceiverId, Seq, ServerFrame, UserIdentity } from "../../protocol.ts";
import type { Gateway } from "../../transport.ts";
import { hashOf, readDelivery } from "./event.ts";
import { Feed } from "./feed.ts";
import { type Answer, Gaps, MOST_LATE, nextOfPageLoad, nextOfSession, type Opening, type Verdict } from "./processed.ts";
import { NOTHING, writeMessage } from "./wire.ts";

/** A page that has not polled for this long is not waited for: what others settled is forgotten, and the link to the hub is closed. */
const RECENT_MS = 5_000;
/** What a page was handed and has not acknowledged is remembered for this long, so that a very slow page gets past it in the end. */
const REMEMBERED_MS = 600_000;
/** How long a page waits for another one of its value. A busy machine's pages are late by more than what counts as late in processed.ts. */
const LEAD_MS = 1_000;
const MAX_ENTRIES = 64;
const MAX_LENGTH = 1_048_576;
/** More pages than a person has. */
const MAX_PAGES = 100;
const REOPEN_MS = 1_000;

/** A message on its way to the pages. */
interface Entry {
  readonly text: string;
  readonly expiresAtMs: number;
  /** It has ended: it is for the pages that were there, not for new ones. */
  isSettled: boolean;
}

/** What a page was answered last, and has not been heard of since. */
interface Handed extends Answer {
  /** Undefined: there was nothing. */
  readonly seq: Seq | undefined;
  readonly epoch: Epoch | undefined;
}

interface Page {
  poll: WaitingPoll | undefined;
  answer: Handed | undefined;
  seenAtMs: number;
  /** What it has processed of what is on the list. */
  readonly had: Set<Seq>;
}

interface WaitingPoll {
  readonly opening: Opening;
  finish(text: string, handed: Handed): void;
}

/** A poll in the hands of a session. */
export interface SessionPoll {
  /** The body of the answer. Never rejects. */
  readonly answer: Promise<string>;
  /** There is nothing to say, and the time is up. */
  expire(): void;
  /** The last byte of the answer was handed to the system. */
  written(): void;
  /** The client has gone; before the answer: nothing is handed to it. */
  abandon(): void;
}

export class X0Session {
  readonly #gateway: Gateway;
  readonly #receiver: ReceiverId;
  readonly #onError: (error: HandoverError) => void;
  readonly #gaps = new Gaps();
  readonly #late = new Map<Seq, number>();
  readonly #entries = new Map<Seq, Entry>();
  #pages: Page[] = [];
  #identity: UserIdentity;
  #feed: Feed | undefined;
  #epoch: Epoch | undefined;
  #length = 0;
  #isDraining = false;
  #waiting: NodeJS.Timeout | undefined;
  #seenAtMs = performance.now();

  /** @param value  as the page says it */
  constructor(gateway: Gateway, value: string, identity: UserIdentity, onError: (error: HandoverError) => void) {
    this.#gateway = gateway;
    this.#receiver = `x0:${hashOf(value)}` as ReceiverId;
    this.#identity = identity;
    this.#onError = onError;
  }

  /**
   * Takes a poll: what it acknowledges is settled, and it is answered as soon as there is a message for its page.
   * @param isPageLoad  no two page loads have this value
   * @throws HandoverError rate-limited, when too many pages poll with this value
   */
  poll(identity: UserIdentity, opening: Opening, connection: Opening["connection"], isPageLoad: boolean): SessionPoll {
    this.#identity = identity;
    const page = this.#pageOf(opening, isPageLoad);
    page.answer = undefined;
    let resolve: (text: string) => void = () => {};
    const answer = new Promise<string>((settle) => {
      resolve = settle;
    });
    let handed: Handed | undefined;
    const poll: WaitingPoll = {
      opening: { ...opening, connection },
      finish: (text, what) => {
        handed = what;
        if (page.poll === poll) page.poll = undefined;
        page.answer = what;
        this.#touch(page);
        resolve(text);
      },
    };
    page.poll = poll;
    this.#touch(page);
    this.#open();
    this.#serveAll();
    return {
      answer,
      expire: () => {
        if (page.poll === poll) poll.finish(NOTHING, this.#handed(poll, undefined));
      },
      written: () => {
        if (handed) handed.writtenAtMs = performance.now();
        connection.carried.add(this);
        this.#touch(page);
      },
      abandon: () => {
        this.#touch(page);
        if (page.poll !== poll) return;
        page.poll = undefined;
        resolve(NOTHING);
      },
    };
  }

  /**
   * Settles what was handed to the pages of this session, all of its bytes, and has not been acknowledged. Durable when it resolves.
   * @throws HandoverError store-unavailable
   */
  async acknowledgeHanded(): Promise<void> {
    await Promise.all(this.#pages.flatMap((page) => (page.answer?.writtenAtMs === undefined ? [] : this.#confirm(page, page.answer))));
  }

  /** Gives nothing more, and answers every poll that is held: what a page is handed now it would acknowledge to nobody. */
  drain(): void {
    this.#isDraining = true;
    this.#answerAll();
  }

  /** Forgets pages that have gone; called now and then. @returns whether anything is left to remember */
  sweep(nowMs: number): boolean {
    this.#pages = this.#pages.filter(
      ({ poll, answer, seenAtMs }) => poll || nowMs - seenAtMs < (answer?.seq === undefined ? RECENT_MS : REMEMBERED_MS),
    );
    if (!this.#pages.some((page) => isRecent(page, nowMs))) this.#close();
    else this.#drop();
    return this.#pages.length > 0 || nowMs - this.#seenAtMs < 60_000;
  }

  #answerAll(): void {
    for (const { poll } of this.#pages) poll?.finish(NOTHING, this.#handed(poll, undefined));
  }

  #touch(page: Page): void {
    page.seenAtMs = performance.now();
    this.#seenAtMs = page.seenAtMs;
  }

  /** The page that this poll comes from, as far as one can know; what it says about the page's last answer is carried out. */
  #pageOf(opening: Opening, isPageLoad: boolean): Page {
    // Sent again by the browser, while the first of the two is still held on a connection that is gone.
    const repeated = opening.request && this.#pages.find(({ poll }) => poll?.opening.request === opening.request);
    if (repeated) {
      repeated.poll?.finish(NOTHING, this.#handed(repeated.poll, undefined));
      return repeated;
    }
    // The one that has waited longest first: of several it is the likeliest.
    const away = this.#pages.filter(({ poll }) => !poll).sort((one, other) => (one.answer?.writtenAtMs ?? 0) - (other.answer?.writtenAtMs ?? 0));
    const verdictOf = (answer: Answer): Verdict =>
      isPageLoad ? nextOfPageLoad(answer, opening) : nextOfSession(answer, opening, this, this.#gaps.limitMs);
    let late: Page | undefined;
    let other: Page | undefined;
    for (const page of away) {
      const verdict = page.answer ? verdictOf(page.answer) : "other";
      if (page.answer && verdict === "next") {
        this.#processed(page, page.answer, opening);
        return page;
      }
      if (verdict === "late") late ??= page;
      // A page whose answer is on its way, unharmed, is not this one.
      else if (!page.answer?.connection.isOpen || (opening.request && page.answer.request === opening.request)) other ??= page;
    }
    if (late?.answer) this.#came(late, late.answer, opening);
    return late ?? other ?? this.#newPage();
  }

  /** A poll that may be the next one, or a reloaded page's. */
  #came(page: Page, answer: Handed, opening: Opening): void {
    if (answer.seq === undefined) {
      // Nothing can be lost by it, so it is a good measure of how late this page's polls are.
      if (opening.connection.carried.has(this)) this.#gaps.add(opening.atMs - (answer.writtenAtMs ?? 0));
      return;
    }
    const times = (this.#late.get(answer.seq) ?? 0) + 1;
    this.#late.set(answer.seq, times);
    if (times >= MOST_LATE) this.#processed(page, answer, opening);
  }

  #processed(page: Page, answer: Handed, opening: Opening): void {
    this.#gaps.add(opening.atMs - (answer.writtenAtMs ?? 0));
    this.#confirm(page, answer).catch((thrown: unknown) => {
      this.#onError(asHandoverError(thrown));
      // Not settled, so it comes again, with everything else that is not.
      this.#close();
      this.#reopen();
    });
  }

  async #confirm(page: Page, { seq, epoch }: Handed): Promise<void> {
    page.answer = undefined;
    if (seq === undefined) return;
    this.#late.delete(seq);
    const entry = epoch === this.#epoch ? this.#entries.get(seq) : undefined;
    if (entry) page.had.add(seq);
    if (entry?.isSettled) this.#drop();
    else {
      if (entry) entry.isSettled = true;
      this.#drop();
      await this.#gateway.acknowledge(this.#identity, { receiver: this.#receiver, epoch, cursor: seq, seqs: [seq] });
    }
  }

  #newPage(): Page {
    const page: Page = { poll: undefined, answer: undefined, seenAtMs: 0, had: new Set() };
    for (const [seq, { isSettled }] of this.#entries) if (isSettled) page.had.add(seq);
    this.#makeRoom();
    this.#pages.push(page);
    return page;
  }

  /** Forgets the page that has been away for longest. */
  #makeRoom(): void {
    if (this.#pages.length < MAX_PAGES) return;
    const [oldest] = this.#pages.filter(({ poll }) => !poll).sort((one, other) => one.seenAtMs - other.seenAtMs);
    // Answering one of those that poll would push them all round: its page asks again at once.
    if (!oldest) throw new HandoverError("rate-limited", `${MAX_PAGES} pages poll with this session value already; give each person another.`);
    this.#pages.splice(this.#pages.indexOf(oldest), 1);
  }

  #handed({ opening: { request, connection } }: WaitingPoll, seq: Seq | undefined): Handed {
    return { request, connection, writtenAtMs: undefined, seq, epoch: this.#epoch };
  }

  #serveAll(): void {
    for (const page of this.#pages) this.#serve(page);
  }

  /** Gives a page that polls the first message that it has not had. One an answer: one that its client cannot handle aborts the rest. */
  #serve(page: Page): void {
    const { poll } = page;
    if (!poll || this.#isDraining) return;
    for (const [seq, entry] of this.#entries) {
      if (page.had.has(seq)) continue;
      if (entry.expiresAtMs <= Date.now()) {
        this.#forget(seq, entry);
        continue;
      }
      const waitMs = this.#leadMs(seq);
      if (waitMs > 0) this.#serveIn(waitMs);
      else poll.finish(writeMessage(entry.text), this.#handed(poll, seq));
      return;
    }
  }

  /**
   * How long a page must wait before it may have this message, because another is still at work on a different one. Pages of one value are told apart
   * by guessing: as long as all of them are at the same message, a wrong guess does no harm; of one that is ahead, the next poll could be taken for
   * the other's, and that one would miss what it has not had.
   */
  #leadMs(seq: Seq): number {
    const now = performance.now();
    let waitMs = 0;
    for (const { poll, answer } of this.#pages) {
      if (poll || answer?.seq === undefined || answer.seq === seq || !answer.connection.isOpen) continue;
      waitMs = Math.max(waitMs, (answer.writtenAtMs ?? now) + LEAD_MS - now);
    }
    return waitMs;
  }

  #serveIn(ms: number): void {
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => this.#serveAll(), Math.ceil(ms));
    this.#waiting.unref();
  }

  /** Takes what every page that is there has had off the list. */
  #drop(): void {
    const now = performance.now();
    const pages = this.#pages.filter((page) => isRecent(page, now));
    for (const [seq, entry] of this.#entries) if (entry.isSettled && pages.every(({ had }) => had.has(seq))) this.#forget(seq, entry);
    if (!this.#isFull) this.#feed?.drained();
  }

  #forget(seq: Seq, entry: Entry): void {
    this.#entries.delete(seq);
    this.#length -= entry.text.length;
    for (const { had } of this.#pages) had.delete(seq);
  }

  get #isFull(): boolean {
    return this.#entries.size >= MAX_ENTRIES || this.#length >= MAX_LENGTH;
  }

  #open(): void {
    if (this.#feed || this.#isDraining) return;
    const feed = new Feed(
      (frame) => this.#received(frame),
      (reason) => {
        if (this.#feed !== feed) return;
        this.#close();
        if (reason.code === "session-ended") this.#answerAll();
        // Asking again would not help.
        else if (reason.status !== 401) this.#reopen();
      },
    );
    this.#feed = feed;
    feed.open(this.#gateway, this.#identity, this.#receiver).catch((thrown: unknown) => feed.close(asHandoverError(thrown)));
  }

  /** There is no link to the hub any more: the polls stay held, and it is tried again. */
  #reopen(): void {
    const again = setTimeout(() => {
      if (this.#pages.some(({ poll }) => poll)) this.#open();
    }, REOPEN_MS);
    again.unref();
  }

  #close(): void {
    const feed = this.#feed;
    this.#feed = undefined;
    feed?.end();
    this.#entries.clear();
    this.#length = 0;
    for (const { had } of this.#pages) had.clear();
  }

  #received(frame: ServerFrame): boolean {
    if (frame.op === "ready") {
      if (this.#epoch !== frame.epoch) this.#late.clear();
      this.#epoch = frame.epoch;
    } else if (frame.op === "settled") {
      for (const seq of frame.seqs) {
        const entry = this.#entries.get(seq);
        if (entry) entry.isSettled = true;
      }
      this.#drop();
    } else if (frame.op === "deliver") {
      const others: Seq[] = [];
      for (const delivery of frame.deliveries) {
        const { seq, text, expiresAtMs } = readDelivery(delivery);
        if (text === undefined) others.push(seq);
        else {
          this.#entries.set(seq, { text, expiresAtMs, isSettled: false });
          this.#length += text.length;
        }
      }
      if (others.length > 0) this.#hold(others);
      this.#serveAll();
    }
    return !this.#isFull;
  }

  /** What is not x0's stays in the mailbox for who knows it, and takes no room here. */
  #hold(seqs: Seq[]): void {
    this.#gateway
      .acknowledge(this.#identity, { receiver: this.#receiver, epoch: this.#epoch, cursor: undefined, hold: seqs })
      .catch((thrown: unknown) => this.#onError(asHandoverError(thrown)));
  }
}

function isRecent({ poll, seenAtMs }: Page, nowMs: number): boolean {
  return poll !== undefined || nowMs - seenAtMs < RECENT_MS;
}
