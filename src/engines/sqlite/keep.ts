/** How long what has ended is known, and when it may be forgotten. */

/** The state of a settled message, and of an idempotency key. */
export const KEEP_MS = 24 * 3600_000;
export const KEEP_DEAD_MS = 7 * KEEP_MS;
/** What may be forgotten is forgotten in strokes of this, not each row on its own. */
const STROKE_MS = 10_000;

/** The stroke with which something goes that may go at `ms`, ms since the Unix epoch. */
export function strokeOf(ms: number): number {
  return Math.ceil(ms / STROKE_MS) * STROKE_MS;
}
