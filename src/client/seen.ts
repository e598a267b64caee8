/**
 * Which messages this application has processed, so that a repeat is acknowledged and not handled again.
 * It lives as long as the page; what outlives a page is in store.ts.
 * @module
 */

/** Removes the oldest of more than `limit`. */
export function forgetOldest<K>(all: Set<K> | Map<K, unknown>, limit: number): void {
  for (const oldest of all.keys()) {
    if (all.size <= limit) return;
    all.delete(oldest);
  }
}

/** A set that forgets its oldest members. */
export class Seen {
  readonly #limit: number;
  readonly #keys = new Set<string>();

  /** @param limit  most keys remembered */
  constructor(limit: number) {
    this.#limit = limit;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  /** @returns whether it is new */
  add(key: string): boolean {
    const isNew = !this.#keys.has(key);
    this.#keys.add(key);
    forgetOldest(this.#keys, this.#limit);
    return isNew;
  }
}
