/**
 * From delivery to handler to acknowledgement. What becomes of a message:
 *
 * - all its handlers' promises resolve: it is acknowledged, and remembered, so that a repeat is acknowledged and not handled again;
 * - one rejects: it comes again after 1 s, 2 s, 4 s … at most 60 s, to all its handlers;
 * - they take longer than they may: as if one had rejected, so that its place is free for others;
 * - no handler wants its type: it is held; a handler that is registered later gets it;
 * - it comes again while it is being handled: what its handlers say settles the newest entry.
 * @module
 */
import { Acks } from "./acks.ts";
import { alarm } from "./backoff.ts";
import { HandoverError } from "./error.ts";
import { isRecord, isSeq, listOf } from "./json.ts";
import { Listeners, type Report } from "./listeners.ts";
import { type Message, readMessage } from "./message.ts";
import { forgetOldest, Seen } from "./seen.ts";
import type { Mail, Position } from "./wire.ts";

/** Processes a message; acknowledged when what it returns is resolved. */
export type Handler<T> = (message: Message<T>) => unknown;

/** A message of this page that was settled, by another reader or in another way. */
export type Settled = Pick<Message, "source" | "id" | "type">;

interface InboxOptions {
  readonly window: number;
  /** 0: however long they like. */
  readonly handlerTimeoutMs: number;
  readonly warn: (text: string) => void;
  readonly report: Report;
}

/** What the types of answers begin with. */
export const REPLY = "reply.";

/** Messages whose processing is remembered. */
const MAX_SEEN = 10_000;
/** Messages that wait for a handler; beyond, the oldest is forgotten here and stays in the mailbox for the next page. */
const MAX_HELD = 1_000;
/** Entries for which a `settled` is understood. */
const MAX_KNOWN = 1_000;
const MAX_RETRY_SECONDS = 60;

interface Entry {
  readonly handle: Handler<never>;
  /** Wants one message: while it has it in hand it is busy, and gets no other. */
  readonly isOnce: boolean;
  isBusy: boolean;
  readonly off: () => void;
}

/** A message in hand. */
interface InHand {
  readonly key: string;
  message: Message;
  /** Its newest entry in the current epoch; undefined: none yet. */
  seq: number | undefined;
}

export class Inbox implements Mail {
  readonly settledElsewhere: Listeners<Settled>;
  readonly acks: Acks;
  readonly #report: Report;
  readonly #warn: (text: string) => void;
  readonly #window: number;
  readonly #handlerTimeoutMs: number;
  readonly #handlers = new Map<string, Set<Entry>>();
  /** Types of which the developer was told that nobody wants them. */
  readonly #warned = new Seen(MAX_KNOWN);
  readonly #running = new Map<string, InHand>();
  readonly #held = new Map<string, InHand>();
  #seen = new Seen(MAX_SEEN);
  readonly #failed = new Seen(MAX_SEEN);
  readonly #known = new Map<number, Settled>();
  #epoch: string | undefined;
  #cursor = 0;
  #roomWaiters: (() => void)[] = [];
  #isClosed = false;

  constructor({ window, handlerTimeoutMs, warn, report }: InboxOptions) {
    this.#window = window;
    this.#handlerTimeoutMs = handlerTimeoutMs;
    this.#warn = warn;
    this.#report = report;
    this.acks = new Acks(report);
    this.settledElsewhere = new Listeners(report);
  }

