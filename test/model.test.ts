/**
 * Random sequences of everything that clients, senders, time and an operator can do, on the real core and on the reference model, compared after
 * each step. A failure prints the shortest such sequence that was found, and the command to see it again.
 * @module
 */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { type EngineName, Store } from "./model/core.ts";
import { EXAMPLES } from "./model/examples.ts";
import { type Step, step } from "./model/steps.ts";
import { REACHED, World } from "./model/world.ts";

const SEED = Number(process.env.HANDOVER_SEED ?? Date.now() % 2 ** 31);
/** Half of them on each engine. */
const SEQUENCES = Math.ceil(Number(process.env.HANDOVER_RUNS ?? 1_000) / 2);
const PATH = process.env.HANDOVER_PATH;
const MAX_STEPS = 50;
/** So many sequences have one store: its file does not grow for ever. */
const PER_STORE = 100;
const LIMIT_MS = 120_000 + SEQUENCES * 300;

/** What the sequences must come to, or they prove nothing. */
const TO_REACH = [
  ...["accepted", "refused", "repeated", "key-reuse", "mailbox-full", "invalid", "unknown", "taken back", "not taken back"],
  ...["new", "resumed", "not resumed", "delivery", "delivery again", "settled", "gap expired", "gap replaced", "gap evicted", "gap dead"],
  ...["acked", "acked again", "acked nothing", "held", "session ended", "drained", "closed", "killed"],
  ...["poll 200", "poll 200 later", "poll 204", "poll 204 later", "poll lost"],
];

beforeAll(() => {
  vi.useFakeTimers({ toFake: ["Date", "setTimeout", "clearTimeout", "setInterval", "clearInterval"] });
});
afterAll(() => {
  vi.useRealTimers();
});

async function playAll(name: EngineName): Promise<void> {
  console.log(`${name}: ${SEQUENCES} sequences, HANDOVER_SEED=${SEED}`);
  REACHED.clear();
  const examples = PATH ? [] : EXAMPLES.map((steps): [Step[]] => [[...steps]]);
  let store: Store | undefined;
  let played = 0;
  let steps = 0;
  const startedMs = performance.now();
  const property = fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: MAX_STEPS, size: "max" }), async (sequence) => {
    if (played++ % PER_STORE === 0) {
      await store?.close();
      store = undefined;
    }
    store ??= await Store.open(name);
    const world = await World.begin(store);
    try {
      for (const each of sequence) await world.play(each);
      steps += sequence.length;
    } finally {
      await world.end();
    }
  });
  try {
    const details = await fc.check(property, { numRuns: SEQUENCES + examples.length, seed: SEED, examples, ...(PATH ? { path: PATH } : {}) });
    if (details.failed) throw failureOf(details, name);
  } finally {
    await store?.close();
    console.log(`${name}: ${played} sequences played, ${steps} steps, seed ${SEED}, ${Math.round(performance.now() - startedMs)} ms`);
  }
  // A few sequences do not come to everything.
  if (SEQUENCES >= 200 && !PATH) expect(TO_REACH.filter((what) => !REACHED.has(what)).join(), "what no sequence came to").toBe("");
}

/** The shortest sequence that was found, what was wrong, and how to see it again. */
function failureOf(details: fc.RunDetails<[Step[]]>, name: EngineName): Error {
  const steps = details.counterexample?.[0].map((each) => `  ${JSON.stringify(each)},\n`).join("") ?? "";
  const variables = `HANDOVER_SEED=${details.seed} HANDOVER_PATH=${details.counterexamplePath}`;
  const command = `${variables} npx vitest run test/model.test.ts -t ${name === "memory" ? "M1" : "M2"}`;
  const what = details.errorInstance instanceof Error ? details.errorInstance.message : String(details.errorInstance);
  return new Error(
    `${what}\nat the end of this sequence, the shortest of ${details.numShrinks + 1} that go wrong:\n${steps}To see it again: ${command}\nFound and mended, it goes to test/model/examples.ts.`,
    { cause: details.errorInstance },
  );
}

test("[M1] random sequences of everything that can happen go as the protocol says, on the memory engine", () => playAll("memory"), LIMIT_MS);

test(
  "[M2] random sequences of everything that can happen go as the protocol says, on the embedded store, opened again and killed",
  () => playAll("sqlite"),
  LIMIT_MS,
);

test("the reference is short enough to be read and believed: 200 lines", () => {
  const lines = readFileSync(new URL("model/reference.ts", import.meta.url), "utf8")
    .trimEnd()
    .split("\n");
  expect(lines.length).toBeLessThanOrEqual(200);
});
