/**
 * Transports that something on the way swallows: remembered for the pages of this tab, so that the next need not wait for them again.
 * @module
 */
import type { Transport } from "./wire.ts";

export class Mute {
  readonly #key: string;
  #transports: readonly string[];

  /** @param base  the server's address */
  constructor(base: string) {
    this.#key = `handover.mute ${base}`;
    this.#transports = this.#keep()?.split(" ") ?? [];
  }

  /** The transports in their order, those that are swallowed at the end. */
  last(transports: readonly Transport[]): Transport[] {
    const isMute = (transport: Transport) => Number(this.#transports.includes(transport));
    return [...transports].sort((one, other) => isMute(one) - isMute(other));
  }

  /** @param transport  undefined: every one */
  set(transport: Transport | undefined, isMute: boolean): void {
    const others = this.#transports.filter((each) => transport !== undefined && each !== transport);
    this.#transports = isMute && transport !== undefined ? [...others, transport] : others;
    this.#keep(this.#transports.join(" "));
  }

  /** @returns what was kept */
  #keep(text?: string): string | null {
    try {
      if (text !== undefined) sessionStorage.setItem(this.#key, text);
      return sessionStorage.getItem(this.#key);
    } catch {
      // Not in a page, or in one that may store nothing.
      return null;
    }
  }
}
