/**
 * Rules of settling: what an acknowledgement ends, and what it never touches.
 * @module
 */
import assert from "node:assert/strict";
import { dataOf, got, type Rule, rule, seqsOf } from "./scene.ts";
import { call, field } from "./wire.ts";

export const SETTLING: readonly Rule[] = [
  rule("[T38] an acknowledgement by numbers settles those for everyone and for ever, and nothing else", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 4);
    const tab = await scene.open(bob);
    await got(tab, 4);
    const [, second = 0, , fourth = 0] = seqsOf(tab);
    assert.equal(await tab.ack({ seqs: [second, fourth] }), 2);
    await tab.leave();
    const other = await scene.open(bob);
    await scene.mark(alice, bob, other);
    assert.deepEqual(dataOf(other), [1, 3]);
  }),

  rule("[T39] `upto` settles everything up to that number", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 4);
    const tab = await scene.open(bob);
    await got(tab, 4);
    assert.equal(await tab.ack({ upto: seqsOf(tab)[2] ?? 0 }), 3);
    const other = await scene.open(bob);
    await got(other, 1);
    await scene.mark(alice, bob, other);
    assert.deepEqual(dataOf(other), [4]);
  }),

  rule("[T40] never more than what was handed: neither `upto` nor `seqs` reach what this receiver was not given", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 5);
    const tab = await scene.open(bob, { window: 2 });
    await got(tab, 2);
    const [first = 0, second = 0] = seqsOf(tab);
    const beyond = [second + 1, second + 2, second + 3];
    assert.equal(await tab.ack({ seqs: beyond }), 0);
    assert.equal(await tab.ack({ reject: beyond.map((seq) => ({ seq })), nack: beyond.map((seq) => ({ seq })) }), 0);
    assert.equal(await tab.ack({ upto: 1_000_000 }), 2);
    await got(tab, 4);
    assert.deepEqual(seqsOf(tab).slice(0, 4), [first, second, second + 1, second + 2]);
    assert.deepEqual(dataOf(tab), [1, 2, 3, 4]);
  }),

  rule("[T41] a word about a cursor above head is not believed", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 3);
    const tab = await scene.open(bob, { window: 1 });
    await got(tab, 1);
    const { receiver, epoch = null } = tab;
    assert.equal(await scene.ack(bob, { receiver, epoch, cursor: 1_000_000, upto: 1_000_000 }), 1);
    const other = await scene.open(bob);
    await got(other, 2);
    assert.deepEqual(dataOf(other), [2, 3]);
  }),

  rule("[T42] what a receiver says it has received it may acknowledge, as after a restart or on another node", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 3);
    const tab = await scene.open(bob);
    await got(tab, 3);
    const { epoch = null } = tab;
    const [, second = 0, third = 0] = seqsOf(tab);
    const receiver = scene.name("moved");
    assert.equal(await scene.ack(bob, { receiver, epoch, cursor: second, seqs: [third] }), 0);
    assert.equal(await scene.ack(bob, { receiver, epoch, cursor: second, upto: third }), 2);
  }),

  rule("[T43] an acknowledgement under another epoch, or under none, settles nothing", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 2);
    const tab = await scene.open(bob);
    await got(tab, 2);
    const { receiver, cursor, epoch = "" } = tab;
    const forms = { upto: cursor, seqs: seqsOf(tab), reject: [{ seq: cursor }], nack: [{ seq: cursor }] };
    for (const wrong of ["of-another-store", `${epoch.slice(0, 60)}x`, null]) {
      assert.equal(await scene.ack(bob, { receiver, epoch: wrong, cursor, ...forms }), 0);
      assert.equal(await tab.ack(forms, wrong), 0);
    }
    assert.equal(await tab.ack({ upto: cursor }), 2);
  }),

  rule("[T44] a repeated acknowledgement is harmless, and the answer counts what is newly settled", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    await scene.sendMany(alice, bob, 3);
    const tab = await scene.open(bob);
    await got(tab, 3);
    const [first = 0, second = 0, third = 0] = seqsOf(tab);
    assert.equal(await tab.ack({ seqs: [first, first] }), 1);
    assert.equal(await tab.ack({ seqs: [first] }), 0);
    assert.equal(await tab.ack({ seqs: [first, second] }), 1);
    assert.equal(await tab.ack({ upto: third }), 1);
    assert.equal(await tab.ack({ upto: third, seqs: [first, second, third] }), 0);
  }),

  rule("[T45] the first acknowledgement settles for all receivers, and the others are told, not the one that did it", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [tab, other, phone] = [await scene.open(bob), await scene.open(bob), await scene.open(await scene.session(bob.user))];
    await scene.sendMany(alice, bob, 2);
    for (const each of [tab, other, phone]) await got(each, 2);
    const [first = 0, second = 0] = seqsOf(tab);
    assert.equal(await tab.ack({ seqs: [first] }), 1);
    for (const each of [other, phone]) await each.until(() => each.settled.includes(first), "settled");
    assert.equal(await other.ack({ seqs: [first] }), 0);
    assert.equal(await other.ack({ seqs: [second] }), 1);
    await tab.until(() => tab.settled.includes(second), "settled");
    assert.deepEqual([tab.settled, other.settled], [[second], [first]]);
    for (const each of [tab, other, phone]) {
      await scene.mark(alice, bob, each);
      assert.deepEqual(dataOf(each), [1, 2]);
    }
  }),

  rule("[T46] one ending: what was acknowledged, rejected or expired is not ended again by anybody", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [tab, other] = [await scene.open(bob), await scene.open(bob)];
    const { id } = await scene.send(alice, bob, 1);
    await Promise.all([got(tab, 1), got(other, 1)]);
    const seq = tab.cursor;
    const counts = await Promise.all([
      tab.ack({ seqs: [seq] }),
      other.ack({ reject: [{ seq }] }),
      other.ack({ nack: [{ seq }] }),
      other.ack({ upto: seq }),
      tab.ack({ reject: [{ seq }] }),
    ]);
    // None, when the nack came first: it has given the message a new number, under which it is acknowledged below.
    assert.ok(counts.reduce((sum, count) => sum + count, 0) <= 1, String(counts));
    await scene.mark(alice, bob, tab);
    await tab.ack({ upto: tab.cursor });
    if (scene.target.supports.state) assert.match((await scene.states(alice.token, id))[bob.user] ?? "", /^(acked|dead)$/);
    const later = await scene.open(bob);
    await scene.mark(alice, bob, later);
    assert.deepEqual(dataOf(later), []);
  }),

  rule("[T47] a nacked message comes again to all under a new number at the end, with the same id and one more delivery", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [tab, other] = [await scene.open(bob), await scene.open(bob)];
    await scene.sendMany(alice, bob, 2);
    await Promise.all([got(tab, 2), got(other, 2)]);
    const [first = 0, second = 0] = seqsOf(tab);
    assert.equal(await tab.ack({ nack: [{ seq: first }] }), 0);
    for (const each of [tab, other]) {
      await got(each, 3);
      const again = each.deliveries[2];
      assert.equal(again?.event.id, each.deliveries[0]?.event.id);
      assert.equal(again?.deliveryCount, 2);
      assert.ok((again?.seq ?? 0) > second);
    }
    // The old number is nothing any more: a second nack of the same delivery does not count.
    assert.equal(await other.ack({ nack: [{ seq: first }], seqs: [first] }), 0);
    await scene.mark(alice, bob, tab);
    assert.deepEqual(dataOf(tab), [1, 2, 1]);
    assert.equal(await tab.ack({ upto: tab.cursor }), 2);
  }),

  rule("[T48] a nack with retryAfter brings the message back after that time and not before; new receivers wait for it too", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    await scene.send(alice, bob, 1);
    await got(tab, 1);
    const startedMs = performance.now();
    assert.equal(await tab.ack({ nack: [{ seq: tab.cursor, retryAfter: 1.2 }] }), 0);
    const fresh = await scene.open(bob);
    await scene.mark(alice, bob, fresh);
    assert.deepEqual(dataOf(fresh), []);
    // `upto` does not reach it while it is away.
    await tab.ack({ upto: 1_000_000 });
    await tab.until(() => dataOf(tab).length === 2, "its return");
    const tookMs = performance.now() - startedMs;
    assert.ok(tookMs >= 1_150 && tookMs < 6_000, `${tookMs} ms`);
    assert.equal(tab.deliveries.at(-1)?.deliveryCount, 2);
    await fresh.until(() => dataOf(fresh).length === 1, "its return to the other");
    assert.equal(await tab.ack({ seqs: [tab.cursor] }), 1);
  }),

  rule("[T49] a message that is nacked again and again becomes a dead letter after ten deliveries", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    const { id } = await scene.send(alice, bob, "poison");
    for (let attempt = 1; attempt <= 10; attempt++) {
      await got(tab, attempt);
      assert.equal(tab.deliveries.at(-1)?.deliveryCount, attempt);
      assert.equal(await tab.ack({ nack: [{ seq: tab.cursor }] }), attempt < 10 ? 0 : 1);
    }
    await scene.mark(alice, bob, tab);
    assert.equal(dataOf(tab).length, 10);
    if (scene.target.supports.state) assert.deepEqual(await scene.states(alice.token, id), { [bob.user]: "dead" });
  }),

  rule("[T50] a rejected message goes to the dead letters: it counts as settled and nobody gets it again", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const [tab, other] = [await scene.open(bob), await scene.open(bob)];
    const { id } = await scene.send(alice, bob, "bad");
    await Promise.all([got(tab, 1), got(other, 1)]);
    assert.equal(await tab.ack({ reject: [{ seq: tab.cursor, reason: "cannot be read" }] }), 1);
    await other.until(() => other.settled.includes(tab.cursor), "settled");
    const later = await scene.open(bob);
    await scene.mark(alice, bob, later);
    assert.deepEqual(dataOf(later), []);
    if (scene.target.supports.state) assert.deepEqual(await scene.states(alice.token, id), { [bob.user]: "dead" });
  }),

  rule("[T51] a held message leaves the window and stays in the mailbox: later `upto`s spare it, and new receivers get it", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob, { window: 2 });
    await scene.sendMany(alice, bob, 5);
    await got(tab, 2);
    assert.equal(await tab.ack({ hold: seqsOf(tab) }), 0);
    await got(tab, 4);
    assert.equal(await tab.ack({ upto: tab.cursor }), 2);
    await got(tab, 5);
    assert.equal(await tab.ack({ upto: tab.cursor }), 1);
    assert.deepEqual(dataOf(tab), [1, 2, 3, 4, 5]);
    const other = await scene.open(bob);
    await got(other, 2);
    assert.deepEqual(dataOf(other), [1, 2]);
    // Held is not gone: by its number it is settled like any other.
    assert.equal(await tab.ack({ seqs: seqsOf(tab).slice(0, 1) }), 1);
    await other.until(() => other.settled.length === 1, "settled");
    assert.equal(await other.ack({ upto: other.cursor }), 1);
  }),

  rule(
    "[T88] a hold survives a restart: `upto` goes on sparing it, by its number it is settled, and what is handed again is held no longer",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const tab = await scene.open(bob);
      await scene.sendMany(alice, bob, 4);
      await got(tab, 4);
      const [first = 0, second = 0, third = 0, fourth = 0] = seqsOf(tab);
      assert.equal(await tab.ack({ hold: [first, second, fourth] }), 0);
      const { receiver, epoch = "" } = tab;
      await tab.leave();
      await scene.target.restart?.();
      // Before it has come back, too.
      assert.equal(await scene.ack(bob, { receiver, epoch, cursor: fourth, upto: fourth }), 1);
      const resumed = await scene.open(bob, { receiver, epoch, cursor: third });
      await got(resumed, 1);
      assert.deepEqual(dataOf(resumed), [4]);
      assert.equal(await resumed.ack({ upto: resumed.cursor }), 1);
      assert.equal(await resumed.ack({ seqs: [first] }), 1);
      await resumed.leave();
      await scene.target.restart?.();
      const last = await scene.open(bob, { receiver, epoch, cursor: fourth });
      await scene.mark(alice, bob, last);
      assert.equal(await last.ack({ upto: last.cursor }), 0);
      const fresh = await scene.open(bob);
      await got(fresh, 1);
      assert.deepEqual(dataOf(fresh), [2]);
      // From the start, it is handed what it held, and does not hold it any more.
      await last.leave();
      const anew = await scene.open(bob, { receiver });
      await got(anew, 1);
      assert.equal(await anew.ack({ upto: anew.cursor }), 1);
    },
    { restart: true, limitMs: 40_000 },
  ),

  rule("[T52] one acknowledgement may carry all forms at once; `upto` leaves what the others name to them", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    const ids = await scene.sendMany(alice, bob, 6);
    await got(tab, 6);
    const [first = 0, second = 0, third = 0, fourth = 0] = seqsOf(tab);
    const acked = await tab.ack({
      seqs: [first],
      hold: [second],
      reject: [{ seq: third, reason: "no" }],
      nack: [{ seq: fourth, retryAfter: 600 }],
      upto: tab.cursor,
    });
    assert.equal(acked, 4);
    const other = await scene.open(bob);
    await scene.mark(alice, bob, other);
    assert.deepEqual(dataOf(other), [2]);
    if (!scene.target.supports.state) return;
    const states = await Promise.all(ids.map(async (id) => (await scene.states(alice.token, id))[bob.user]));
    assert.deepEqual(states, ["acked", "waiting", "dead", "waiting", "acked", "acked"]);
  }),

  rule("[T53] an acknowledgement that names a settled message among others settles the others", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    await scene.sendMany(alice, bob, 3);
    await got(tab, 3);
    const [first = 0, second = 0, third = 0] = seqsOf(tab);
    assert.equal(await tab.ack({ seqs: [second] }), 1);
    assert.equal(await tab.ack({ seqs: [first, second, third, 999_999, 0] }), 2);
  }),

  rule(
    "[T54] a poll acknowledges first, durably, and then asks; what it settled it does not get",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const ids = await scene.sendMany(alice, bob, 3);
      const poll = (more: object) => call(`${scene.target.url}/v1/poll`, { token: bob.token, body: { receiver: "p", wait: 0, ...more } });
      const first = (await poll({ max: 2 })).body;
      const [epoch, cursor] = [field(first, "epoch"), field(first, "cursor")];
      const second = await poll({ epoch, cursor, ack: { upto: cursor } });
      assert.equal(second.status, 200);
      assert.equal((field(second.body, "deliveries") as unknown[]).length, 1);
      const again = await poll({});
      assert.equal((field(again.body, "deliveries") as { event: { id: string } }[])[0]?.event.id, ids[2]);
      assert.equal((field(again.body, "deliveries") as unknown[]).length, 1);
    },
    { wire: "poll" },
  ),
];
