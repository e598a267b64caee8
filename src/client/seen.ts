/**
 * Which messages this application has processed, so that a repeat is acknowledged and not handled again.
 * In memory for now: it lives as long as the page. A store that outlives the page (IndexedDB) goes here.
 * @module
 */

/** A set that forgets its oldest members. */
export class Seen {
  readonly #limit: number;
  readonly #keys = new Set<string>();

  /** @param limit  most keys remembered */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** The members, the oldest first. */
  [Symbol.iterator](): IterableIterator<string> {
    return this.#keys.values();
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  /** @returns whether it is new */
  add(key: string): boolean {
    if (this.#keys.has(key)) return false;
    this.#keys.add(key);
    if (this.#keys.size > this.#limit) for (const oldest of this.#keys) return this.#keys.delete(oldest);
    return true;
  }
}
