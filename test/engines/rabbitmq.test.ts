import { test } from "vitest";
import { type RabbitmqEngine, rabbitmqEngine } from "../../src/engines/rabbitmq.ts";
import { type SqliteEngine, sqliteEngine } from "../../src/engines/sqlite.ts";
import { engineSuite } from "../../src/testing/engine-suite.ts";
import { randomName, removeJournal } from "../support/broker.ts";
import { AMQP_URL, describeWith, RABBITMQ } from "../support/needs.ts";
import { makeFolder } from "./folder.ts";

describeWith(RABBITMQ, "the RabbitMQ engine", () => {
  engineSuite({
    name: "rabbitmq",
    supports: { durable: "power", manyNodes: false, topic: true, takeBack: true, state: true, receipts: false },
    hasClock: true,
    test,
    make: async (limits) => {
      const { dir, remove } = makeFolder();
      const journal = randomName();
      let aheadMs = 0;
      const now = () => Date.now() + aheadMs;
      let index: SqliteEngine;
      const open = async (): Promise<RabbitmqEngine> => {
        index = sqliteEngine({ dir, ...limits, now, reserveBytes: 65_536, log: () => {} });
        const made = rabbitmqEngine({ url: AMQP_URL, journal, index, newQueueRestMs: 0, log: () => {} });
        await made.open((cause) => {
          throw cause;
        });
        return made;
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
          await index.sweep();
        },
        reopenAfter: async (ms) => {
          await engine.close();
          aheadMs += ms;
          return reopen();
        },
        dispose: async () => {
          await engine.close();
          await removeJournal(journal);
          remove();
        },
      };
    },
  });
});