  /**
   * Registers a handler, and gives it what was held for its type, in order.
   * @param isOnce  whether it is taken away when it has processed a message
   * @returns a function that takes it away again
   */
  on(type: string, handle: Handler<never>, isOnce = false): () => void {
    const handlers = this.#handlers.get(type) ?? new Set();
    const off = () => void handlers.delete(entry);
    const entry: Entry = { handle, isOnce, isBusy: false, off };
    this.#handlers.set(type, handlers.add(entry));
    // After this turn, so that all handlers that the page registers together get it.
    queueMicrotask(() => this.#offer(type));
    return off;
  }

  /** Gives what is held to the handlers that there are by now. */
  #offer(type: string): void {
    for (const inHand of [...this.#held.values()]) if (type === "*" || type === inHand.message.type) this.#start(inHand);
  }

  /** Takes nothing more. */
  close(): void {
    this.#isClosed = true;
  }

  /** The user is another one: begins anew. What is being handled is finished, and nothing is said of it any more. */
  forget(): void {
    this.#epoch = undefined;
    this.#seen = new Seen(MAX_SEEN);
    this.#held.clear();
    this.#running.clear();
    this.#restart();
    this.#makeRoom();
  }

  position(): Position {
    return { epoch: this.#epoch, cursor: this.#cursor, window: this.#window };
  }

  async room(): Promise<number> {
    while (this.#running.size >= this.#window) await new Promise<void>((resolve) => this.#roomWaiters.push(resolve));
    return this.#window - this.#running.size;
  }

  begin(epoch: string, head: number): void {
    // Below what we have: a store that was put back. Everything unsettled comes again; repeats are dropped by name.
    if (epoch === this.#epoch && head >= this.#cursor) return;
    this.#epoch = epoch;
    this.#restart();
  }

  #restart(): void {
    this.#cursor = 0;
    this.acks.begin(this.#epoch);
    this.#known.clear();
    for (const inHand of [...this.#running.values(), ...this.#held.values()]) inHand.seq = undefined;
  }

  deliver(deliveries: unknown): void {
    if (this.#isClosed) return;
    for (const delivery of listOf(deliveries)) {
      if (!isRecord(delivery) || !isSeq(delivery.seq)) continue;
      this.advance(delivery.seq);
      const message = readMessage(delivery.event, delivery.deliveryCount);
      if (message) this.#receive(delivery.seq, message);
    }
  }

  advance(to: unknown): void {
    if (isSeq(to) && to > this.#cursor) this.#cursor = to;
  }

  settled(seqs: unknown): void {
    for (const seq of listOf(seqs)) {
      const message = this.#known.get(seq as number);
      if (!message) continue;
      this.#known.delete(seq as number);
      this.#held.delete(keyOf(message));
      this.settledElsewhere.tell(message);
    }
  }

  #receive(seq: number, message: Message): void {
    const key = keyOf(message);
    let inHand = this.#running.get(key) ?? this.#held.get(key);
    const isNew = !inHand;
    inHand ??= { key, message, seq };
    inHand.seq = seq;
    inHand.message = message;
    const { source, id, type } = message;
    this.#known.set(seq, { source, id, type });
    forgetOldest(this.#known, MAX_KNOWN);
    if (this.#seen.has(key)) this.acks.add(seq, "acked");
    else if (isNew) this.#start(inHand);
    else if (this.#held.has(key)) this.acks.add(seq, "held");
  }

  /** Calls the handlers, all at once and without waiting for those of other messages. */
  #start(inHand: InHand): void {
    const { key, message } = inHand;
    const handlers = [message.type, "*"].flatMap((type) => [...(this.#handlers.get(type) ?? [])]).filter(({ isBusy }) => !isBusy);
    if (handlers.length === 0) this.#hold(inHand);
    if (handlers.length === 0 || this.#isClosed) return;
    this.#held.delete(key);
    this.#running.set(key, inHand);
    for (const entry of handlers) entry.isBusy = entry.isOnce;
    const seen = this.#seen;
    const timeoutMs = this.#handlerTimeoutMs;
    const failed = (error: unknown) => {
      unwatch();
      for (const entry of handlers) entry.isBusy = false;
      // It may have been given back already, for taking too long.
      if (this.#running.get(key) === inHand) this.#failedBy(inHand, error);
      // One that wants a single message wants it still.
      this.#offer("*");
    };
    const tooLate = () => failed(new HandoverError("handler-timeout", `A handler took over ${timeoutMs} ms.`));
    const unwatch = timeoutMs > 0 ? alarm(timeoutMs, tooLate) : () => {};
    // The async wrapper turns a throw into a rejection; the handler itself is called at once.
    Promise.all(handlers.map(async ({ handle }) => handle(message as Message<never>))).then(() => {
      unwatch();
      for (const { isOnce, off } of handlers) if (isOnce) off();
      // After its time too: when it comes again it is not processed again.
      seen.add(key);
      if (this.#running.get(key) === inHand) this.#done(inHand, "acked");
    }, failed);
  }

  #hold(inHand: InHand): void {
    const { type } = inHand.message;
    if (this.#held.has(inHand.key)) return;
    this.#held.set(inHand.key, inHand);
    // An answer that nobody waits for any more, or another tab does, is nothing to mend.
    if (!type.startsWith(REPLY) && this.#warned.add(type)) this.#warn(`Nothing handles "${type}" here: it waits.`);
    if (inHand.seq !== undefined) this.acks.add(inHand.seq, "held");
    forgetOldest(this.#held, MAX_HELD);
  }

  #failedBy(inHand: InHand, error: unknown): void {
    this.#done(inHand, { retryAfter: Math.min(2 ** (inHand.message.deliveryCount - 1), MAX_RETRY_SECONDS) });
    // Told once a message, not at each of its tries.
    if (this.#failed.add(inHand.key)) this.#report(error, inHand.message);
  }

  #done(inHand: InHand, verdict: "acked" | { readonly retryAfter: number }): void {
    this.#running.delete(inHand.key);
    // Without an entry in this epoch there is nothing to settle yet: the repeat will bring one.
    if (inHand.seq !== undefined) this.acks.add(inHand.seq, verdict);
    this.#makeRoom();
  }

  #makeRoom(): void {
    for (const wake of this.#roomWaiters.splice(0)) wake();
  }
}

/** `source` and `id` together name a message for ever; neither holds a space. */
function keyOf({ source, id }: Settled): string {
  return `${source} ${id}`;
}
