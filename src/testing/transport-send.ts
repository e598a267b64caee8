/**
 * Rules of sending: what 201 means, what is kept, what arrives.
 * @module
 */
import assert from "node:assert/strict";
import { dataOf, got, type Rule, rule, type Scene } from "./scene.ts";
import { call, field, openSocket } from "./wire.ts";

/** Values in which something often goes wrong on the way. */
const AWKWARD: readonly unknown[] = [
  null,
  true,
  0,
  -0,
  1e308,
  -5e-324,
  9_007_199_254_740_991,
  1.7976931348623157e308,
  0.1 + 0.2,
  "",
  "<b>bold</b> & \"quotes\" 'single' \\ / \b\f\n\r\t",
  "\u0000\u001f\u007f\u0080\u2028\u2029\ufeff\ufffd\uffff",
  "👩‍👩‍👧‍👦 𝒳 é e\u0301 \u202eRTL שלום",
  [],
  {},
  [[[]]],
  { "": "", " ": 1, "a.b": 2, constructor: 3, toString: 4, toJSON: 5, length: 6, "2": "two", "1": "one" },
  { seq: 1, op: "deliver", deliveries: [], event: { id: "x" } },
  Array.from({ length: 2_000 }, (_, n) => n / 7),
  nested(32),
];

function nested(levels: number): unknown {
  let value: unknown = "deep";
  for (let level = 0; level < levels; level++) value = level % 2 === 0 ? [value] : { value };
  return value;
}

