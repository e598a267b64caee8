/**
 * Sends, from the call to the server's 201. Each has an idempotency key, so one whose answer was lost is sent again and stored once. What waits
 * while there is no connection is kept in the store, where there is one, and goes from the next page if it must.
 * @module
 */
import { backoffMs } from "./backoff.ts";
import { type Deferred, defer } from "./deferred.ts";
import { asHandoverError, HandoverError } from "./error.ts";
import { Listeners, type Report } from "./listeners.ts";
import type { Sending, Sent, Unsent } from "./message.ts";
import type { Kept, Store } from "./store.ts";
import type { Sender } from "./wire.ts";

/** Most unanswered sends while there is no connection, and at all. */
const MAX_OFFLINE = 1_000;
const MAX_ONLINE = 10_000;
/** A request that makes the server fail so often is not tried again. */
const MAX_INTERNAL_ERRORS = 5;
/** The server knows an idempotency key for 24 h: what is older could be stored twice. */
const MAX_AGE_MS = 23 * 3_600_000;

interface Item {
  readonly text: string;
  readonly answer: Deferred<Sent>;
  readonly atMs: number;
  /** Neither under way nor waiting for its time. */
  isReady: boolean;
  tries: number;
  timer: ReturnType<typeof setTimeout> | undefined;
  /** Its number in the store, if it is there. */
  kept: Promise<IDBValidKey | undefined> | undefined;
  /** An earlier page, or a tab that has gone, made it: nobody here waits for its answer. */
  readonly isAdopted: boolean;
}

export class Outbox {
  readonly unsent: Listeners<Unsent>;
  /** In the order of the calls. */
  readonly #items = new Set<Item>();
  readonly #queued = new WeakMap<Item, (isKept: boolean) => void>();
  #wire: Sender | undefined;
  #store: Store | undefined;
  #tab = "";
  #closed: HandoverError | undefined;

  constructor(report: Report) {
    this.unsent = new Listeners(report);
  }

  /**
   * @param write  the request as JSON text, with its idempotency key; called at once
   * @throws HandoverError the server's problem; outbox-full; closed, or what ended the connection. The signal's reason, when aborted.
   */
  send(write: () => string, signal: AbortSignal | undefined): Sending {
    const queued = defer<boolean>();
    return Object.assign(this.#send(write, signal, queued.resolve), { queued: queued.promise });
  }

  async #send(write: () => string, signal: AbortSignal | undefined, tellQueued: (isKept: boolean) => void): Promise<Sent> {
    try {
      if (signal?.aborted) throw signal.reason;
      if (this.#closed) throw this.#closed;
      const limit = this.#wire ? MAX_ONLINE : MAX_OFFLINE;
      if (this.#items.size >= limit)
        throw new HandoverError("outbox-full", `${limit} messages are waiting to be sent; send more when some are accepted.`, { retryable: true });
      const item = newItem(write(), Date.now());
      const abort = () => item.answer.reject(signal?.reason);
      this.#queued.set(item, tellQueued);
      signal?.addEventListener("abort", abort);
      try {
        return await this.#work(item);
      } finally {
        signal?.removeEventListener("abort", abort);
      }
    } finally {
      tellQueued(false);
    }
  }

  /** Where to keep what waits. @param tab  the name of this tab */
  keepIn(store: Store | undefined, tab: string): void {
    this.#store = store;
    this.#tab = tab;
    if (!this.#wire) this.keep();
  }

  /** Sends what another tab, or an earlier page, has left behind. */
  adopt(key: IDBValidKey, { text, atMs }: Kept): void {
    const item = newItem(text, atMs, Promise.resolve(key));
    if (atMs < Date.now() - MAX_AGE_MS) item.answer.reject(new HandoverError("outbox-expired", "It could not be sent for a day."));
    this.#work(item).catch((error: HandoverError) => {
      if (error !== this.#closed) this.unsent.tell({ message: JSON.parse(text), error });
    });
  }

  /** Which wire to use; undefined: none, wait. */
  use(wire: Sender | undefined): void {
    this.#wire = wire;
    if (!wire) this.keep();
    for (const item of this.#items) this.#pass(item);
  }

  /** Keeps all that is not answered, beyond this page. */
  keep(): void {
    for (const item of this.#items) this.#keep(item);
  }

  /** Takes no more sends, and gives up those that wait. Resolves when those that are under way are answered. Never rejects. */
  async close(why: HandoverError): Promise<void> {
    this.#closed ??= why;
    for (const item of this.#items) if (item.isReady || item.timer !== undefined) item.answer.reject(why);
    await Promise.all([...this.#items].map((item) => item.answer.promise.catch(() => {})));
  }

  /** Gives up what is not answered. */
  abandon(why: HandoverError): void {
    this.#closed ??= why;
    for (const item of this.#items) item.answer.reject(why);
  }

  /** Another user begins: what is not answered is not theirs. */
  forget(): void {
    const why = new HandoverError("closed", "This page is another user's now.");
    for (const item of this.#items) item.answer.reject(why);
  }

  async #work(item: Item): Promise<Sent> {
    this.#items.add(item);
    if (!this.#wire) this.#keep(item);
    this.#pass(item);
    try {
      return await item.answer.promise;
    } finally {
      clearTimeout(item.timer);
      this.#items.delete(item);
      // What others have left behind is left for others, too.
      if (!(item.isAdopted && this.#closed)) this.#drop(item, this.#store);
    }
  }

  #keep(item: Item): void {
    if (item.kept || !this.#store) return;
    item.kept = this.#store.keep({ tab: this.#tab, text: item.text, atMs: item.atMs });
    void item.kept.then((key) => key !== undefined && this.#queued.get(item)?.(true));
  }

  #drop({ kept }: Item, store: Store | undefined): void {
    void kept?.then((key) => key !== undefined && store?.drop(key));
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

function newItem(text: string, atMs: number, kept?: Promise<IDBValidKey>): Item {
  return { text, answer: defer(), atMs, isReady: true, tries: 0, timer: undefined, kept, isAdopted: kept !== undefined };
}
