/**
 * Rules of receiving: order, cursors, windows, gaps.
 * @module
 */
import assert from "node:assert/strict";
import { dataOf, got, type Rule, rule, seqsOf } from "./scene.ts";
import { call, field } from "./wire.ts";

const ascending = (numbers: readonly number[]) => [...numbers].sort((one, other) => one - other);

export const RECEIVING: readonly Rule[] = [
  rule("[T19] handing out removes nothing: who left without acknowledging gets it again, with the same numbers", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 3);
    const tab = await scene.open(bob);
    await got(tab, 3);
    await tab.leave();
    const again = await scene.open(bob, { receiver: tab.receiver });
    await got(again, 3);
    assert.deepEqual(seqsOf(again), seqsOf(tab));
    const other = await scene.open(bob);
    await got(other, 3);
    assert.deepEqual(dataOf(other), [1, 2, 3]);
    assert.deepEqual(
      other.deliveries.map(({ deliveryCount }) => deliveryCount),
      [1, 1, 1],
    );
  }),

  rule("[T20] live mail comes in the order of acceptance under increasing numbers, and without being asked for", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob, { window: 100 });
    await scene.sendMany(alice, bob, 40);
    await got(tab, 40);
    assert.deepEqual(
      dataOf(tab),
      Array.from({ length: 40 }, (_, n) => n + 1),
    );
    assert.deepEqual(seqsOf(tab), ascending([...new Set(seqsOf(tab))]));
    assert.ok(seqsOf(tab).every((seq) => seq >= 1));
  }),

  rule("[T21] urgency does not reorder", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    for (const urgency of ["very-low", "high", "low", "normal"]) await scene.send(alice, bob, urgency, { urgency });
    const tab = await scene.open(bob);
    await got(tab, 4);
    assert.deepEqual(dataOf(tab), ["very-low", "high", "low", "normal"]);
  }),

  rule("[T22] a receiver that resumes gets what is after its cursor, at once and nothing else", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    await scene.sendMany(alice, bob, 4);
    await got(tab, 4);
    await tab.leave();
    const cursor = seqsOf(tab)[1];
    await scene.send(alice, bob, 5);
    const resumed = await scene.open(bob, { receiver: tab.receiver, epoch: tab.epoch, cursor });
    await got(resumed, 3);
    await scene.mark(alice, bob, resumed);
    assert.deepEqual(dataOf(resumed), [3, 4, 5]);
    // What is below the cursor it has in hand: still its to acknowledge.
    assert.equal(await resumed.ack({ seqs: seqsOf(tab).slice(0, 2) }), 2);
  }),

  rule("[T23] a cursor of an unknown epoch means everything unsettled again, at once, under the epoch in force", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 3);
    const startedMs = performance.now();
    const tab = await scene.open(bob, { epoch: "of-another-store", cursor: 2 });
    await got(tab, 3);
    assert.ok(performance.now() - startedMs < 5_000);
    assert.deepEqual(dataOf(tab), [1, 2, 3]);
    assert.notEqual(tab.epoch, "of-another-store");
    assert.equal(await tab.ack({ upto: tab.cursor }), 3);
  }),

  rule("[T24] a cursor above head means everything unsettled again, at once", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 3);
    const tab = await scene.open(bob);
    await got(tab, 3);
    const ahead = await scene.open(bob, { epoch: tab.epoch, cursor: tab.cursor + 1 });
    await got(ahead, 3);
    assert.deepEqual(dataOf(ahead), [1, 2, 3]);
    await scene.mark(alice, bob, ahead);
  }),

  rule("[T25] a cursor without an epoch is none: a new receiver gets everything unsettled from the start", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 3);
    const tab = await scene.open(bob, { cursor: 2 });
    await got(tab, 3);
    assert.deepEqual(dataOf(tab), [1, 2, 3]);
  }),

  rule("[T26] at most `window` deliveries are in flight, and each acknowledgement makes room for the next", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [tab, wide] = [await scene.open(bob, { window: 3 }), await scene.open(bob, { window: 100 })];
    await scene.sendMany(alice, bob, 8);
    await got(wide, 8);
    await got(tab, 3);
    const [first = 0, second = 0, third = 0] = seqsOf(tab);
    assert.equal(tab.deliveries.length, 3);
    assert.equal(await tab.ack({ seqs: [second] }), 1);
    await got(tab, 4);
    assert.equal(await tab.ack({ seqs: [first, third] }), 2);
    await got(tab, 6);
    assert.equal(tab.deliveries.length, 6);
    // A client that polls asks for nothing while its window is full, so it cannot be told of room that others make.
    if (scene.wire.kind === "poll") return;
    assert.equal(await wide.ack({ upto: wide.cursor }), 5);
    await scene.send(alice, bob, 9);
    await got(tab, 7);
    assert.deepEqual(dataOf(tab).slice(0, 6), [1, 2, 3, 4, 5, 6]);
    assert.equal(dataOf(tab).at(-1), 9);
  }),

  rule("[T27] what one receiver leaves lying stops neither another receiver nor new mail for itself from being stored", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [stuck, well] = [await scene.open(bob, { window: 1 }), await scene.open(await scene.session(bob.user), { window: 2 })];
    for (let n = 1; n <= 20; n++) {
      await scene.send(alice, bob, n);
      await got(well, n);
      // The first stays unsettled, in the hands of both.
      if (n > 1) assert.equal(await well.ack({ seqs: [well.cursor] }), 1);
    }
    assert.deepEqual(
      dataOf(well),
      Array.from({ length: 20 }, (_, n) => n + 1),
    );
    assert.deepEqual(dataOf(stuck), [1]);
    await well.leave();
    for (let n = 21; n <= 23; n++) await scene.send(alice, bob, n);
    for (let n = 21; n <= 23; n++) {
      assert.equal(await stuck.ack({ seqs: [stuck.cursor] }), 1);
      await got(stuck, n - 19);
    }
    assert.deepEqual(dataOf(stuck), [1, 21, 22, 23]);
  }),

  rule("[T28] all live receivers of a user get each message, those of other sessions too", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tabs = [await scene.open(bob), await scene.open(bob), await scene.open(await scene.session(bob.user))];
    await scene.sendMany(alice, bob, 2);
    for (const tab of tabs) {
      await got(tab, 2);
      assert.deepEqual(dataOf(tab), [1, 2]);
    }
  }),

  rule("[T29] a receiver that resumes is told of what ended unacknowledged after its cursor; a new one is not", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [tab, watch] = [await scene.open(bob), await scene.open(bob)];
    await scene.send(alice, bob, "kept");
    await got(tab, 1);
    await tab.leave();
    await scene.send(alice, bob, "brief", { ttl: 1 });
    await scene.send(alice, bob, "last");
    await got(watch, 3);
    const briefSeq = seqsOf(watch)[1] ?? 0;
    await watch.until(() => watch.settled.includes(briefSeq), "the expiry");
    const { receiver, epoch, cursor } = tab;
    const resumed = await scene.open(bob, { receiver, epoch, cursor });
    await got(resumed, 1);
    assert.deepEqual(dataOf(resumed), ["last"]);
    assert.deepEqual(
      resumed.gaps.map(({ from, to, reason }) => ({ from, to, reason })),
      [{ from: briefSeq, to: briefSeq, reason: "expired" }],
    );
    const fresh = await scene.open(bob);
    await got(fresh, 2);
    assert.deepEqual(dataOf(fresh), ["kept", "last"]);
    assert.deepEqual(fresh.gaps, []);
  }),

  rule("[T30] a gap at the end of the mailbox is told too, at once, and moves the cursor past it", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    await scene.send(alice, bob, 1);
    await got(tab, 1);
    await tab.leave();
    const { receiver, epoch, cursor } = tab;
    const other = await scene.open(bob, { epoch, cursor });
    await scene.send(alice, bob, "bad");
    await got(other, 1);
    assert.equal(await other.ack({ reject: [{ seq: other.cursor, reason: "not for me" }] }), 1);
    const resumed = await scene.open(bob, { receiver, epoch, cursor });
    await resumed.until(() => resumed.gaps.length > 0, "the gap");
    assert.deepEqual(
      resumed.gaps.map(({ from, to, reason }) => ({ from, to, reason })),
      [{ from: other.cursor, to: other.cursor, reason: "dead" }],
    );
    assert.equal(resumed.cursor, other.cursor);
    await resumed.leave();
    const after = await scene.open(bob, { receiver, epoch: resumed.epoch, cursor: resumed.cursor });
    await scene.mark(alice, bob, after);
    assert.deepEqual(after.gaps, []);
  }),

  rule("[T31] what others acknowledged is no gap: a hole in the numbers is not a loss", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [tab, other] = [await scene.open(bob), await scene.open(bob)];
    await scene.send(alice, bob, 1);
    await Promise.all([got(tab, 1), got(other, 1)]);
    await tab.leave();
    await scene.sendMany(alice, bob, 3);
    await got(other, 4);
    await other.ack({ seqs: seqsOf(other).slice(1) });
    const resumed = await scene.open(bob, { receiver: tab.receiver, epoch: tab.epoch, cursor: tab.cursor });
    await scene.mark(alice, bob, resumed);
    assert.deepEqual(dataOf(resumed), []);
    assert.deepEqual(resumed.gaps, []);
  }),

  rule(
    "[T32] a newer connection or poll of the same receiver ends the older and goes on; another session's receiver of that name is another",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const older = await scene.open(bob);
      const elsewhere = await scene.open(await scene.session(bob.user), { receiver: older.receiver });
      await scene.send(alice, bob, 1);
      await Promise.all([got(older, 1), got(elsewhere, 1)]);
      const newer = await scene.open(bob, { receiver: older.receiver, epoch: older.epoch, cursor: older.cursor });
      await older.until(() => older.end !== undefined, "the end of the older");
      assert.equal(older.end, 4409);
      await scene.send(alice, bob, 2);
      await Promise.all([got(newer, 1), got(elsewhere, 2)]);
      assert.deepEqual([dataOf(newer), dataOf(elsewhere), dataOf(older)], [[2], [1, 2], [1]]);
      assert.equal(elsewhere.end, undefined);
    },
  ),

  rule("[T33] mailboxes are apart: nobody gets or settles another user's mail", async (scene) => {
    const [alice, bob, eve] = [await scene.person("alice"), await scene.person("bob"), await scene.person("eve")];
    const [tab, spy] = [await scene.open(bob), await scene.open(eve)];
    await scene.send(alice, bob, "private");
    await got(tab, 1);
    await scene.send(alice, eve, "for eve");
    await got(spy, 1);
    assert.deepEqual(dataOf(spy), ["for eve"]);
    const { epoch = null, cursor } = tab;
    // With the very names of bob's receiver, epoch and numbers.
    await scene.ack(eve, { receiver: tab.receiver, epoch, cursor, upto: cursor });
    await scene.ack(eve, { receiver: tab.receiver, epoch, cursor, seqs: seqsOf(tab) });
    assert.equal(await tab.ack({ seqs: seqsOf(tab) }), 1);
  }),

  rule("[T34] big mail goes out in frames and answers of at most 1 MiB, all of it and in order", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const big = (n: number) => `${n} ${"ä".repeat(100_000)}`;
    for (let n = 0; n < 12; n++) await scene.send(alice, bob, big(n));
    const tab = await scene.open(bob);
    await got(tab, 12);
    assert.deepEqual(
      dataOf(tab),
      Array.from({ length: 12 }, (_, n) => big(n)),
    );
  }),

  rule(
    "[T35] mail, cursor and epoch survive a restart: a receiver that resumes gets what it did not have, and nothing that was acknowledged",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const ids = await scene.sendMany(alice, bob, 4);
      const tab = await scene.open(bob, { window: 2 });
      await got(tab, 2);
      assert.equal(await tab.ack({ seqs: seqsOf(tab).slice(0, 1) }), 1);
      await got(tab, 3);
      const { receiver, epoch, cursor } = tab;
      await tab.leave();
      await scene.target.restart?.();
      const resumed = await scene.open(bob, { receiver, epoch, cursor });
      await got(resumed, 1);
      assert.deepEqual(dataOf(resumed), [4]);
      assert.equal(resumed.epoch, epoch);
      // What it had received before, by its own word.
      assert.equal(await resumed.ack({ upto: resumed.cursor }), 3);
      const fresh = await scene.open(bob);
      await scene.mark(alice, bob, fresh);
      assert.deepEqual(dataOf(fresh), []);
      if (scene.target.supports.state) for (const id of ids) assert.deepEqual(await scene.states(alice.token, id), { [bob.user]: "acked" });
    },
    { restart: true },
  ),

  rule(
    "[T36] a poll gives at most `max`, says where to ask from next, and repeats the same answer to the same cursor",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      await scene.sendMany(alice, bob, 3);
      const poll = async (more: object) => {
        const answer = await call(`${scene.target.url}/v1/poll`, { token: bob.token, body: { receiver: "p", wait: 0, ...more } });
        return { status: answer.status, epoch: field(answer.body, "epoch"), cursor: field(answer.body, "cursor"), body: answer.body };
      };
      const first = await poll({ max: 2 });
      assert.equal(first.status, 200);
      assert.deepEqual(Object.keys(first.body as object).sort(), ["cursor", "deliveries", "epoch", "gaps", "head", "settled"]);
      assert.equal((field(first.body, "deliveries") as unknown[]).length, 2);
      assert.equal(field(first.body, "head"), 3);
      assert.deepEqual((await poll({ max: 2 })).body, first.body);
      const second = await poll({ epoch: first.epoch, cursor: first.cursor, max: 2 });
      assert.equal((field(second.body, "deliveries") as unknown[]).length, 1);
      assert.deepEqual((await poll({ epoch: first.epoch, cursor: first.cursor, max: 2 })).body, second.body);
      assert.equal((await poll({ epoch: first.epoch, cursor: second.cursor })).status, 204);
    },
    { wire: "poll" },
  ),

  rule(
    "[T67] gaps do not part the answer of a poll: everything that waits comes in one, up to `max`",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      for (let n = 0; n < 20; n++) {
        await scene.send(alice, bob, n);
        await scene.send(alice, bob, `replaced ${n}`, { topic: "t" });
      }
      const poll = async (more: object) => {
        const { body } = await call(`${scene.target.url}/v1/poll`, { token: bob.token, body: { receiver: "p", wait: 0, ...more } });
        return { epoch: field(body, "epoch"), deliveries: field(body, "deliveries") as unknown[], gaps: field(body, "gaps") as unknown[] };
      };
      const fresh = await poll({});
      assert.deepEqual([fresh.deliveries.length, fresh.gaps.length], [21, 0], "a new receiver is told of no gaps");
      const resumed = await poll({ epoch: fresh.epoch, cursor: 1 });
      assert.deepEqual([resumed.deliveries.length, resumed.gaps.length], [20, 19]);
    },
    { wire: "poll" },
  ),

  rule(
    "[T37] the answer of a poll says a cursor that covers its own deliveries and no more, a poll that was replaced too",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const tab = await scene.open(bob);
      await scene.send(alice, bob, 0);
      await got(tab, 1);
      const { epoch } = tab;
      const poll = (cursor: number) => call(`${scene.target.url}/v1/poll`, { token: bob.token, body: { receiver: "p", epoch, cursor, wait: 1 } });
      for (let n = 1; n <= 20; n++) {
        // Polls of one receiver race one another and the mail that comes.
        const [one, other] = await Promise.all([poll(0), poll(n), scene.send(alice, bob, n)]);
        for (const [asked, { status, body }] of [
          [0, one],
          [n, other],
        ] as const) {
          if (status === 204) continue;
          assert.equal(status, 200, JSON.stringify(body));
          const seqs = (field(body, "deliveries") as { seq: number }[]).map(({ seq }) => seq);
          assert.equal(field(body, "cursor"), seqs.at(-1) ?? asked, JSON.stringify({ asked, seqs, cursor: field(body, "cursor") }));
        }
      }
    },
    { wire: "poll" },
  ),
];
