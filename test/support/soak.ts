/**
 * Suites that are played longer by `npm run soak` say here how much that was.
 * @module
 */
import { appendFileSync } from "node:fs";

/** Says what a suite has played, e.g. `1000 sequences`; `npm run soak` writes it down. */
export function played(what: string): void {
  console.log(what);
  const file = process.env.HANDOVER_SOAK;
  if (file) appendFileSync(file, `${what}\n`);
}
