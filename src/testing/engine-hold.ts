import { deepEqual, equal } from "node:assert/strict";
import { HOLD_BOUNDS, type Settlement } from "../engine.ts";
import type { ReceiverId, Seq } from "../protocol.ts";
import { type Bench, BOB, type Desk, EVE, HOUR_MS, ids, OTHER_TAB, type Rule, seqs, TAB } from "./engine-bench.ts";

const ONE = "one" as ReceiverId;
const TWO = "two" as ReceiverId;

const held = (desk: Desk, receiver = ONE, session = TAB) => desk.attachment.held(receiver, session);
const hold = (seqs: readonly Seq[], receiver = ONE): Settlement => ({ kind: "held", receiver, seqs });

/** Opens the store again where it can be, and attaches again. */
async function again(bench: Bench, desk: Desk): Promise<Desk> {
  await desk.attachment.detach();
  if (bench.supports.durable !== "no") await bench.reopen();
  return bench.attach();
}

/** Rules about holds: E71 to E76. */
export const HOLD_RULES: readonly Rule[] = [
  {
    title: "[E71] a hold ends nothing: the entry stays, and each receiver of each session has its own holds, of what it may see",
    run: async (bench) => {
      await bench.many(3);
      await bench.stored({ recipients: [{ user: BOB, session: OTHER_TAB }] });
      const desk = await bench.attach();
      deepEqual(await held(desk), []);
      deepEqual(await desk.settle(hold([3, 1, 3]), hold([2], TWO)), []);
      deepEqual(await desk.settle(hold([1, 4, 999_999]), hold([])), []);
      deepEqual(await desk.attachment.settle([hold([4])], OTHER_TAB), []);
      deepEqual(
        [await held(desk), await held(desk, TWO), await held(desk, ONE, OTHER_TAB), await held(desk, TWO, OTHER_TAB)],
        [[1, 3], [2], [4], []],
      );
      deepEqual(seqs((await desk.read()).entries), [1, 2, 3]);
      deepEqual(await held(await bench.attach(EVE)), []);
      deepEqual([desk.endings, (await bench.engine.totals()).unsettled], [[], 4]);
      // What spares it is the number that is named, as ever.
      deepEqual(await desk.settle({ kind: "acked-upto", upto: 3, except: await held(desk) }), [{ seq: 2, ending: "acked" }]);
      deepEqual([await held(desk), await held(desk, TWO)], [[1, 3], []]);
    },
  },
  {
    title: "[E72] holds are kept when the store is opened again",
    needs: ["durable"],
    run: async (bench) => {
      await bench.many(3);
      const first = await bench.attach();
      await first.settle(hold([1, 3]), hold([2], TWO));
      await first.settle({ kind: "acked", seqs: [3] });
      await bench.reopen();
      const desk = await bench.attach();
      deepEqual([await held(desk), await held(desk, TWO)], [[1], [2]]);
    },
  },
  {
    title: "[E73] what ends, or gets another number, is held by nobody, whatever ended it",
    needs: ["takeBack", "topic"],
    run: async (bench) => {
      await bench.many(5);
      const evicted = await bench.stored();
      await bench.stored({ topic: "t" });
      const desk = await bench.attach();
      await bench.stored({ ttlMs: 300 });
      const all = [1, 2, 3, 4, 5, 6, 7, 8];
      await desk.settle(hold(all), hold(all, TWO));
      deepEqual(await held(desk), all);
      await desk.settle({ kind: "acked", seqs: [1] }, { kind: "rejected", seq: 2, reason: "" });
      await desk.settle({ kind: "nacked", seq: 3, retryAfterMs: 0 }, { kind: "nacked", seq: 4, retryAfterMs: HOUR_MS });
      await bench.engine.evict(evicted.id);
      await bench.stored({ topic: "t" });
      await desk.told(3);
      deepEqual([await held(desk), await held(desk, TWO)], [[5], [5]]);
      const later = await again(bench, desk);
      deepEqual([await held(later), await held(later, TWO)], [[5], [5]]);
    },
  },
  {
    title: "[E74] a release takes a receiver's holds above a number, and nobody else's",
    run: async (bench) => {
      await bench.many(4);
      const desk = await bench.attach();
      await desk.settle(hold([1, 2, 3, 4]), hold([3, 4], TWO));
      deepEqual(await desk.settle({ kind: "released", receiver: ONE, above: 2 }), []);
      deepEqual(
        [await held(desk), await held(desk, TWO)],
        [
          [1, 2],
          [3, 4],
        ],
      );
      await desk.settle({ kind: "released", receiver: ONE, above: 2 }, { kind: "released", receiver: "nobody" as ReceiverId, above: 0 });
      // In the order in which they were said.
      await desk.settle({ kind: "released", receiver: TWO, above: 0 }, hold([4], TWO));
      const later = await again(bench, desk);
      if (bench.supports.durable !== "no") deepEqual([await held(later), await held(later, TWO)], [[1, 2], [4]]);
      equal((await later.read()).entries.length, 4);
    },
  },
  {
    title: "[E75] with its session a receiver's holds are forgotten; those of other sessions stay",
    run: async (bench) => {
      await bench.many(2);
      await bench.stored({ recipients: [{ user: BOB, session: TAB }] });
      const desk = await bench.attach();
      await desk.settle(hold([1, 3]));
      await desk.attachment.settle([hold([1, 2])], OTHER_TAB);
      await bench.engine.endSession(TAB);
      deepEqual([await held(desk), await held(desk, ONE, OTHER_TAB)], [[], [1, 2]]);
      deepEqual(seqs((await desk.read()).entries), [1, 2]);
    },
  },
  {
    title: "[E76] the holds of a mailbox are bounded, in receivers and in numbers: who held something longest ago is forgotten first",
    limits: { mailboxMaxMessages: 2_000 },
    run: async (bench) => {
      const { receivers, holds } = HOLD_BOUNDS;
      const messages = await bench.many(1_500);
      await bench.many(1, { to: [EVE] });
      const [desk, eve] = [await bench.attach(), await bench.attach(EVE)];
      await eve.settle(hold([1]));
      const name = (n: number) => `r${n}` as ReceiverId;
      for (let n = 0; n < receivers; n++) await desk.settle(hold([1], name(n)));
      // The oldest but one is the oldest now.
      await bench.advance(1_000);
      await desk.settle(hold([2], name(0)));
      await desk.settle(hold([1], name(receivers)));
      const holding = async (...numbers: readonly number[]) => Promise.all(numbers.map(async (n) => (await held(desk, name(n))).length));
      deepEqual(await holding(0, 1, 2, receivers), [2, 0, 1, 1]);
      const all = messages.map((_message, place) => place + 1);
      const full = Math.floor(holds / all.length);
      for (let n = 0; n < full; n++) {
        await bench.advance(1_000);
        await desk.settle(hold(all, name(5_000 + n)));
      }
      // As many are forgotten as it takes.
      deepEqual(await holding(0, 2, receivers, 5_000, 5_000 + full - 1), [2, 0, 1, all.length, all.length]);
      await bench.advance(1_000);
      await desk.settle(hold(all, name(6_000)));
      deepEqual(await holding(0, receivers, 5_000, 5_001, 6_000), [0, 0, 0, all.length, all.length]);
      deepEqual(await held(eve), [1]);
      equal(ids((await desk.read({ limit: 2_000 })).entries).length, all.length);
    },
  },
];
