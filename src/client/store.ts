/**
 * What outlives a page (IndexedDB): which messages were processed, and sends that were not accepted yet. One database for each server and user.
 * @module
 */
import { MAX_SEEN } from "./intake.ts";
import { listOf, parseText } from "./json.ts";

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
  readonly #name: string;
  readonly #db: IDBDatabase;
  #marks: (readonly [string, number])[] = [];
  /** Marks that are not there to stay yet. */
  readonly #unsure = new Set<string>();
  #untilPrune = 0;

  /** @throws DOMException where this browser keeps nothing for the page */
  static async open(name: string): Promise<Store> {
    const opening = indexedDB.open(name, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("outbox", { autoIncrement: true });
      opening.result.createObjectStore("seen").createIndex("at", "at");
    };
    const db = await new Promise<IDBDatabase>((resolve, reject) => {
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error);
    });
    return new Store(name, db);
  }

  private constructor(name: string, db: IDBDatabase) {
    this.#name = name;
    this.#db = db;
    // What this tab had processed when it was loaded again is from before this page.
    for (const key of listOf(parseText(this.#noted()))) this.mark(String(key), performance.timeOrigin);
    // Somebody removes it.
    db.onversionchange = () => db.close();
  }

  close(): void {
    this.#db.close();
  }

  /** What was processed and when (ms since the Unix epoch), the oldest first. */
  async seen(): Promise<readonly (readonly [string, number])[]> {
    const [keys, values] = await this.#pairs<{ readonly at: number }>("seen", (store) => store.index("at"));
    return keys.map((key, index) => [String(key), values[index]?.at ?? 0]);
  }

  /** Remembers that a message was processed. Those of one turn share a transaction. */
  mark(key: string, atMs = Date.now()): void {
    if (this.#marks.push([key, atMs]) === 1) queueMicrotask(() => void this.#flush());
  }

  /** The sends of earlier pages, and of other tabs, in their order. */
  async kept(): Promise<readonly (readonly [IDBValidKey, Kept])[]> {
    const [keys, values] = await this.#pairs<Kept>("outbox", (store) => store, MAX_KEPT);
    return keys.map((key, index) => [key, values[index] as Kept]);
  }

  /** Keeps a send. Resolves with its number when it will be there after the page; undefined: it will not. */
  async keep(kept: Kept): Promise<IDBValidKey | undefined> {
    return this.#work("outbox", "readwrite", (store) => store.add(kept)).catch(() => undefined);
  }

  drop(key: IDBValidKey): void {
    this.#work("outbox", "readwrite", (store) => store.delete(key)).catch(() => {});
  }

  async #flush(): Promise<void> {
    const marks = this.#marks;
    this.#marks = [];
    // A page that goes in this moment takes a transaction with it, and this not.
    for (const [key] of marks) this.#unsure.add(key);
    this.#noted(JSON.stringify([...this.#unsure]));
    try {
      await this.#work("seen", "readwrite", (store) => marks.map(([key, at]) => store.put({ at }, key)).at(-1) as IDBRequest);
      this.#untilPrune -= marks.length;
      if (this.#untilPrune < 0) await this.#prune();
    } catch {
      // Closed, or full: what this page has shown it still knows.
    }
    for (const [key] of marks) this.#unsure.delete(key);
    this.#noted(JSON.stringify([...this.#unsure]));
  }

  /** This tab's own note, which is written at once. @returns what it says */
  #noted(text?: string): string | null {
    try {
      if (text !== undefined) sessionStorage.setItem(this.#name, text);
      return sessionStorage.getItem(this.#name);
    } catch {
      return null;
    }
  }

  async #prune(): Promise<void> {
    this.#untilPrune = PRUNE_EVERY;
    const excess = (await this.#work("seen", "readonly", (store) => store.count())) - MAX_SEEN;
    if (excess <= 0) return;
    const old = await this.#work("seen", "readonly", (store) => store.index("at").getAllKeys(null, excess));
    await this.#work("seen", "readwrite", (store) => old.map((key) => store.delete(key)).at(-1) as IDBRequest);
  }

  async #pairs<T>(name: string, of: (store: IDBObjectStore) => IDBObjectStore | IDBIndex, count?: number): Promise<[IDBValidKey[], T[]]> {
    let keys: IDBRequest<IDBValidKey[]> | undefined;
    const values = await this.#work<T[]>(name, "readonly", (store) => {
      keys = of(store).getAllKeys(null, count);
      return of(store).getAll(null, count);
    });
    return [keys?.result ?? [], values];
  }

  /**
   * Does some work at once, and resolves with what its last request gave when that is there to stay. The end of the transaction is asked for at
   * once too: a page that is frozen in the middle of one would stop every other tab's.
   */
  async #work<T>(name: string, mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    const transaction = this.#db.transaction(name, mode);
    const request = work(transaction.objectStore(name));
    transaction.commit?.();
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    return request.result;
  }
}
