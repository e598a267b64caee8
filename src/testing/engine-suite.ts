/**
 * The suite that every engine has to pass: the rules E… of SPEC.md, each with its proof. It belongs to no test runner.
 *
 * ```ts
 * import { test } from "node:test"
 * engineSuite({ name: "mine", supports, test, make: async (limits) => ({ engine, reopen, dispose }) })
 * ```
 * @module
 */
import { deepEqual } from "node:assert/strict";
import type { EngineSupports } from "../engine.ts";
import { APPEND_RULES } from "./engine-append.ts";
import { Bench, type EngineLimits, type EngineUnderTest, type Rule } from "./engine-bench.ts";
import { HOLD_RULES } from "./engine-hold.ts";
import { MAILBOX_RULES } from "./engine-mailbox.ts";
import { SESSION_RULES } from "./engine-session.ts";
import { SETTLE_RULES } from "./engine-settle.ts";

export type { EngineLimits, EngineUnderTest } from "./engine-bench.ts";

export interface EngineSuiteOptions {
  /** Stands in front of each title. */
  readonly name: string;
  /** What the engine says of itself; a rule that it cannot carry is left out, and why is printed. */
  readonly supports: EngineSupports;
  /** Whether `make` gives `advance`: a clock that can be moved. */
  readonly hasClock: boolean;
  /** Registers a test: `test` of vitest, of node:test, or one's own. */
  readonly test: (title: string, run: () => Promise<void>) => void;
  /** Makes a fresh store and opens it. Called once per rule. */
  readonly make: (limits: EngineLimits) => Promise<EngineUnderTest>;
}

/** The rules, for those who keep a list. */
export const ENGINE_RULES: readonly Rule[] = [...APPEND_RULES, ...SETTLE_RULES, ...MAILBOX_RULES, ...SESSION_RULES, ...HOLD_RULES];

/** Registers a test for every rule of the suite. */
export function engineSuite({ name, supports, hasClock, test, make }: EngineSuiteOptions): void {
  const lacks = {
    durable: supports.durable === "no" ? "supports.durable is `no`" : undefined,
    topic: supports.topic ? undefined : "supports.topic is false",
    takeBack: supports.takeBack ? undefined : "supports.takeBack is false",
    state: supports.state ? undefined : "supports.state is false",
    advance: hasClock ? undefined : "its clock cannot be moved",
  };
  for (const rule of ENGINE_RULES) {
    const why = (rule.needs ?? []).flatMap((need) => lacks[need] ?? []);
    if (why.length > 0) {
      console.log(`${name}: left out because ${why.join(" and ")}: ${rule.title}`);
      continue;
    }
    test(`${name}: ${rule.title}`, async () => {
      const subject = await make(rule.limits ?? {});
      try {
        deepEqual(subject.engine.supports, supports, "`supports` as given to the suite");
        await rule.run(new Bench(subject));
      } finally {
        await subject.dispose();
      }
    });
  }
}
