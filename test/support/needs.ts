/**
 * Suites that need something a machine may lack. On a laptop they are left out, with a line at the end of `npm test` that says so and
 * how to have them; with `CI` set, leaving one out fails.
 * @module
 */
import { appendFileSync } from "node:fs";
import { describe, test } from "vitest";

export interface Need {
  /** Whether the machine has it. */
  readonly isThere: boolean;
  /** What is missing, e.g. `there is no Chromium`. */
  readonly reason: string;
  /** How to have it, e.g. `apt-get install chromium`. */
  readonly how: string;
}

/** `describe`, for a suite that needs something. */
export function describeWith(need: Need, suite: string, body: () => void): void {
  if (need.isThere) {
    describe(suite, body);
    return;
  }
  const file = process.env.HANDOVER_TEST_LEFT_OUT;
  if (file) appendFileSync(file, `${JSON.stringify({ suite, reason: need.reason, how: need.how })}\n`);
  if (process.env.CI) {
    test(`${suite} must not be left out here: ${need.reason}; ${need.how}`, () => {
      throw new Error(`${need.reason}; to have it: ${need.how}`);
    });
  } else {
    describe.skip(`${suite} (left out: ${need.reason})`, body);
  }
}
