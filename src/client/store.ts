/**
 * What outlives a page (IndexedDB): which messages were processed, and sends that were not accepted yet. One database for each server and user.
 * @module
 */
import { MAX_SEEN } from "./seen.ts";

/** So many marks are made before the oldest are removed. */
const PRUNE_EVERY = 1_000;
/** Most sends that a page takes over from earlier ones. */
const MAX_KEPT = 1_000;

/** A send that was kept. */
export interface Kept {
  /** The tab that made it. */
  readonly tab: string;
  /** The request as JSON text, with its idempotency key. */
  readonly text: string;
  /** When it was made, ms since the Unix epoch. */
  readonly atMs: number;
}

export class Store {
  readonly #db: IDBDatabase;
  #marks: string[] = [];
  #untilPrune = 0;

  /** @throws DOMException where this browser keeps nothing for the page */
  static async open(name: string): Promise<Store> {
    const opening = indexedDB.open(name, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("outbox", { autoIncrement: true });
      opening.result.createObjectStore("seen").createIndex("at", "at");
    };
    return new Store(await settled(opening));
  }

  private constructor(db: IDBDatabase) {
    this.#db = db;
    // Somebody removes it.
    db.onversionchange = () => db.close();
  }

  close(): void {
    this.#db.close();
  }

  /** What was processed, the oldest first. */
  async seen(): Promise<readonly string[]> {
    return (await settled(this.#in("seen", "readonly").index("at").getAllKeys())) as string[];
  }

  /** Remembers that a message was processed. Those of one turn share a transaction, which is on its way before the page can go. */
  mark(key: string): void {
    if (this.#marks.push(key) === 1) queueMicrotask(() => this.#flush());
  }

  /** The sends of earlier pages, and of other tabs, in their order. */
  async kept(): Promise<readonly (readonly [IDBValidKey, Kept])[]> {
    const store = this.#in("outbox", "readonly");
    const [keys, values] = await Promise.all([settled(store.getAllKeys(null, MAX_KEPT)), settled(store.getAll(null, MAX_KEPT))]);
    return keys.map((key, index) => [key, values[index] as Kept]);
  }

  /** Keeps a send. Resolves with its number when it will be there after the page; undefined: it will not. */
  async keep(kept: Kept): Promise<IDBValidKey | undefined> {
    try {
      const store = this.#in("outbox");
      const adding = store.add(kept);
      store.transaction.commit?.();
      await new Promise((resolve, reject) => {
        store.transaction.oncomplete = resolve;
        store.transaction.onabort = reject;
      });
      return adding.result;
    } catch {
      return undefined;
    }
  }

  drop(key: IDBValidKey): void {
    try {
      this.#in("outbox").delete(key);
    } catch {
      // It is closed, and what it held is gone.
    }
  }

  #flush(): void {
    const marks = this.#marks;
    this.#marks = [];
    try {
      const store = this.#in("seen");
      for (const key of marks) store.put({ at: Date.now() }, key);
      store.transaction.commit?.();
      this.#untilPrune -= marks.length;
      if (this.#untilPrune < 0) void this.#prune().catch(() => {});
    } catch {
      // Closed, or full: what this page has shown it still knows.
    }
  }

  async #prune(): Promise<void> {
    this.#untilPrune = PRUNE_EVERY;
    const store = this.#in("seen");
    for (const key of (await settled(store.index("at").getAllKeys())).slice(0, -MAX_SEEN)) store.delete(key);
  }

  #in(name: string, mode: IDBTransactionMode = "readwrite"): IDBObjectStore {
    return this.#db.transaction(name, mode).objectStore(name);
  }
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
