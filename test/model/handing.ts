/**
 * Holds what receivers were given against the reference: each function throws when one was given what it must not get, or was not given what it must.
 * @module
 */
import assert from "node:assert/strict";
import { headOf, isFor, isToSession } from "./reference.ts";
import type { Delivery, Gap, Reader } from "./words.ts";

/** A link was given a delivery: the next one there is for it, with nothing left out before it. @param step  the step that goes on */
export function deliver(reader: Reader, { seq, deliveryCount, id, data }: Delivery, step: number): void {
  pass(reader, seq - 1, `delivery ${seq}`);
  const copy = reader.box.numbers[seq];
  assert.ok(copy?.seq === seq && isFor(copy, reader), `${reader.key} was handed ${seq}, which is not there or not for it`);
  assert.ok(!copy.ending || copy.endedIn === step, `${reader.key} was handed ${seq}, which was ${copy.ending} before`);
  assert.deepEqual([deliveryCount, id, data], [copy.count, copy.message.id, copy.message.sending.data], `the content of ${seq}`);
  reader.given.add(seq);
  if (!copy.ending) reader.inFlight.add(seq);
  else if (copy.endedBy !== reader.key) reader.owed.add(seq);
  reader.position = seq;
  assert.ok(reader.inFlight.size <= (reader.window ?? 0), `${reader.key} was handed ${seq} into a full window`);
}

/** A link was told of a gap: nothing unsettled lies in it, and something that ended unacknowledged, each for the reason that is said. */
export function miss(reader: Reader, { from, to, reason }: Gap): void {
  pass(reader, from - 1, `gap ${from}`);
  const what = `${reader.key} was told of the gap ${from} to ${to}`;
  assert.ok(from <= to && to <= headOf(reader.box) && to > reader.gapsFrom, `${what}, which cannot be, or is from before it came`);
  const here = reader.box.numbers.slice(from, to + 1).flatMap((copy, place) => (copy?.seq === from + place ? copy : []));
  for (const { seq, ending } of here) assert.ok(ending, `${what}, and ${seq} is not settled`);
  const lost = here.filter((copy) => copy.ending !== "acked" && isToSession(copy, reader));
  assert.ok(lost.length > 0, `${what}, where nothing ended that it could have had`);
  for (const { seq, ending } of lost) assert.equal(reason, ending, `${what}: the reason of ${seq}`);
  reader.position = to;
}

/** A link was told `settled`: of what has ended, and not by itself. A hint: below its cursor it may be of mail that was not for it. */
export function told(reader: Reader, seqs: readonly number[]): void {
  for (const seq of seqs) {
    const copy = reader.box.numbers[seq];
    assert.ok(copy?.seq === seq && copy.ending && copy.endedBy !== reader.key, `${reader.key} was told that ${seq} is settled`);
    reader.owed.delete(seq);
  }
}

/** Whoever is connected has everything that is for it, up to its window, once nothing moves any more. */
export function complete(reader: Reader): void {
  if (reader.inFlight.size < (reader.window ?? 0)) pass(reader, headOf(reader.box), "the end of what came");
  assert.deepEqual([...reader.owed], [], `${reader.key} was not told that these are settled`);
}

/** Nothing up to `upto` was left out. @param what  comes there */
export function pass(reader: Reader, upto: number, what: string): void {
  assert.ok(upto >= reader.position, `${reader.key} has had ${reader.position}, and then comes ${what}: out of order, or again`);
  for (let seq = reader.position + 1; seq <= upto; seq++) {
    const copy = reader.box.numbers[seq];
    if (copy?.seq !== seq || !isFor(copy, reader) || copy.ending === "acked") continue;
    assert.ok(copy.ending, `${reader.key} was not handed ${seq} before ${what}`);
    assert.ok(seq <= reader.gapsFrom, `${reader.key} was not told of the gap at ${seq} (${copy.ending}) before ${what}`);
  }
  reader.position = upto;
}
