/**
 * The fault tests are short in `npm test` and long in `npm run faults`, which sets HANDOVER_FAULTS=long and collects what they report.
 * @module
 */
import { appendFileSync } from "node:fs";

const isLong = process.env.HANDOVER_FAULTS === "long";

/** A count for `npm test`, and one for `npm run faults`. */
export function count(short: number, long: number): number {
  return isLong ? long : short;
}

/** Time for a test that does `n` rounds, ms. */
export function patience(n: number, roundMs: number): number {
  return 30_000 + n * roundMs;
}

/** The value below which so many percent of the values lie, rounded. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((one, other) => one - other);
  return Math.round(sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN);
}

/** Notes what a fault test did and found: one row of docs/reliability.md. */
export function report(test: string, fault: string, figures: Readonly<Record<string, string | number>>): void {
  const file = process.env.HANDOVER_FAULTS_REPORT;
  const line = JSON.stringify({ test, fault, figures });
  console.log(`${test} ${fault}: ${JSON.stringify(figures)}`);
  if (file) appendFileSync(file, `${line}\n`);
}

/** Numbers that look random and are the same for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

export const SEED = Number(process.env.HANDOVER_TEST_SEED ?? Date.now() % 1_000_000);
