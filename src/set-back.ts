/** Smaller steps back than this hold nothing up, ms. */
const MIN_STEP_MS = 1_000;

/**
 * Notices when the time of day is set back: what is to last for a while and is kept as a date would last longer then. By how much, says a clock that
 * nobody sets.
 */
export class SetBack {
  readonly #now: () => number;
  #lastMs: number;
  #offsetMs: number;

  /** @param now  the time of day, ms since the Unix epoch */
  constructor(now: () => number) {
    this.#now = now;
    this.#lastMs = now();
    this.#offsetMs = this.#lastMs - performance.now();
  }

  /** @returns by how much the time of day was set back since this was asked last, ms; 0 when it was not, or by less than has passed since then */
  take(): number {
    const nowMs = this.#now();
    const offsetMs = nowMs - performance.now();
    const byMs = nowMs < this.#lastMs ? Math.round(this.#offsetMs - offsetMs) : 0;
    this.#lastMs = nowMs;
    this.#offsetMs = offsetMs;
    return byMs < MIN_STEP_MS ? 0 : byMs;
  }
}
