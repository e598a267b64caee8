/**
 * Which messages this tab has shown, also before it was loaded again: what the server had not heard of by then comes once more.
 * @module
 */
import { listOf, parseText } from "../json.ts";
import { Seen } from "../seen.ts";

const KEY = "handover.x0.shown";
/** Many times the most that a page has in hand. */
const MAX_NAMES = 200;

export class Shown {
  readonly #names = new Seen(MAX_NAMES);

  constructor() {
    try {
      for (const name of listOf(parseText(sessionStorage.getItem(KEY)))) this.#names.add(String(name));
    } catch {
      // No storage in this page: it remembers until it is loaded again.
    }
  }

  has(name: string): boolean {
    return this.#names.has(name);
  }

  add(name: string): void {
    this.#names.add(name);
    try {
      sessionStorage.setItem(KEY, JSON.stringify([...this.#names]));
    } catch {
      // Likewise, or it is full.
    }
  }
}
