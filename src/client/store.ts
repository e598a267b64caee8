/**
 * What outlives a page (IndexedDB): which messages were processed, and sends that were not accepted yet. One database for each server and user.
 * @module
 */
import { Database } from "./database.ts";
import { MAX_SEEN } from "./intake.ts";
import { listOf, parseText } from "./json.ts";

/** So many marks are made before the oldest are removed. */
const PRUNE_EVERY = 1_000;
/** Each mark that is made or removed takes some 40 µs of the page's thread, and what takes longer than 50 ms a person feels. */
const MAX_AT_ONCE = 100;

/** What was processed in one turn of the page. */
interface Turn {
  readonly marks: (readonly [string, number])[];
  /** What this tab's own note of it is called. */
  readonly note: string;
}

export class Store extends Database {
  readonly #name: string;
  /** Those that have ended and are not written. */
  #turns: Turn[] = [];
  /** The one that goes on. */
  #turn: Turn | undefined;
  #notes = 0;
  #isWriting = false;
  #untilPrune = 0;
  #isPruning = false;

  /** @throws DOMException where this browser keeps nothing for the page */
  static override async open(name: string): Promise<Store> {
    return new Store(name, await Database.opened(name));
  }

  private constructor(name: string, db: IDBDatabase) {
    super(db);
    this.#name = name;
    // What this tab had processed when it was loaded again is from before this page.
    inSession((storage) => {
      for (const note of Object.keys(storage).filter((each) => each.startsWith(`${name} `))) {
        for (const key of listOf(parseText(storage.getItem(note)))) this.mark(String(key), performance.timeOrigin);
        storage.removeItem(note);
      }
    });
  }

  /** What was processed and when (ms since the Unix epoch), the oldest first. */
  async seen(): Promise<readonly (readonly [string, number])[]> {
    const [keys, values] = await this.pairs<{ readonly at: number }>("seen", (store) => store.index("at"));
    return keys.map((key, index) => [String(key), values[index]?.at ?? 0]);
  }

  /** Remembers that a message was processed. Those of one turn, and those that come while others are written, share a transaction. */
  mark(key: string, atMs = Date.now()): void {
    if (!this.#turn) {
      this.#turn = { marks: [], note: `${this.#name} ${this.#notes++}` };
      queueMicrotask(() => void this.#writeAll());
    }
    this.#turn.marks.push([key, atMs]);
  }

  /** The page is left: what waits is written at once. */
  flush(): void {
    this.#endTurn();
    while (this.#turns[0]) void this.#write();
  }

  async #writeAll(): Promise<void> {
    this.#endTurn();
    if (this.#isWriting) return;
    this.#isWriting = true;
    while (this.#turns[0]) await this.#write();
    this.#isWriting = false;
  }

  #endTurn(): void {
    const turn = this.#turn;
    if (!turn) return;
    this.#turn = undefined;
    this.#turns.push(turn);
    // A page that goes in this moment takes a transaction with it, and what it has noted not.
    inSession((storage) => storage.setItem(turn.note, JSON.stringify(turn.marks.map(([key]) => key))));
  }

  async #write(): Promise<void> {
    const turns: Turn[] = [];
    for (let count = 0; this.#turns[0] && count < MAX_AT_ONCE; count += turns.at(-1)?.marks.length ?? 0) turns.push(this.#turns.shift() as Turn);
    const marks = turns.flatMap((turn) => turn.marks);
    try {
      await this.work("seen", "readwrite", (store) => marks.map(([key, at]) => store.put({ at }, key)).at(-1) as IDBRequest);
      this.#untilPrune -= marks.length;
      if (this.#untilPrune < 0) void this.#prune().catch(() => {});
    } catch {
      // Closed, or full: what this page has shown it still knows.
    }
    inSession((storage) => {
      for (const { note } of turns) storage.removeItem(note);
    });
  }

  async #prune(): Promise<void> {
    if (this.#isPruning) return;
    this.#untilPrune = PRUNE_EVERY;
    this.#isPruning = true;
    try {
      for (let excess = (await this.work("seen", "readonly", (store) => store.count())) - MAX_SEEN; excess > 0; excess -= MAX_AT_ONCE) {
        const old = await this.work("seen", "readonly", (store) => store.index("at").getAllKeys(null, Math.min(excess, MAX_AT_ONCE)));
        await this.work("seen", "readwrite", (store) => old.map((key) => store.delete(key)).at(-1) as IDBRequest);
      }
    } finally {
      this.#isPruning = false;
    }
  }
}

/** Does something with what this tab has for itself, where it may have anything. */
function inSession(work: (storage: Storage) => void): void {
  try {
    work(sessionStorage);
  } catch {
    // The page may store nothing, or there is no room.
  }
}
