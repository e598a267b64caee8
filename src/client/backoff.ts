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
export async function pause(waitMs: number, signal?: AbortSignal): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let forget = () => {};
  await new Promise<void>((resolve) => {
    timer = setTimeout(resolve, waitMs);
    forget = onAbort(signal, resolve);
  });
  clearTimeout(timer);
  forget();
}

/** The first of these that is settled; undefined, when none is in time. */
export async function within<T>(waitMs: number, ...promises: readonly (T | Promise<T>)[]): Promise<T | undefined> {
  const over = new AbortController();
  try {
    return (await Promise.race([...promises, pause(waitMs, over.signal)])) as T | undefined;
  } finally {
    over.abort();
  }
}

/** Calls `then` when a signal is aborted; at once, when it is already. @returns a function that takes that back */
export function onAbort(signal: AbortSignal | undefined, then: () => void): () => void {
  if (signal?.aborted) then();
  signal?.addEventListener("abort", then);
  return () => signal?.removeEventListener("abort", then);
}

/** An alarm that rings so much later than it should does so in a page that was asleep, or whose timers are held back. */
const LATE_MS = 2_000;

/**
 * Calls `then` when nothing has come for so long. A page that wakes up finds its timers first and only then what came meanwhile: so an alarm that
 * rings late waits once more before it judges.
 * @returns a function that takes the alarm back
 */
export function alarm(waitMs: number, then: () => void): () => void {
  const lateMs = Date.now() + waitMs + LATE_MS;
  let timer = setTimeout(() => {
    if (Date.now() > lateMs) timer = setTimeout(then, waitMs);
    else then();
  }, waitMs);
  return () => clearTimeout(timer);
}
