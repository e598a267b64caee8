import { expect, test } from "vitest";
import { type RabbitmqEngine, rabbitmqEngine } from "../../src/engines/rabbitmq.ts";
import { type SqliteEngine, sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { engineSuite } from "../../src/testing/engine-suite.ts";
import { randomName, removeJournal } from "../support/broker.ts";
import { AMQP_URL, describeWith, RABBITMQ } from "../support/needs.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";

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

  test("[E70] the journal is told what ended with a session: a rebuild from it brings nothing of it back", async () => {
    const folders = [makeFolder(), makeFolder()];
    const journal = randomName();
    const [user, session] = ["bob" as UserId, "tab-1" as SessionId];
    const open = async (dir: string) => {
      const index = sqliteEngine({ dir, reserveBytes: 65_536, log: () => {} });
      const engine = rabbitmqEngine({ url: AMQP_URL, journal, index, newQueueRestMs: 0, log: () => {} });
      await engine.open((cause) => {
        throw cause;
      });
      return engine;
    };
    const first = await open(folders[0]?.dir ?? "");
    for (const id of ["a", "b"]) await first.append([makeMessage(id, [], { recipients: [{ user, session }] })]);
    await first.append([makeMessage("c", ["bob"])]);
    expect((await first.endSession(session)).evicted.map(({ id }) => id)).toEqual(["a", "b"]);
    expect(await first.append([makeMessage("d", [], { recipients: [{ user, session }] })])).toEqual([{ outcome: "session-ended" }]);
    await first.close();
    const second = await open(folders[1]?.dir ?? "");
    const desk = await second.attach(user, { deliver: () => {}, ended: () => {}, lost: () => {} });
    const { entries } = await desk.read({ after: 0, limit: 10, maxBytes: 100_000, session });
    expect(entries.map(({ id }) => id)).toEqual(["c"]);
    await second.close();
    await removeJournal(journal);
    for (const { remove } of folders) remove();
  });
});
