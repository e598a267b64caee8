/**
 * Sends, from the call to the server's 201. Each has an idempotency key, so one whose answer was lost is sent again and stored once.
 * @module
 */
import { backoffMs, onAbort } from "./backoff.ts";
import { type Deferred, defer } from "./deferred.ts";
import { asHandoverError, HandoverError } from "./error.ts";
import type { Sent } from "./message.ts";
import type { Sender } from "./wire.ts";

/** Most unanswered sends while there is no connection, and at all. */
const MAX_OFFLINE = 1_000;
const MAX_ONLINE = 10_000;
/** A request that makes the server fail so often is not tried again. */
const MAX_INTERNAL_ERRORS = 5;

/** Keeps what waits beyond this page. */
interface Keeper {
  /** Keeps it, if it does not yet, and then tells `onQueued`. */
  keep(item: Item): void;
  drop(item: Item): void;
}

export interface Item {
  readonly text: string;
  readonly onQueued: (() => void) | undefined;
  readonly answer: Deferred<Sent>;
  /** Neither under way nor waiting for its time. */
  isReady: boolean;
  tries: number;
  timer: ReturnType<typeof setTimeout> | undefined;
}

export class Outbox {
  keeper: Keeper | undefined;
  /** In the order of the calls. */
  readonly #items = new Set<Item>();
  #wire: Sender | undefined;
  #closed: HandoverError | undefined;

  /**
   * @param text  the request as JSON text, with its idempotency key
   * @param onQueued  called when it waits, and is kept beyond this page
   * @throws HandoverError the server's problem; outbox-full; closed, or what ended the connection. The signal's reason, when aborted.
   */
  async send(text: string, signal: AbortSignal | undefined, onQueued?: () => void): Promise<Sent> {
    if (signal?.aborted) throw signal.reason;
    if (this.#closed) throw this.#closed;
    if (this.#items.size >= (this.#wire ? MAX_ONLINE : MAX_OFFLINE)) throw new HandoverError("outbox-full", "Too many sends.", { retryable: true });
    const item: Item = { text, onQueued, answer: defer(), isReady: true, tries: 0, timer: undefined };
    const forget = onAbort(signal, () => item.answer.reject(signal?.reason));
    this.#items.add(item);
    if (!this.#wire) this.keeper?.keep(item);
    this.#pass(item);
    try {
      return await item.answer.promise;
    } finally {
      forget();
      clearTimeout(item.timer);
      this.#items.delete(item);
      this.keeper?.drop(item);
    }
  }

  /** Which wire to use; undefined: none, wait. */
  use(wire: Sender | undefined): void {
    this.#wire = wire;
    if (!wire) this.keepAll();
    for (const item of this.#items) this.#pass(item);
  }

  /** Takes no more sends, and gives up those that wait. Resolves when those that are under way are answered. Never rejects. */
  async close(why: HandoverError): Promise<void> {
    this.#closed ??= why;
    for (const item of this.#items) if (item.isReady || item.timer !== undefined) item.answer.reject(why);
    await Promise.allSettled([...this.#items].map((item) => item.answer.promise));
  }

  /** Gives up what is not answered, and takes nothing more. */
  abandon(why: HandoverError): void {
    this.#closed ??= why;
    this.reject(why);
  }

  /** Gives up what is not answered. */
  reject(why: HandoverError): void {
    for (const item of this.#items) item.answer.reject(why);
  }

  /** What is not answered outlives this page from now on, where it can. */
  keepAll(): void {
    for (const item of this.#items) this.keeper?.keep(item);
  }

  #pass(item: Item): void {
    const wire = this.#wire;
    if (!wire || !item.isReady || !this.#items.has(item)) return;
    item.isReady = false;
    wire.send(item.text).then(item.answer.resolve, (thrown: unknown) => this.#failed(item, wire, asHandoverError(thrown)));
  }

  #failed(item: Item, wire: Sender, error: HandoverError): void {
    const isFull = error.status === 507;
    const isHopeless = error.code === "internal" && item.tries >= MAX_INTERNAL_ERRORS - 1;
    const why = !error.retryable || isFull || isHopeless || !this.#items.has(item) ? error : this.#closed;
    if (why) {
      item.answer.reject(why);
      return;
    }
    const isMoved = error.code === "connection-lost" && wire !== this.#wire;
    const again = () => {
      item.timer = undefined;
      item.isReady = true;
      this.#pass(item);
    };
    // At once: a hidden tab's timers may take a minute.
    if (isMoved) again();
    else item.timer = setTimeout(again, backoffMs(item.tries++) + (error.retryAfterMs ?? 0));
  }
}
