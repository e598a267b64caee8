/**
 * IndexedDB, as far as it is used here: what a page keeps of its sends, and the ground for more (store.ts).
 * @module
 */

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

export class Database {
  readonly #db: IDBDatabase;

  /** @throws DOMException where this browser keeps nothing for the page */
  static async open(name: string): Promise<Database> {
    return new Database(await Database.opened(name));
  }

  protected static async opened(name: string): Promise<IDBDatabase> {
    const opening = indexedDB.open(name, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("outbox", { autoIncrement: true });
      opening.result.createObjectStore("seen").createIndex("at", "at");
    };
    return new Promise((resolve, reject) => {
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error);
    });
  }

  protected constructor(db: IDBDatabase) {
    this.#db = db;
    // Somebody removes it.
    db.onversionchange = () => db.close();
  }

  close(): void {
    this.#db.close();
  }

  /** The sends of earlier pages, and of other tabs, in their order. */
  async kept(): Promise<readonly (readonly [IDBValidKey, Kept])[]> {
    const [keys, values] = await this.pairs<Kept>("outbox", (store) => store, MAX_KEPT);
    return keys.map((key, index) => [key, values[index] as Kept]);
  }

  /** Keeps a send. Resolves with its number when it will be there after the page; undefined: it will not. */
  async keep(kept: Kept): Promise<IDBValidKey | undefined> {
    return this.work("outbox", "readwrite", (store) => store.add(kept)).catch(() => undefined);
  }

  drop(key: IDBValidKey): void {
    this.work("outbox", "readwrite", (store) => store.delete(key)).catch(() => {});
  }

  protected async pairs<T>(name: string, of: (store: IDBObjectStore) => IDBObjectStore | IDBIndex, count?: number): Promise<[IDBValidKey[], T[]]> {
    let keys: IDBRequest<IDBValidKey[]> | undefined;
    const values = await this.work<T[]>(name, "readonly", (store) => {
      keys = of(store).getAllKeys(null, count);
      return of(store).getAll(null, count);
    });
    return [keys?.result ?? [], values];
  }

  /**
   * Does some work at once, and resolves with what its last request gave when that is there to stay. The end of the transaction is asked for at
   * once too: a page that is frozen in the middle of one would stop every other tab's.
   */
  protected async work<T>(name: string, mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
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
