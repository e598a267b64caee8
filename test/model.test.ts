/**
 * Random sequences of everything that clients, senders, time and an operator can do, on the real core and on the reference model, compared after
 * each step. A failure prints the shortest such sequence that was found, and the command to see it again.
 * @module
 */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { count, report } from "./faults/report.ts";
import { type EngineName, Store } from "./model/core.ts";
import { type Step, step } from "./model/steps.ts";
import { REACHED, World } from "./model/world.ts";

const SEED = Number(process.env.HANDOVER_SEED ?? Date.now() % 2 ** 31);
/** So many on each engine; of the thousand that are always played most on memory, which is twenty times as fast. */
const SEQUENCES: Readonly<Record<EngineName, number>> = { memory: count(750, 10_000), sqlite: count(250, 10_000) };
const PATH = process.env.HANDOVER_PATH;
const MAX_STEPS = 50;
/** So many sequences have one store: its file does not grow for ever. */
const PER_STORE = 100;
const limitMs = (name: EngineName) => 120_000 + SEQUENCES[name] * 300;

/** What the sequences must come to, or they prove nothing. */
const TO_REACH = [
  ...["accepted", "refused", "repeated", "key-reuse", "mailbox-full", "invalid", "unknown", "taken back", "not taken back"],
  ...["new", "resumed", "not resumed", "delivery", "delivery again", "settled", "gap expired", "gap replaced", "gap evicted", "gap dead"],
  ...["acked", "acked again", "acked nothing", "held", "held over a restart", "session ended", "drained", "closed", "killed"],
  ...["poll 200", "poll 200 later", "poll 204", "poll 204 later", "poll lost", "poll acked"],
];

/** Sequences that went wrong once, when the core was wrong or was made so on purpose, and that random ones seldom come to. They are played first. */
const EXAMPLES = JSON.parse(readFileSync(new URL("model/examples.json", import.meta.url), "utf8")) as { says: string; steps: Step[] }[];

beforeAll(() => {
  vi.useFakeTimers({ toFake: ["Date", "performance", "setTimeout", "clearTimeout", "setInterval", "clearInterval"] });
});
afterAll(() => {
  vi.useRealTimers();
});

async function playAll(name: EngineName): Promise<void> {
  const sequences = SEQUENCES[name];
  console.log(`${name}: ${sequences} sequences, HANDOVER_SEED=${SEED}`);
  REACHED.clear();
  let store: Store | undefined;
  let played = 0;
  let steps = 0;
  /** As far as the last sequence that went wrong was played. */
  let failed: readonly Step[] = [];
  const property = fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: MAX_STEPS, size: "max" }), async (sequence) => {
    if (played++ % PER_STORE === 0) {
      await store?.close();
      store = undefined;
    }
    store ??= await Store.open(name);
    const world = await World.begin(store);
    let next = 0;
    try {
      while (next < sequence.length) await world.play(sequence[next++] as Step);
      steps += sequence.length;
    } catch (thrown) {
      failed = sequence.slice(0, next);
      throw thrown;
    } finally {
      await world.end();
    }
  });
  try {
    const examples = EXAMPLES.map((example): [Step[]] => [example.steps]);
    // A path leads through the examples, too, to one sequence.
    const run = PATH ? { numRuns: 1, path: PATH, endOnFailure: true } : { numRuns: sequences + examples.length };
    const details = await fc.check(property, { ...run, examples, seed: SEED });
    const figures = { sequences: played, steps, divergences: details.failed ? 1 : 0, seed: SEED };
    report("R9", `random sequences, ${name === "memory" ? "memory engine" : "embedded store"}`, figures);
    if (details.failed) throw failureOf(details, failed, name);
  } finally {
    await store?.close();
  }
  // A few sequences do not come to everything.
  if (sequences >= 500 && !PATH) expect(TO_REACH.filter((what) => !REACHED.has(what)).join(), "what no sequence came to").toBe("");
}

/** The shortest sequence that was found, what was wrong, and how to see it again. */
function failureOf(details: fc.RunDetails<[Step[]]>, failed: readonly Step[], name: EngineName): Error {
  const { seed, counterexamplePath, errorInstance } = details;
  const command = `HANDOVER_SEED=${seed} HANDOVER_PATH=${counterexamplePath} npx vitest run test/model.test.ts -t ${name === "memory" ? "M1" : "M2"}`;
  const lines = [
    errorInstance instanceof Error ? errorInstance.message : String(errorInstance),
    "in the last step of this sequence, the shortest that was found:",
    failed.map((each) => `  ${JSON.stringify(each)}`).join(",\n"),
    `To see it again: ${command}`,
    "When it is mended, the sequence goes to test/model/examples.json.",
  ];
  return new Error(lines.join("\n"), { cause: errorInstance });
}

test("[M1] random sequences of everything that can happen go as the protocol says, on the memory engine", () => playAll("memory"), limitMs("memory"));

test(
  "[M2] random sequences of everything that can happen go as the protocol says, on the embedded store, opened again and killed",
  () => playAll("sqlite"),
  limitMs("sqlite"),
);

test("the reference is short enough to be read and believed: 200 lines", () => {
  const lines = readFileSync(new URL("model/reference.ts", import.meta.url), "utf8")
    .trimEnd()
    .split("\n");
  expect(lines.length).toBeLessThanOrEqual(200);
});
