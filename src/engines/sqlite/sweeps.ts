/**
 * When the store does what time has made due: expiry, the return of nacked mail, purge. Each answer of the store says when there is something next.
 * @module
 */
import { HandoverError } from "../../errors.ts";
import { SetBack } from "../../set-back.ts";
import type { StoreThread } from "./thread.ts";

/** A timer sleeps no longer than this, so that a clock that is set anew does no harm. */
const MAX_SLEEP_MS = 60_000;
/** Two sweeps are this far apart at least. */
const MIN_SLEEP_MS = 10;
/** What could not be swept is tried again after so long. */
const AGAIN_MS = 1_000;

export class Sweeps {
  readonly #thread: StoreThread;
  readonly #now: () => number;
  readonly #setBack: SetBack;
  /** By how much the time of day was set back, as far as no sweep knows it; at first nobody does. */
  #setBackMs: number | null = 0;
  #timer: NodeJS.Timeout | undefined;
  #atMs = Number.POSITIVE_INFINITY;
  /** How many go on. */
  #running = 0;

  /** @param now  the time of day, ms since the Unix epoch */
  constructor(thread: StoreThread, now: () => number) {
    this.#thread = thread;
    this.#now = now;
    this.#setBack = new SetBack(now);
  }

  /** What came due while nobody looked: one step now, and if there is more, the timer goes on with it. @throws HandoverError store-unavailable */
  async begin(): Promise<void> {
    try {
      if (await this.#step()) this.by(this.#now());
    } catch (thrown) {
      // A full disk keeps nobody from what can be read; what is due stays due.
      if (!(thrown instanceof HandoverError) || thrown.code !== "store-full") throw thrown;
      this.by(this.#now() + AGAIN_MS);
    }
  }

  /** Does all that is due. @throws HandoverError store-unavailable | store-full */
  async run(): Promise<void> {
    this.#running += 1;
    try {
      while (await this.#step()) {}
    } finally {
      this.#running -= 1;
    }
  }

  /** Does it at that time, ms since the Unix epoch, if not before. */
  by(dueMs: number): void {
    if (!this.#thread.isOpen || dueMs >= this.#atMs) return;
    this.#atMs = dueMs;
    clearTimeout(this.#timer);
    const sleepMs = Math.min(Math.max(dueMs - this.#now(), MIN_SLEEP_MS), MAX_SLEEP_MS);
    this.#timer = setTimeout(() => {
      this.#atMs = Number.POSITIVE_INFINITY;
      this.lookAtClock();
      if (this.#now() < dueMs) return this.by(dueMs);
      // One that is at work goes on, and its last step says when the next is due. Two would make each other's commits longer.
      if (this.#running > 0) return;
      // A full disk or a store that is closing: what is due stays due.
      this.run().catch(() => this.by(this.#now() + AGAIN_MS));
    }, sleepMs).unref();
  }

  /** Where the time of day was set back, what a nack delays comes so much earlier: before anything is done by the new time. */
  lookAtClock(): void {
    const byMs = this.#setBack.take();
    if (byMs === 0) return;
    this.#setBackMs = (this.#setBackMs ?? 0) + byMs;
    this.#step(true).then(
      (isMore) => isMore && this.by(this.#now()),
      () => this.by(this.#now() + AGAIN_MS),
    );
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** @param isFirst  before all else that the store is asked for @returns whether there is more to do */
  #step(isFirst = false): Promise<boolean> {
    const setBackMs = this.#setBackMs;
    this.#setBackMs = null;
    return new Promise((resolve, reject) => {
      const failed = (cause: HandoverError) => {
        if (setBackMs !== null) this.#setBackMs = (this.#setBackMs ?? 0) + setBackMs;
        reject(cause);
      };
      const take = (isMore: boolean) => {
        // The answer to this batch says anew when the next one is due.
        this.#atMs = Number.POSITIVE_INFINITY;
        resolve(isMore);
      };
      this.#thread.ask(["sweep", setBackMs], 1_000, failed, take, isFirst);
    });
  }
}
