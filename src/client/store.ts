/**
 * What outlives a page (IndexedDB): which messages were processed, and sends that were not accepted yet. One database for each server and user.
 * @module
 */
import { Database } from "./database.ts";
import { MAX_SEEN } from "./intake.ts";
import { listOf, parseText } from "./json.ts";

/** So many marks are made before the oldest are removed. */
const PRUNE_EVERY = 1_000;

export class Store extends Database {
  readonly #name: string;
  #marks: (readonly [string, number])[] = [];
  /** Marks that are not there to stay yet. */
  readonly #unsure = new Set<string>();
  #untilPrune = 0;

  /** @throws DOMException where this browser keeps nothing for the page */
  static override async open(name: string): Promise<Store> {
    return new Store(name, await Database.opened(name));
  }

  private constructor(name: string, db: IDBDatabase) {
    super(db);
    this.#name = name;
    // What this tab had processed when it was loaded again is from before this page.
    for (const key of listOf(parseText(this.#noted()))) this.mark(String(key), performance.timeOrigin);
  }

  /** What was processed and when (ms since the Unix epoch), the oldest first. */
  async seen(): Promise<readonly (readonly [string, number])[]> {
    const [keys, values] = await this.pairs<{ readonly at: number }>("seen", (store) => store.index("at"));
    return keys.map((key, index) => [String(key), values[index]?.at ?? 0]);
  }

  /** Remembers that a message was processed. Those of one turn share a transaction. */
  mark(key: string, atMs = Date.now()): void {
    if (this.#marks.push([key, atMs]) === 1) queueMicrotask(() => void this.#flush());
  }

  async #flush(): Promise<void> {
    const marks = this.#marks;
    this.#marks = [];
    // A page that goes in this moment takes a transaction with it, and this not.
    for (const [key] of marks) this.#unsure.add(key);
    this.#noted(JSON.stringify([...this.#unsure]));
    try {
      await this.work("seen", "readwrite", (store) => marks.map(([key, at]) => store.put({ at }, key)).at(-1) as IDBRequest);
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
    const excess = (await this.work("seen", "readonly", (store) => store.count())) - MAX_SEEN;
    if (excess <= 0) return;
    const old = await this.work("seen", "readonly", (store) => store.index("at").getAllKeys(null, excess));
    await this.work("seen", "readwrite", (store) => old.map((key) => store.delete(key)).at(-1) as IDBRequest);
  }
}
