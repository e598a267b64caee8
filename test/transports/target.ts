/**
 * The transport suite on this project's server, for vitest.
 * @module
 */
import fc from "fast-check";
import { afterAll, describe, test } from "vitest";
import { type Target, transportSuite, type Wire } from "../../src/testing/transport-suite.ts";
import { type EngineName, SERVICE_CREDENTIAL, start, TOKEN_SECRET } from "../support/started.ts";

const SEED = process.env.HANDOVER_TEST_SEED ? Number(process.env.HANDOVER_TEST_SEED) : Date.now() % 1_000_000;

/** JSON values of every shape; what JSON itself does not keep (a negative zero, in JSON.stringify) is left out. */
function jsonValues(): readonly unknown[] {
  console.log(`JSON values of seed ${SEED}`);
  return fc
    .sample(fc.jsonValue({ maxDepth: 6, stringUnit: "binary" }), { numRuns: 60, seed: SEED })
    .map((value) => JSON.stringify(value))
    .filter((text) => !text.includes("__proto__"))
    .map((text): unknown => JSON.parse(text));
}

/** Registers the suite on one engine. */
export function suiteOn(engine: EngineName, wire: Wire): void {
  describe(`${wire.kind} on ${engine}`, () => {
    transportSuite({
      name: `${wire.kind} on ${engine}`,
      wire,
      values: jsonValues(),
      start: async (): Promise<Target> => {
        const started = await start(engine);
        const { url, stop, restart, server } = started;
        const { supports } = server.engine;
        return { url, serviceKey: SERVICE_CREDENTIAL, tokenSecret: TOKEN_SECRET, supports, stop, ...(supports.durable === "no" ? {} : { restart }) };
      },
      test: (title, body, limitMs) => test(title, body, limitMs),
      after: afterAll,
    });
  });
}
