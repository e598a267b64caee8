import { ENDINGS } from "./call.ts";

/**
 * The gaps between what is unsettled: runs of endings with the same reason, never across an unsettled number.
 * @param after      gaps begin above this
 * @param upto       … and end here at the latest
 * @param unsettled  numbers of what is unsettled, ascending
 * @param ended      unacknowledged endings, ascending
 * @param forgotten  up to here endings may have been purged: their reason is unknown
 * @returns flat triples: from, to, place of the reason in ENDINGS or -1 for unknown
 */
export function mergeGaps(
  after: number,
  upto: number,
  unsettled: readonly number[],
  ended: readonly { readonly seq: number; readonly ending: string }[],
  forgotten: number,
): readonly number[] {
  if (ended.length === 0 && forgotten <= after) return [];
  const gaps: number[] = [];
  let next = 0;
  let start = after + 1;
  for (const wall of [...unsettled.filter((seq) => seq <= upto), upto + 1]) {
    const knownFrom = Math.max(start, Math.min(forgotten, wall - 1) + 1);
    if (knownFrom > start) gaps.push(start, knownFrom - 1, -1);
    let run = -2;
    for (let row = ended[next]; row && row.seq < wall; row = ended[next]) {
      next += 1;
      if (row.seq < knownFrom) continue;
      const reason = (ENDINGS as readonly string[]).indexOf(row.ending);
      if (reason === run) gaps[gaps.length - 2] = row.seq;
      else gaps.push(row.seq, row.seq, reason);
      run = reason;
    }
    start = wall + 1;
  }
  return gaps;
}
