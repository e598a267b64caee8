import { test } from "vitest";
import { memoryEngine } from "../../src/engines/memory.ts";
import { engineSuite } from "../../src/testing/engine-suite.ts";

engineSuite({
  name: "memory",
  supports: memoryEngine().supports,
  hasClock: true,
  test,
  make: async (limits) => {
    let aheadMs = 0;
    const now = () => Date.now() + aheadMs;
    const engine = memoryEngine({ ...limits, now });
    await engine.open((cause) => {
      throw cause;
    });
    return {
      engine,
      now,
      advance: async (ms) => {
        aheadMs += ms;
        await engine.sweep();
      },
      dispose: () => engine.close(),
    };
  },
});