export const SENDING: readonly Rule[] = [
  rule("[T1] what was answered 201 is delivered, as a CloudEvent with all its attributes", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    const accepted = await scene.send(
      alice,
      bob,
      { n: 1 },
      { type: "form.data", subject: "order 7", correlationid: "c-1", replyto: "desk", urgency: "high", ttl: 3600 },
    );
    await got(tab, 1);
    const [delivery] = tab.deliveries;
    const whole: Readonly<Record<string, unknown>> = { ...delivery?.event };
    const { time, expirytime, ...event } = whole;
    assert.deepEqual(event, {
      specversion: "1.0",
      id: accepted.id,
      source: `/users/${alice.user}`,
      type: "form.data",
      datacontenttype: "application/json",
      subject: "order 7",
      urgency: "high",
      correlationid: "c-1",
      replyto: "desk",
      data: { n: 1 },
    });
    assert.equal(delivery?.deliveryCount, 1);
    assert.equal(time, accepted.time);
    assert.match(String(time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.equal(Date.parse(String(expirytime)) - Date.parse(String(time)), 3_600_000);
    assert.equal(accepted.ttl, 3600);
    assert.deepEqual(accepted.recipients, [bob.user]);
  }),

  rule("[T2] a message without data arrives without data, and one with null arrives with null", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    await scene.post(alice.token, { to: { user: bob.user }, type: "bare" });
    await scene.post(alice.token, { to: { user: bob.user }, type: "null", data: null });
    await got(tab, 2);
    const [bare, none] = tab.deliveries.map(({ event }) => event);
    assert.equal(Object.hasOwn(bare ?? {}, "data"), false);
    assert.equal(Object.hasOwn(bare ?? {}, "datacontenttype"), false);
    assert.equal(none?.data, null);
    assert.equal(none?.datacontenttype, "application/json");
  }),

  rule("[T3] mail for a user who is away, or was never seen, waits and is delivered later, in order", async (scene) => {
    const alice = await scene.person("alice");
    const user = scene.name("never-seen");
    for (let n = 1; n <= 3; n++) await scene.send(alice, user, n);
    const bob = await scene.session(user);
    const tab = await scene.open(bob);
    await got(tab, 3);
    await tab.ack({ upto: tab.cursor });
    await tab.leave();
    await scene.send(alice, bob, 4);
    const back = await scene.open(bob, { receiver: tab.receiver, epoch: tab.epoch, cursor: tab.cursor });
    await got(back, 1);
    assert.deepEqual([dataOf(tab), dataOf(back)], [[1, 2, 3], [4]]);
  }),

  rule("[T4] data arrives equal to what was sent: text of every kind, numbers to the last digit, negative zero, 32 levels", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob, { window: 1000 });
    const sender = await scene.wire.openSender(scene.target.url, alice.token);
    scene.later(() => sender.close());
    const values = [...AWKWARD, ...scene.values];
    for (const value of values) {
      // JSON.stringify itself drops the sign of a zero.
      const data = Object.is(value, -0) ? 0 : value;
      const result = Object.is(value, -0)
        ? await call(`${scene.target.url}/v1/messages`, { token: alice.token, body: `{"to":{"user":"${bob.user}"},"type":"t","data":-0}` })
        : await sender.send({ to: { user: bob.user }, type: "t", data });
      assert.equal(result.status, 201, JSON.stringify(result));
    }
    await got(tab, values.length);
    for (const [place, value] of values.entries()) assert.deepEqual(tab.deliveries[place]?.event.data, value);
  }),

  rule("[T5] a message to several users is in each one's mailbox and ends in each on its own; a user named twice gets it once", async (scene) => {
    const [alice, bob, carol] = [await scene.person("alice"), await scene.person("bob"), await scene.person("carol")];
    const [tabOfBob, tabOfCarol] = [await scene.open(bob), await scene.open(carol)];
    const users = [bob.user, carol.user, bob.user];
    const accepted = await scene.post(alice.token, { to: { users }, type: "test", data: "both" });
    assert.equal(accepted.status, 201, JSON.stringify(accepted));
    assert.deepEqual(accepted.recipients, [bob.user, carol.user]);
    await Promise.all([got(tabOfBob, 1), got(tabOfCarol, 1)]);
    assert.equal(tabOfBob.deliveries[0]?.event.id, accepted.id);
    assert.equal(tabOfCarol.deliveries[0]?.event.id, accepted.id);
    assert.equal(await tabOfBob.ack({ seqs: [tabOfBob.deliveries[0]?.seq ?? 0] }), 1);
    await scene.mark(alice, bob, tabOfBob);
    assert.deepEqual(dataOf(tabOfBob), ["both"]);
    if (scene.target.supports.state)
      assert.deepEqual(await scene.states(alice.token, String(accepted.id)), { [bob.user]: "acked", [carol.user]: "waiting" });
  }),

  rule("[T6] a message to oneself is delivered like any other", async (scene) => {
    const alice = await scene.person("alice");
    const tab = await scene.open(alice);
    await scene.send(alice, alice, "note");
    await got(tab, 1);
    assert.deepEqual(dataOf(tab), ["note"]);
  }),

  rule(
    "[T7] the same idempotency key gets the same answer and stores nothing twice, whichever way it came; with other content 422",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const tab = await scene.open(bob);
      const message = { to: { user: bob.user }, type: "test", data: { once: [1, 2] } };
      const key = scene.name("key");
      const sender = await scene.wire.openSender(scene.target.url, alice.token);
      const socket = await openSocket(scene.target.url, { token: alice.token, receiver: scene.name("other") });
      scene.later(() => sender.close());
      scene.later(() => socket.terminate());
      const plain = ({ status, id, time, ttl, recipients }: Readonly<Record<string, unknown>>) => ({ status, id, time, ttl, recipients });
      const first = plain(await sender.send({ ...message, idempotencyKey: key }));
      assert.equal(first.status, 201);
      assert.deepEqual(plain(await sender.send({ ...message, idempotencyKey: key })), first);
      assert.deepEqual(plain(await scene.post(alice.token, message, { "Idempotency-Key": `"${key}"` })), first);
      assert.deepEqual(plain(await scene.post(alice.token, message, { "Idempotency-Key": key })), first);
      const [overSocket] = await socket.send([{ ...message, idempotencyKey: key }]);
      assert.deepEqual(plain(overSocket ?? {}), first);
      for (const other of [{ data: "else" }, { type: "else" }, { ttl: 60 }, { urgency: "low" }, { subject: "else" }]) {
        const refused = await sender.send({ ...message, ...other, idempotencyKey: key });
        assert.deepEqual([refused.status, refused.code], [422, "key-reuse"], JSON.stringify(other));
      }
      await scene.mark(alice, bob, tab);
      assert.deepEqual(dataOf(tab), [{ once: [1, 2] }]);
    },
  ),

  rule("[T8] an idempotency key belongs to its sender: two users may use the same one", async (scene) => {
    const [alice, carol, bob] = [await scene.person("alice"), await scene.person("carol"), await scene.person("bob")];
    const tab = await scene.open(bob);
    await scene.send(alice, bob, "from alice", { idempotencyKey: "k" });
    await scene.send(carol, bob, "from carol", { idempotencyKey: "k" });
    await got(tab, 2);
    assert.deepEqual(dataOf(tab), ["from alice", "from carol"]);
  }),

  rule(
    "[T9] the state of a message is its sender's and the services' to see, and nobody else's",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const { id } = await scene.send(alice, bob, 1);
      assert.deepEqual(await scene.states(alice.token, id), { [bob.user]: "waiting" });
      assert.deepEqual(await scene.states(scene.target.serviceKey, id), { [bob.user]: "waiting" });
      const asked = await call(`${scene.target.url}/v1/messages/${id}`, { token: bob.token });
      assert.deepEqual([asked.status, field(asked.body, "code")], [404, "unknown"]);
      const tab = await scene.open(bob);
      await got(tab, 1);
      assert.deepEqual(await scene.states(alice.token, id), { [bob.user]: "waiting" });
      await tab.ack({ upto: tab.cursor });
      assert.deepEqual(await scene.states(alice.token, id), { [bob.user]: "acked" });
    },
    { feature: "state" },
  ),

  rule(
    "[T10] a message taken back goes to nobody who has not settled it; those who have it are told; only its sender and services may",
    async (scene) => {
      const [alice, bob, carol] = [await scene.person("alice"), await scene.person("bob"), await scene.person("carol")];
      const [tab, tabOfCarol] = [await scene.open(bob), await scene.open(carol)];
      const accepted = await scene.post(alice.token, { to: { users: [bob.user, carol.user] }, type: "test", data: "oops" });
      const url = `${scene.target.url}/v1/messages/${String(accepted.id)}`;
      await Promise.all([got(tab, 1), got(tabOfCarol, 1)]);
      await tabOfCarol.ack({ upto: tabOfCarol.cursor });
      const refused = await call(url, { method: "DELETE", token: bob.token });
      assert.deepEqual([refused.status, field(refused.body, "code")], [404, "unknown"]);
      const taken = await call(url, { method: "DELETE", token: alice.token });
      assert.deepEqual([taken.status, taken.body], [200, { evicted: 1 }]);
      await tab.until(() => tab.settled.includes(tab.deliveries[0]?.seq ?? 0), "settled");
      assert.deepEqual(await scene.states(alice.token, String(accepted.id)), { [bob.user]: "evicted", [carol.user]: "acked" });
      assert.deepEqual((await call(url, { method: "DELETE", token: scene.target.serviceKey })).body, { evicted: 0 });
      assert.equal(await tab.ack({ seqs: [tab.deliveries[0]?.seq ?? 0] }), 0);
      const later = await scene.open(bob);
      await scene.mark(alice, bob, later);
      assert.deepEqual(dataOf(later), []);
    },
    { feature: "takeBack" },
  ),

  rule(
    "[T11] Topic replaces the unsettled message of the same source and topic, and no other",
    async (scene) => {
      const [alice, carol, bob] = [await scene.person("alice"), await scene.person("carol"), await scene.person("bob")];
      const first = await scene.send(alice, bob, "old", { topic: "score" });
      await scene.send(alice, bob, "other topic", { topic: "weather" });
      await scene.send(carol, bob, "other source", { topic: "score" });
      await scene.send(alice, bob, "new", { topic: "score" });
      const tab = await scene.open(bob);
      await got(tab, 3);
      assert.deepEqual(dataOf(tab), ["other topic", "other source", "new"]);
      assert.equal(tab.deliveries[2]?.event.topic, "score");
      if (scene.target.supports.state) assert.deepEqual(await scene.states(alice.token, first.id), { [bob.user]: "replaced" });
    },
    { feature: "topic" },
  ),

  rule("[T12] after its time to live a message ends as expired and is not delivered; a receiver that had it is told", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob);
    const { id } = await scene.send(alice, bob, "brief", { ttl: 1 });
    await scene.send(alice, bob, "long");
    await got(tab, 2);
    await tab.until(() => tab.settled.includes(tab.deliveries[0]?.seq ?? 0), "settled");
    assert.equal(await tab.ack({ seqs: [tab.deliveries[0]?.seq ?? 0] }), 0);
    const later = await scene.open(bob);
    await got(later, 1);
    assert.deepEqual(dataOf(later), ["long"]);
    if (scene.target.supports.state) assert.deepEqual(await scene.states(alice.token, id), { [bob.user]: "expired" });
  }),

  rule("[T13] TTL 0 reaches the receivers that are live, and says 0 in the answer; with none it expires at once", async (scene) => {
    const [alice, bob, away] = [await scene.person("alice"), await scene.person("bob"), await scene.person("away")];
    const tab = await scene.open(bob);
    const live = await scene.send(alice, bob, "now", { ttl: 0 });
    assert.equal(live.ttl, 0);
    await got(tab, 1);
    assert.deepEqual(dataOf(tab), ["now"]);
    assert.equal(await tab.ack({ upto: tab.cursor }), 1);
    const missed = await scene.send(alice, away, "nobody is there", { ttl: 0 });
    assert.equal(missed.ttl, 0);
    const late = await scene.open(away);
    await scene.mark(alice, away, late);
    assert.deepEqual(dataOf(late), []);
    if (scene.target.supports.state) {
      assert.deepEqual(await scene.states(alice.token, live.id), { [bob.user]: "acked" });
      assert.deepEqual(await scene.states(alice.token, missed.id), { [away.user]: "expired" });
    }
  }),

  rule("[T68] TTL 0 is not for who comes later: neither a new receiver nor one that reads what waits is handed it", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const tab = await scene.open(bob, { receiver: "live" });
    await scene.send(alice, bob, "now", { ttl: 0 });
    await got(tab, 1);
    const late = await scene.open(bob, { receiver: "late" });
    await scene.mark(alice, bob, late);
    assert.deepEqual(dataOf(late), []);
    // What it was not handed it cannot settle either.
    assert.equal(await late.ack({ upto: late.cursor }), 0);
    assert.equal(await late.ack({ seqs: [1] }), 0);
    assert.deepEqual(dataOf(tab).slice(0, 1), ["now"]);
    assert.equal(await tab.ack({ seqs: [1] }), 1);
  }),

  rule("[T14] a service sends under its own name, has no mailbox, and its messages are delivered like any other", async (scene) => {
    const bob = await scene.person("bob");
    const tab = await scene.open(bob);
    const sender = await scene.wire.openSender(scene.target.url, scene.target.serviceKey);
    scene.later(() => sender.close());
    const result = await sender.send({ to: { user: bob.user }, type: "handover.notification", data: { text: "hello" } });
    assert.equal(result.status, 201, JSON.stringify(result));
    await got(tab, 1);
    assert.match(tab.deliveries[0]?.event.source ?? "", /^\/services\/.+/);
    const polled = await call(`${scene.target.url}/v1/poll`, { token: scene.target.serviceKey, body: { receiver: "service", wait: 0 } });
    assert.deepEqual([polled.status, field(polled.body, "code")], [403, "forbidden"]);
  }),

  rule("[T15] what a scope does not allow is refused with 403, and nothing of it is stored", async (scene) => {
    const [bob, carol] = [await scene.person("bob"), await scene.person("carol")];
    const narrow = await scene.person("alice", `receive send:user:${bob.user}`);
    const tab = await scene.open(carol);
    const sender = await scene.wire.openSender(scene.target.url, narrow.token);
    scene.later(() => sender.close());
    const statusOf = async (message: object) => {
      const { status, code } = await sender.send({ type: "t", data: 1, ...message });
      return [status, code];
    };
    assert.deepEqual(await statusOf({ to: { user: bob.user } }), [201, undefined]);
    assert.deepEqual(await statusOf({ to: { user: carol.user } }), [403, "forbidden"]);
    assert.deepEqual(await statusOf({ to: { users: [bob.user, carol.user] } }), [403, "forbidden"]);
    assert.deepEqual(await statusOf({ to: { session: carol.session } }), [403, "forbidden"]);
    assert.deepEqual(await statusOf({ to: { user: bob.user }, type: "handover.receipt" }), [403, "forbidden"]);
    assert.deepEqual(await statusOf({ to: { user: bob.user }, type: "handover.notification" }), [403, "forbidden"]);
    await scene.mark(bob, carol, tab);
    assert.deepEqual(dataOf(tab), []);
  }),

  rule(
    "[T16] the messages of one send frame are independent: each has its own result, and a bad one takes none with it",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const tab = await scene.open(bob);
      const socket = await openSocket(scene.target.url, { token: alice.token, receiver: scene.name("tab") });
      scene.later(() => socket.terminate());
      const to = { user: bob.user };
      const results = await socket.send([
        { to, type: "t", data: 1 },
        { to, type: "t", data: 2, colour: "red" },
        { to: { user: "" }, type: "t" },
        { to, type: "handover.secret" },
        { to, type: "t", data: "x".repeat(300_000) },
        { to, type: "t", data: 3 },
      ]);
      assert.deepEqual(
        results.map(({ status, code }) => [status, code]),
        [
          [201, undefined],
          [400, "bad-request"],
          [400, "bad-request"],
          [403, "forbidden"],
          [413, "too-large"],
          [201, undefined],
        ],
      );
      assert.match(String(results[1]?.detail), /colour/);
      await got(tab, 2);
      assert.deepEqual(dataOf(tab), [1, 3]);
      assert.equal(socket.isOpen, true);
    },
    { wire: "websocket" },
  ),

  rule(
    "[T17] sends and acknowledgements in one burst are all answered, the acknowledgements in their order",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      await scene.sendMany(alice, bob, 10);
      const socket = await openSocket(scene.target.url, { token: bob.token, receiver: scene.name("tab") });
      scene.later(() => socket.terminate());
      await socket.inbox.until(() => socket.inbox.deliveries.length === 10, "10 deliveries");
      const { epoch } = socket.inbox;
      const sent = socket.send(Array.from({ length: 50 }, (_, n) => ({ to: { user: alice.user }, type: "t", data: n })));
      for (const { seq } of socket.inbox.deliveries) socket.write({ op: "ack", ref: `a${seq}`, epoch, seqs: [seq] });
      socket.write({ op: "ack", ref: "all", epoch, upto: 1_000 });
      await socket.frame(({ ref }) => ref === "all", "the last acked");
      const answers = socket.frames.filter(({ op }) => op === "acked").map(({ ref, acked }) => [ref, acked]);
      assert.deepEqual(answers, [...socket.inbox.deliveries.map(({ seq }) => [`a${seq}`, 1]), ["all", 0]]);
      assert.ok((await sent).every(({ status }) => status === 201));
    },
    { wire: "websocket" },
  ),

  rule("[T18] everything that was accepted at the same time by many senders arrives, once each, in the order of its numbers", async (scene) => {
    const bob = await scene.person("bob");
    const tab = await scene.open(bob, { window: 1_000 });
    const senders = await Promise.all(Array.from({ length: 8 }, (_, n) => scene.person(`sender${n}`)));
    const ids = await Promise.all(
      senders.flatMap((sender, s) => Array.from({ length: 20 }, (_, n) => sendOne(scene, sender.token, bob.user, [s, n]))),
    );
    await got(tab, ids.length);
    assert.deepEqual(tab.deliveries.map(({ event }) => event.id).sort(), [...ids].sort());
    const seqs = tab.deliveries.map(({ seq }) => seq);
    assert.deepEqual(
      seqs,
      [...new Set(seqs)].sort((one, other) => one - other),
    );
  }),
];

async function sendOne(scene: Scene, token: string, user: string, data: unknown): Promise<string> {
  const { status, id } = await scene.post(token, { to: { user }, type: "t", data });
  assert.equal(status, 201);
  return String(id);
}
