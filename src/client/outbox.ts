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
  /** Resolves with its number when it is kept; undefined: it is not. Keeps a text once. */
  keep(text: string): Promise<unknown>;
  drop(text: string): void;
}

interface Item {
  readonly text: string;
  onQueued: (() => void) | undefined;
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
    const limit = this.#wire ? MAX_ONLINE : MAX_OFFLINE;
    if (this.#items.size >= limit) throw new HandoverError("outbox-full", `${limit} sends are unanswered.`, { retryable: true });
    const item: Item = { text, onQueued, answer: defer(), isReady: true, tries: 0, timer: undefined };
    const abort = () => item.answer.reject(signal?.reason);
    this.#items.add(item);
    const forget = onAbort(signal, abort);
    if (!this.#wire) this.#keep(item);
    this.#pass(item);
    try {
      return await item.answer.promise;
    } finally {
      forget();
      clearTimeout(item.timer);
      this.#items.delete(item);
      this.keeper?.drop(text);
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
    await Promise.all([...this.#items].map((item) => item.answer.promise.catch(() => {})));
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
    for (const item of this.#items) this.#keep(item);
  }

  #keep(item: Item): void {
    void this.keeper?.keep(item.text).then((kept) => {
      if (kept === undefined) return;
      item.onQueued?.();
      item.onQueued = undefined;
    });
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
    if (!error.retryable || isFull || isHopeless || !this.#items.has(item)) {
      item.answer.reject(error);
      return;
    }
    const isMoved = error.code === "connection-lost" && wire !== this.#wire;
    const waitMs = isMoved ? 0 : backoffMs(item.tries++) + (error.retryAfterMs ?? 0);
    if (this.#closed) {
      item.answer.reject(this.#closed);
      return;
    }
    item.timer = setTimeout(() => {
      item.timer = undefined;
      item.isReady = true;
      this.#pass(item);
    }, waitMs);
  }
}
