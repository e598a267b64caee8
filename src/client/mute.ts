/**
 * Transports that something on the way swallows: remembered for the pages of this tab, so that the next need not wait for them again.
 * @module
 */
import type { Transport } from "./wire.ts";

export class Mute {
  readonly #key: string;
  #transports: readonly string[] = [];

  /** @param base  the server's address */
  constructor(base: string) {
    this.#key = `handover.mute ${base}`;
    try {
      this.#transports = sessionStorage[this.#key].split(" ");
    } catch {
      // Not in a page, or in one that may store nothing, or has not.
    }
  }

  /** The transports in their order, those that are swallowed at the end. */
  last(transports: readonly Transport[]): Transport[] {
    const isMute = (transport: Transport) => Number(this.#transports.includes(transport));
    return [...transports].sort((one, other) => isMute(one) - isMute(other));
  }

  set(transport: Transport, isMute: boolean): void {
    const others = this.#transports.filter((each) => each !== transport);
    this.#keep(isMute ? [...others, transport] : others);
  }

  clear(): void {
    this.#keep([]);
  }

  #keep(transports: readonly string[]): void {
    this.#transports = transports;
    try {
      sessionStorage[this.#key] = transports.join(" ");
    } catch {
      // As above.
    }
  }
}
