/**
 * Transports that something on the way swallows: remembered for the pages of this tab, so that the next need not wait for them again.
 * @module
 */
import type { Transport } from "./wire.ts";

export class Mute {
  readonly #key: string;
  readonly #transports: Set<string>;

  /** @param base  the server's address */
  constructor(base: string) {
    this.#key = `handover.mute ${base}`;
    let kept = "";
    try {
      kept = sessionStorage.getItem(this.#key) ?? "";
    } catch {
      // Not in a page, or in one that may store nothing.
    }
    this.#transports = new Set(kept.split(" "));
  }

  /** The transports in their order, those that are swallowed at the end. */
  last(transports: readonly Transport[]): Transport[] {
    const isMute = (transport: Transport) => this.#transports.has(transport);
    return [...transports.filter((each) => !isMute(each)), ...transports.filter(isMute)];
  }

  add(transport: Transport): void {
    this.#transports.add(transport);
    this.#keep();
  }

  delete(transport: Transport): void {
    if (this.#transports.delete(transport)) this.#keep();
  }

  clear(): void {
    this.#transports.clear();
    this.#keep();
  }

  #keep(): void {
    try {
      sessionStorage.setItem(this.#key, [...this.#transports].join(" "));
    } catch {
      // As above.
    }
  }
}
