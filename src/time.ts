/**
 * Times as the wire has them. A file of its own: the store's thread needs it, and nothing else of the protocol, whose schemas take long to load.
 * @module
 */

/** Writes times, given in ms since the Unix epoch, as RFC 3339. Those of one batch are mostly the same one, which is written once. */
export function timeWriter(): (ms: number) => string {
  let lastMs = Number.NaN;
  let lastTime = "";
  return (ms) => {
    if (ms !== lastMs) {
      lastTime = new Date(ms).toISOString();
      lastMs = ms;
    }
    return lastTime;
  };
}

/** Writes the time at which something happened. */
export const writeTime = timeWriter();
