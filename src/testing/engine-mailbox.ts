import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import type { Seq } from "../protocol.ts";
import { BOB, EVE, HOUR_MS, ids, OTHER_TAB, type Rule, seqs, TAB } from "./engine-bench.ts";

/** Rules about reading, the live tail, and a message's state: E33 to E43. */
export const MAILBOX_RULES: readonly Rule[] = [
  {
    title: "[E33] an attachment says the epoch and the last number given; a mailbox nobody wrote to is empty with head 0",
    run: async (bench) => {
      await bench.many(3);
      const [bob, eve] = [await bench.attach(), await bench.attach(EVE)];
      match(bob.attachment.epoch, /^[A-Za-z0-9_-]{1,64}$/);
      equal(bob.attachment.head, 3);
      equal(eve.attachment.head, 0);
      deepEqual(await eve.read(), { entries: [], gaps: [], upto: 0 });
      deepEqual(await eve.settle({ kind: "acked-upto", upto: 5, except: [] }, { kind: "nacked", seq: 1, retryAfterMs: 0 }), []);
      deepEqual((await bob.read({ after: 99 })).entries, []);
    },
  },
  {
    title: "[E34] after the store was opened again, numbers go on above the last one ever given under the same epoch, or there is a new epoch",
    needs: ["durable"],
    run: async (bench) => {
      await bench.many(3);
      const desk = await bench.attach();
      const { epoch } = desk.attachment;
      await desk.settle({ kind: "acked-upto", upto: 3, except: [] });
      await bench.reopen();
      const again = await bench.attach();
      if (again.attachment.epoch !== epoch) return;
      equal(again.attachment.head, 3);
      await bench.stored();
      const [entry] = await again.delivered(1);
      ok(entry && entry.seq > 3);
    },
  },
  {
    title: "[E35] a read gives what is unsettled above its cursor, in order, at most `limit` entries, and says how far it looked",
    run: async (bench) => {
      const messages = await bench.many(5);
      const desk = await bench.attach();
      deepEqual(ids((await desk.read({ after: 2 })).entries), ids(messages.slice(2)));
      const page = await desk.read({ limit: 2 });
      deepEqual([seqs(page.entries), page.upto], [[1, 2], 2]);
      const rest = await desk.read({ after: page.upto, limit: 3 });
      deepEqual([seqs(rest.entries), rest.upto], [[3, 4, 5], 5]);
      deepEqual(await desk.read({ after: 5 }), { entries: [], gaps: [], upto: 5 });
      await desk.settle({ kind: "acked", seqs: [2, 5] });
      const after = await desk.read({ limit: 3 });
      deepEqual([seqs(after.entries), after.upto], [[1, 3, 4], 5]);
    },
  },
  {
    title: "[E36] a read stops before it goes over `maxBytes`, but gives one entry however large",
    run: async (bench) => {
      await bench.many(4, { event: `"${"x".repeat(998)}"` });
      const desk = await bench.attach();
      const page = await desk.read({ maxBytes: 2_500 });
      deepEqual([seqs(page.entries), page.upto], [[1, 2], 2]);
      deepEqual(seqs((await desk.read({ after: 2, maxBytes: 10 })).entries), [3]);
    },
  },
  {
    title:
      "[E37] gaps tell of unacknowledged endings above the cursor: runs of one reason as one, never across something unsettled or of another session",
    limits: { maxAttempts: 1 },
    needs: ["takeBack"],
    run: async (bench) => {
      const messages = await bench.many(9);
      const hers = await bench.stored({ recipients: [{ user: BOB, session: OTHER_TAB }] });
      await bench.many(2);
      const desk = await bench.attach();
      const dead = (seq: Seq) => ({ kind: "rejected", seq, reason: "" }) as const;
      await desk.settle(dead(1), { kind: "acked", seqs: [2] }, { kind: "nacked", seq: 3, retryAfterMs: 0 }, dead(5), dead(7), dead(12));
      await bench.engine.evict(messages[5]?.id ?? hers.id);
      await bench.engine.evict(hers.id);
      const { entries, gaps, upto } = await desk.read();
      deepEqual([seqs(entries), upto], [[4, 8, 9, 11], 12]);
      deepEqual(gaps, [
        { from: 1, to: 3, reason: "dead" },
        { from: 5, to: 5, reason: "dead" },
        { from: 6, to: 6, reason: "evicted" },
        { from: 7, to: 7, reason: "dead" },
        { from: 12, to: 12, reason: "dead" },
      ]);
      deepEqual((await desk.read({ session: OTHER_TAB, after: 9 })).gaps, [
        { from: 10, to: 10, reason: "evicted" },
        { from: 12, to: 12, reason: "dead" },
      ]);
      // Only as far as the page looks, and only above the cursor.
      deepEqual((await desk.read({ limit: 1 })).gaps, gaps.slice(0, 1));
      deepEqual((await desk.read({ after: 6 })).gaps, gaps.slice(3));
    },
  },
  {
    title: "[E38] a reader whose cursor is older than what the store remembers is told so: a gap of unknown reason",
    needs: ["advance"],
    run: async (bench) => {
      const ttlMs = 100 * 24 * HOUR_MS;
      await bench.many(2, { ttlMs: HOUR_MS });
      const kept = await bench.stored({ ttlMs });
      await bench.many(2, { ttlMs: HOUR_MS });
      await bench.advance(2 * HOUR_MS);
      await bench.advance(25 * HOUR_MS);
      const last = await bench.stored({ ttlMs });
      const desk = await bench.attach();
      const { entries, gaps } = await desk.read();
      deepEqual(ids(entries), ids([kept, last]));
      ok(gaps.length > 0 && gaps.every((gap) => gap.reason === "unknown"));
      for (const seq of [1, 2, 4, 5])
        ok(
          gaps.some((gap) => gap.from <= seq && seq <= gap.to),
          `a gap covers ${seq}`,
        );
      for (const { seq } of entries) ok(!gaps.some((gap) => gap.from <= seq && seq <= gap.to), `no gap covers ${seq}`);
      deepEqual((await desk.read({ after: 5 })).gaps, []);
    },
  },
  {
    title: "[E39] every entry above the attachment's head is told once, in order, and read finds it too: nothing falls between reading and the tail",
    run: async (bench) => {
      const append = () => bench.engine.append([bench.message()]);
      const early = Array.from({ length: 40 }, append);
      const attaching = bench.attach();
      const late = Array.from({ length: 40 }, append);
      const desk = await attaching;
      const reading = desk.read();
      const later = Array.from({ length: 40 }, append);
      await Promise.all([...early, ...late, ...later]);
      const { entries, upto } = await reading;
      const { head } = desk.attachment;
      await desk.delivered(120 - head);
      deepEqual(
        seqs(desk.entries),
        Array.from({ length: 120 - head }, (_none, n) => head + 1 + n),
      );
      deepEqual(
        seqs(entries),
        Array.from({ length: upto }, (_none, n) => n + 1),
      );
      deepEqual([...(await desk.read()).entries.slice(head)], desk.entries);
    },
  },
  {
    title: "[E40] live entries carry their session; what a receiver settles itself is not told to its own attachment",
    run: async (bench) => {
      const desk = await bench.attach();
      await bench.stored({ recipients: [{ user: BOB, session: OTHER_TAB }] });
      await bench.stored();
      const [hers, all] = await desk.delivered(2);
      equal(hers?.session, OTHER_TAB);
      ok(all && !("session" in all));
      await desk.attachment.settle(
        [
          { kind: "acked", seqs: [1] },
          { kind: "rejected", seq: 2, reason: "" },
        ],
        OTHER_TAB,
      );
      const last = await bench.stored({ ttlMs: 30 });
      await desk.told(1);
      deepEqual(desk.endings, [{ seq: 3, ending: "expired" }]);
      equal(desk.entries[2]?.id, last.id);
    },
  },
  {
    title: "[E59] an ending names its message, the ones that a settlement returns and the ones that are told",
    run: async (bench) => {
      const desk = await bench.attach();
      const [first, second, third] = await bench.many(3);
      const brief = await bench.stored({ ttlMs: 60 });
      await bench.stored({ ttlMs: 0 });
      const ended = await desk.attachment.settle(
        [
          { kind: "rejected", seq: 3, reason: "" },
          { kind: "acked", seqs: [2, 1] },
        ],
        TAB,
      );
      deepEqual(ids(ended), ids([third, second, first].flatMap((each) => each ?? [])));
      await desk.told(2);
      deepEqual(desk.endings.map(({ seq }) => seq).sort(), [4, 5]);
      equal(desk.endedIds[desk.endings.findIndex(({ seq }) => seq === 4)], brief.id);
    },
  },
  {
    title: "[E41] detached is told nothing more, and may attach again; one attachment per user at a time",
    run: async (bench) => {
      const first = await bench.attach();
      await rejects(bench.engine.attach(BOB, first), { code: "internal" });
      const asked = bench.engine.append([bench.message()]);
      await first.attachment.detach();
      await first.attachment.detach();
      await asked;
      const second = await bench.attach();
      await first.attachment.detach();
      const message = await bench.stored();
      deepEqual(ids(await second.delivered(1)), [message.id]);
      deepEqual(first.entries, []);
      deepEqual(ids((await second.read({ after: 1 })).entries), [message.id]);
      equal((await second.read()).entries.length, 2);
    },
  },
  {
    title: "[E42] the state of a message names its source and, per recipient, waiting or its ending and when",
    needs: ["state"],
    run: async (bench) => {
      equal(await bench.engine.find((await bench.message()).id), undefined);
      const message = await bench.stored({ to: [BOB, EVE], source: "/services/backend" });
      const beforeMs = bench.now();
      const desk = await bench.attach();
      await desk.settle({ kind: "acked", seqs: [1] });
      const state = await bench.engine.find(message.id);
      equal(state?.source, "/services/backend");
      const [bob, eve] = [BOB, EVE].map((user) => state.recipients.find((each) => each.user === user));
      deepEqual(eve, { user: EVE, state: "waiting" });
      equal(bob?.state, "acked");
      ok(bob.endedAtMs !== undefined && bob.endedAtMs >= beforeMs && bob.endedAtMs <= bench.now());
      equal(state.recipients.length, 2);
      // What was refused is not a recipient, and what waits behind a delay still waits.
      await (await bench.attach(EVE)).attachment.settle([{ kind: "nacked", seq: 1, retryAfterMs: HOUR_MS }], TAB);
      deepEqual(
        (await bench.engine.find(message.id))?.recipients.find((each) => each.user === EVE),
        eve,
      );
    },
  },
  {
    title: "[E43] the state of a message is known until 24 hours after its last ending, of every recipient, and then no more",
    needs: ["state", "advance"],
    run: async (bench) => {
      const message = await bench.stored({ to: [BOB, EVE], ttlMs: 100 * HOUR_MS });
      const [bob, eve] = [await bench.attach(), await bench.attach(EVE)];
      await bob.settle({ kind: "acked", seqs: [1] });
      await bench.advance(48 * HOUR_MS);
      deepEqual((await bench.engine.find(message.id))?.recipients.map(({ state }) => state).sort(), ["acked", "waiting"]);
      await eve.settle({ kind: "acked", seqs: [1] });
      await bench.advance(23 * HOUR_MS);
      equal((await bench.engine.find(message.id))?.recipients.length, 2);
      await bench.advance(2 * HOUR_MS);
      equal(await bench.engine.find(message.id), undefined);
      const { accepted, acked } = await bench.engine.totals();
      deepEqual([accepted, acked], [2, 2]);
      notEqual(bob.attachment.epoch, "");
    },
  },
];
