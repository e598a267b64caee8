/**
 * How long to wait before another try.
 * @module
 */

/** Most time between two tries, in ms. */
const CAP_MS = 4_000;
const FIRST_MS = 250;

/**
 * Exponential backoff with full jitter: a random time between 0 and 250 ms, 500 ms, … 4 s, so that clients whose server went away
 * together do not come back together.
 * @param attempt  0 for the first try after something that worked
 * @returns ms
 * @see PROTOCOL.md, "Errors", 45xx · https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export function backoffMs(attempt: number): number {
  return Math.random() * Math.min(CAP_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
}

/** Waits; ends early, without an error, when `signal` is aborted. */
export function pause(waitMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, waitMs);
    signal?.addEventListener("abort", end);
  });
}
