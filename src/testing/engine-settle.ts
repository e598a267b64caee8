import { deepEqual, equal, ok } from "node:assert/strict";
import type { MessageId } from "../protocol.ts";
import { BOB, EVE, HOUR_MS, ids, OTHER_TAB, type Rule, seqs, TAB } from "./engine-bench.ts";

/** Rules about endings: E17 to E32. */
export const SETTLE_RULES: readonly Rule[] = [
  {
    title: "[E17] acknowledged is gone; the answer names what newly ended, and numbers that are not there are passed over",
    run: async (bench) => {
      await bench.many(3);
      const desk = await bench.attach();
      const [one = 0, two = 0, three = 0] = seqs((await desk.read()).entries);
      deepEqual(await desk.settle({ kind: "acked", seqs: [two, 999_999, one, two] }), [
        { seq: two, ending: "acked" },
        { seq: one, ending: "acked" },
      ]);
      deepEqual(await desk.settle({ kind: "acked", seqs: [one, two] }), []);
      deepEqual(seqs((await desk.read()).entries), [three]);
    },
  },
  {
    title: "[E18] a settlement is kept when the store is opened again",
    needs: ["durable"],
    run: async (bench) => {
      const [, , last] = await bench.many(3);
      const desk = await bench.attach();
      const [one = 0, two = 0] = seqs((await desk.read()).entries);
      await desk.settle({ kind: "acked", seqs: [one] }, { kind: "rejected", seq: two, reason: "no" });
      await bench.reopen();
      deepEqual(ids(await bench.mail()), [last?.id]);
    },
  },
  {
    title: "[E19] `acked-upto` settles up to its number, that number included, except the exceptions",
    run: async (bench) => {
      await bench.many(5);
      const desk = await bench.attach();
      const [one = 0, two = 0, three = 0, four = 0, five = 0] = seqs((await desk.read()).entries);
      const ended = await desk.settle({ kind: "acked-upto", upto: four, except: [two, 999_999] });
      deepEqual(seqs(ended), [one, three, four]);
      deepEqual(seqs((await desk.read()).entries), [two, five]);
      deepEqual(await desk.settle({ kind: "acked-upto", upto: four, except: [two] }), []);
    },
  },
  {
    title: "[E20] mail addressed to one session is read by that session alone, and a settlement by another passes it over",
    run: async (bench) => {
      const hers = await bench.stored({ recipients: [{ user: BOB, session: OTHER_TAB }] });
      const all = await bench.stored();
      const desk = await bench.attach();
      deepEqual(ids((await desk.read({ session: TAB })).entries), [all.id]);
      const { entries } = await desk.read({ session: OTHER_TAB });
      deepEqual(ids(entries), [hers.id, all.id]);
      equal(entries[0]?.session, OTHER_TAB);
      ok(entries[1] && !("session" in entries[1]));
      const seq = entries[0]?.seq ?? 0;
      const tries = await desk.attachment.settle(
        [
          { kind: "acked", seqs: [seq] },
          { kind: "rejected", seq, reason: "" },
          { kind: "nacked", seq, retryAfterMs: 0 },
          { kind: "acked-upto", upto: seq, except: [] },
        ],
        TAB,
      );
      deepEqual(tries, []);
      deepEqual(await desk.read({ session: OTHER_TAB }), { entries, gaps: [], upto: entries[1].seq });
      deepEqual(seqs(await desk.attachment.settle([{ kind: "acked", seqs: [seq] }], OTHER_TAB)), [seq]);
    },
  },
  {
    title: "[E21] the first ending wins, whichever comes second",
    run: async (bench) => {
      const [acked, rejected] = await bench.many(2);
      const desk = await bench.attach();
      const [one = 0, two = 0] = seqs((await desk.read()).entries);
      const both = [
        desk.settle({ kind: "acked", seqs: [one] }, { kind: "rejected", seq: one, reason: "late" }),
        desk.settle({ kind: "rejected", seq: two, reason: "no" }, { kind: "acked", seqs: [one, two] }),
        desk.settle(
          { kind: "nacked", seq: one, retryAfterMs: 0 },
          { kind: "nacked", seq: two, retryAfterMs: 0 },
          { kind: "acked-upto", upto: two, except: [] },
        ),
      ];
      deepEqual((await Promise.all(both)).flat(), [
        { seq: one, ending: "acked" },
        { seq: two, ending: "dead" },
      ]);
      if (bench.supports.takeBack) for (const message of [acked, rejected]) equal(await bench.engine.evict(message?.id ?? ("" as MessageId)), 0);
      const totals = await bench.engine.totals();
      deepEqual([totals.acked, totals.dead, totals.evicted, totals.unsettled], [1, 1, 0, 0]);
    },
  },
  {
    title: "[E22] rejected is `dead`: gone from the mailbox, and counted",
    run: async (bench) => {
      const message = await bench.stored();
      const desk = await bench.attach();
      const seq = desk.attachment.head;
      deepEqual(await desk.settle({ kind: "rejected", seq, reason: "not for me" }), [{ seq, ending: "dead" }]);
      deepEqual((await desk.read()).entries, []);
      equal((await bench.engine.totals()).dead, 1);
      if (bench.supports.state) equal((await bench.engine.find(message.id))?.recipients[0]?.state, "dead");
    },
  },
  {
    title:
      "[E23] a nack without delay puts the message at the end under a new number, same id, `deliveryCount` one higher, and tells it as new; its old number is gone",
    run: async (bench) => {
      const [first, second] = await bench.many(2);
      const desk = await bench.attach();
      const [one = 0, two = 0] = seqs((await desk.read()).entries);
      deepEqual(await desk.settle({ kind: "nacked", seq: one, retryAfterMs: 0 }, { kind: "nacked", seq: one, retryAfterMs: 0 }), []);
      const [again] = await desk.delivered(1);
      ok(again && again.seq > two);
      deepEqual([again.id, again.deliveryCount, again.event], [first?.id, 2, first?.event]);
      // Nacks and acknowledgements of the old number count no more.
      deepEqual(await desk.settle({ kind: "nacked", seq: one, retryAfterMs: 0 }, { kind: "acked", seqs: [one] }), []);
      deepEqual(ids((await desk.read()).entries), [second?.id, first?.id]);
      deepEqual((await desk.read()).entries[1], again);
      equal(desk.entries.length, 1);
      deepEqual(desk.endings, []);
    },
  },
  {
    title: "[E24] a nack with a delay takes the message away until then; then it comes at the end, told as new",
    run: async (bench) => {
      const [first, second] = await bench.many(2);
      const desk = await bench.attach();
      const [one = 0, two = 0] = seqs((await desk.read()).entries);
      deepEqual(await desk.settle({ kind: "nacked", seq: one, retryAfterMs: 60 }), []);
      const [again] = await desk.delivered(1);
      deepEqual([again?.id, again?.deliveryCount, again?.event], [first?.id, 2, first?.event]);
      ok(again && again.seq > two);
      deepEqual(ids((await desk.read()).entries), [second?.id, first?.id]);
      deepEqual(desk.endings, []);
      deepEqual(await desk.settle({ kind: "acked", seqs: [one, two] }), [{ seq: two, ending: "acked" }]);
    },
  },
  {
    title: "[E25] delayed mail is not read, keeps its place in the caps, can be taken back, and is not settled by a number below it",
    limits: { mailboxMaxMessages: 1 },
    needs: ["takeBack"],
    run: async (bench) => {
      const message = await bench.stored();
      const desk = await bench.attach();
      const seq = desk.attachment.head;
      await desk.settle({ kind: "nacked", seq, retryAfterMs: HOUR_MS });
      const page = await desk.read();
      deepEqual([page.entries, page.gaps], [[], []]);
      deepEqual(await desk.settle({ kind: "acked-upto", upto: 1_000, except: [] }), []);
      equal((await bench.engine.totals()).unsettled, 1);
      const [result] = await bench.engine.append([bench.message()]);
      equal(result?.outcome, "full");
      equal(await bench.engine.evict(message.id), 1);
      const [ended] = await desk.told(1);
      equal(ended?.ending, "evicted");
      // It is told under a number that nobody was handed, so that one who comes back is told of the gap.
      ok(ended.seq > seq);
      deepEqual((await desk.read({ after: seq })).gaps, [{ from: ended.seq, to: ended.seq, reason: "evicted" }]);
      await bench.stored();
    },
  },
  {
    title: "[E26] delayed mail comes back after the store was opened again",
    needs: ["durable", "advance"],
    run: async (bench) => {
      const message = await bench.stored({ ttlMs: 100 * HOUR_MS });
      const desk = await bench.attach();
      await desk.settle({ kind: "nacked", seq: desk.attachment.head, retryAfterMs: HOUR_MS });
      await bench.reopen();
      deepEqual(await bench.mail(), []);
      await bench.absent(2 * HOUR_MS);
      const [entry] = await bench.mail();
      deepEqual([entry?.id, entry?.deliveryCount, entry?.event], [message.id, 2, message.event]);
    },
  },
  {
    title: "[E27] the nack after the last of `maxAttempts` hand-outs makes it `dead`",
    limits: { maxAttempts: 3 },
    run: async (bench) => {
      await bench.stored();
      const desk = await bench.attach();
      for (const deliveryCount of [1, 2]) {
        const [entry] = (await desk.read()).entries;
        equal(entry?.deliveryCount, deliveryCount);
        deepEqual(await desk.settle({ kind: "nacked", seq: entry.seq, retryAfterMs: 0 }), []);
      }
      const [last] = (await desk.read()).entries;
      equal(last?.deliveryCount, 3);
      deepEqual(await desk.settle({ kind: "nacked", seq: last.seq, retryAfterMs: 1_000 }), [{ seq: last.seq, ending: "dead" }]);
      deepEqual((await desk.read()).entries, []);
      equal((await bench.engine.totals()).dead, 1);
    },
  },
  {
    title: "[E28] at the end of its time a message is `expired`: told to those attached, by itself and soon, and read by nobody from that moment",
    run: async (bench) => {
      const desk = await bench.attach();
      const brief = await bench.stored({ ttlMs: 60 });
      const lasting = await bench.stored();
      const [ended] = await desk.told(1);
      deepEqual(ended, { seq: 1, ending: "expired" });
      deepEqual(ids((await desk.read()).entries), [lasting.id]);
      deepEqual(await desk.settle({ kind: "acked", seqs: [1] }), []);
      equal((await bench.engine.totals()).expired, 1);
      if (bench.supports.state) equal((await bench.engine.find(brief.id))?.recipients[0]?.state, "expired");
    },
  },
  {
    title: "[E29] what expired while nobody looked is not read, is counted, and a resuming reader is told of it",
    needs: ["advance"],
    run: async (bench) => {
      await bench.stored();
      await bench.many(2, { ttlMs: HOUR_MS / 2 });
      const last = await bench.stored({ ttlMs: 4 * HOUR_MS });
      await bench.absent(2 * HOUR_MS);
      const desk = await bench.attach();
      const page = await desk.read({ after: 1 });
      deepEqual(ids(page.entries), [last.id]);
      deepEqual(page.gaps, [{ from: 2, to: 3, reason: "expired" }]);
      equal((await bench.engine.totals()).expired, 3);
    },
  },
  {
    title: "[E30] a message replaces the unsettled one of the same source, address and topic; the old one is `replaced`, and told so",
    limits: { mailboxMaxMessages: 5 },
    needs: ["topic"],
    run: async (bench) => {
      const topic = "status";
      const mine = await bench.stored({ topic });
      const others = [
        await bench.stored({ topic: "another" }),
        await bench.stored({ topic, source: "/users/eve" }),
        await bench.stored({ topic, recipients: [{ user: BOB, session: TAB }] }),
        await bench.stored(),
      ];
      await bench.stored({ topic, to: [EVE] });
      const desk = await bench.attach();
      equal(desk.attachment.head, 5);
      // The mailbox is full; what replaces needs no room. Of several in one call the last stays.
      const [, newest] = await bench.many(2, { topic });
      deepEqual(await desk.told(2), [
        { seq: 1, ending: "replaced" },
        { seq: 6, ending: "replaced" },
      ]);
      const { entries, gaps } = await desk.read();
      deepEqual(ids(entries), ids([...others, newest].flatMap((each) => each ?? [])));
      deepEqual(gaps, [
        { from: 1, to: 1, reason: "replaced" },
        { from: 6, to: 6, reason: "replaced" },
      ]);
      equal((await bench.mail(EVE)).length, 1);
      if (bench.supports.state) equal((await bench.engine.find(mine.id))?.recipients[0]?.state, "replaced");
      // What is settled cannot be replaced any more.
      await desk.settle({ kind: "acked", seqs: [7] });
      await bench.stored({ topic });
      equal((await bench.engine.totals()).replaced, 2);
    },
  },
  {
    title: "[E31] taking back ends a message for those who have not settled it, says for how many, and tells them",
    needs: ["takeBack"],
    run: async (bench) => {
      const message = await bench.stored({ to: [BOB, EVE] });
      const kept = await bench.stored();
      const [bob, eve] = [await bench.attach(), await bench.attach(EVE)];
      await eve.settle({ kind: "acked", seqs: [1] });
      equal(await bench.engine.evict(message.id), 1);
      deepEqual(await bob.told(1), [{ seq: 1, ending: "evicted" }]);
      deepEqual(ids((await bob.read()).entries), [kept.id]);
      equal(await bench.engine.evict(message.id), 0);
      equal(await bench.engine.evict("nothing" as MessageId), 0);
      deepEqual(eve.endings, []);
    },
  },
  {
    title: "[E32] accepted deliveries are exactly those unsettled and those ended, each counted once, also after the store was opened again",
    limits: { mailboxMaxMessages: 12 },
    run: async (bench) => {
      const first = await bench.many(6, { to: [BOB, EVE] });
      await bench.stored({ ttlMs: 0 });
      if (bench.supports.topic) await bench.many(2, { topic: "t" });
      await bench.engine.append([bench.message(), bench.message({ recipients: [] })]).catch(() => {});
      await bench.engine.append(Array.from({ length: 20 }, () => bench.message()));
      const desk = await bench.attach();
      await desk.settle({ kind: "acked", seqs: [1, 1] }, { kind: "rejected", seq: 2, reason: "" }, { kind: "nacked", seq: 3, retryAfterMs: 0 });
      if (bench.supports.takeBack) await bench.engine.evict(first[4]?.id ?? ("" as MessageId));
      const [topic, evicted] = [bench.supports.topic ? 2 : 0, bench.supports.takeBack ? 2 : 0];
      const replaced = topic > 0 ? 1 : 0;
      const expected = { accepted: 13 + topic, acked: 1, expired: 1, dead: 1, evicted, replaced, unsettled: 10 + topic - evicted - replaced };
      deepEqual(await bench.engine.totals(), expected);
      if (bench.supports.durable !== "no") {
        await desk.attachment.detach();
        await bench.reopen();
        deepEqual(await bench.engine.totals(), expected);
      } else await desk.attachment.detach();
      equal((await bench.mail()).length + (await bench.mail(EVE)).length, expected.unsettled);
    },
  },
];
