/**
 * Transports that something on the way swallows: in a browser remembered for the pages of this tab (page.ts), so that the next need not wait for them
 * again.
 * @module
 */
import type { Transport } from "./wire.ts";

export class Mute {
  swallowed: readonly string[] = [];

  /** The transports in their order, those that are swallowed at the end. */
  last(transports: readonly Transport[]): Transport[] {
    const isMute = (transport: Transport) => Number(this.swallowed.includes(transport));
    return [...transports].sort((one, other) => isMute(one) - isMute(other));
  }

  set(transport: Transport, isMute: boolean): void {
    this.swallowed = this.swallowed.filter((each) => each !== transport).concat(isMute ? transport : []);
  }
}
