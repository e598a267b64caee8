import { test } from "vitest";
import { type SqliteEngine, sqliteEngine } from "../../src/engines/sqlite.ts";
import { engineSuite } from "../../src/testing/engine-suite.ts";
import { makeFolder } from "./folder.ts";

engineSuite({
  name: "sqlite",
  supports: sqliteEngine({ dir: "/nowhere" }).supports,
  hasClock: true,
  test,
  make: async (limits) => {
    const { dir, remove } = makeFolder();
    let aheadMs = 0;
    const now = () => Date.now() + aheadMs;
    const open = async (): Promise<SqliteEngine> => {
      const engine = sqliteEngine({ dir, ...limits, now, reserveBytes: 65_536, log: () => {} });
      await engine.open((cause) => {
        throw cause;
      });
      return engine;
    };
    let engine = await open();
    const reopen = async () => {
      await engine.close();
      engine = await open();
      return engine;
    };
    return {
      engine,
      now,
      reopen,
      advance: async (ms) => {
        aheadMs += ms;
        await engine.sweep();
      },
      reopenAfter: async (ms) => {
        await engine.close();
        aheadMs += ms;
        return reopen();
      },
      dispose: async () => {
        await engine.close();
        remove();
      },
    };
  },
});
