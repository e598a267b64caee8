/**
 * The handlers of this tab, and what they have in hand. What becomes of a message for all tabs is the intake's matter (intake.ts).
 * @module
 */
import type { Parcel, Verdict } from "./intake.ts";
import { Listeners, type Report } from "./listeners.ts";
import { keyOf, type Message, type Settled } from "./message.ts";
import { MAX_SEEN, Seen } from "./seen.ts";

/** Processes a message; acknowledged when what it returns is resolved. */
export type Handler<T> = (message: Message<T>) => unknown;

/** Messages that wait for a handler; beyond, the oldest is forgotten here. */
const MAX_HELD = 1_000;

export class Inbox {
  readonly settledElsewhere: Listeners<Settled>;
  /** Tells what became of a message, by its key, in this tab. */
  say: (key: string, verdict: Verdict) => void = () => {};
  /** Remembers, beyond this page, that a message was processed. */
  mark: (key: string) => void = () => {};
  readonly #report: Report;
  readonly #handlers = new Map<string, Set<{ readonly handle: Handler<never> }>>();
  readonly #running = new Set<string>();
  readonly #held = new Map<string, Message>();
  readonly #done = new Seen(MAX_SEEN);
  readonly #failed = new Seen(MAX_SEEN);
  #isClosed = false;

  constructor(report: Report) {
    this.#report = report;
    this.settledElsewhere = new Listeners(report);
  }

  /** Registers a handler, and gives it what was held for its type, in order. @returns a function that takes it away again */
  on(type: string, handle: Handler<never>): () => void {
    const entry = { handle };
    const handlers = this.#handlers.get(type) ?? new Set();
    this.#handlers.set(type, handlers.add(entry));
    // After this turn, so that all handlers that the page registers together get it.
    queueMicrotask(() => {
      for (const message of [...this.#held.values()]) if (type === "*" || type === message.type) this.#start(message);
    });
    return () => void handlers.delete(entry);
  }

  /** Takes nothing more. */
  close(): void {
    this.#isClosed = true;
  }

  /** Another user's mail begins: what was held is not theirs. */
  forget(): void {
    this.#held.clear();
  }

  take(parcels: readonly Parcel[]): void {
    for (const { message, isRepeat } of parcels) {
      const key = keyOf(message);
      // What is at work is said when it ends.
      if (this.#running.has(key)) continue;
      if (this.#done.has(key) || (isRepeat && !this.#failed.has(key))) this.say(key, "acked");
      else this.#start(message);
    }
  }

  settled(messages: readonly Settled[]): void {
    for (const message of messages) {
      this.#held.delete(keyOf(message));
      this.settledElsewhere.tell(message);
    }
  }

  /** Calls the handlers, all at once and without waiting for those of other messages. */
  #start(message: Message): void {
    const key = keyOf(message);
    const handlers = [...(this.#handlers.get(message.type) ?? []), ...(this.#handlers.get("*") ?? [])];
    if (handlers.length === 0) this.#hold(key, message);
    if (handlers.length === 0 || this.#isClosed) return;
    if (this.#held.delete(key)) this.say(key, "taken");
    this.#running.add(key);
    // The async wrapper turns a throw into a rejection; the handler itself is called at once.
    Promise.all(handlers.map(async ({ handle }) => handle(message as Message<never>))).then(
      () => this.#processed(key),
      (error: unknown) => this.#failedBy(key, message, error),
    );
  }

  #hold(key: string, message: Message): void {
    this.#held.set(key, message);
    this.say(key, "held");
    if (this.#held.size > MAX_HELD) for (const oldest of this.#held.keys()) return void this.#held.delete(oldest);
  }

  #processed(key: string): void {
    this.#done.add(key);
    this.mark(key);
    this.#end(key, "acked");
  }

  #failedBy(key: string, message: Message, error: unknown): void {
    const isFirst = this.#failed.add(key);
    this.#end(key, "failed");
    // Told once a message, not at each of its tries.
    if (isFirst) this.#report(error, message);
  }

  #end(key: string, verdict: Verdict): void {
    this.#running.delete(key);
    this.say(key, verdict);
  }
}
