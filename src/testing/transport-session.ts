/**
 * Rules of sessions: mail for one of them, and what their end ends.
 * @module
 */
import assert from "node:assert/strict";
import { dataOf, got, type Person, type Rule, rule, type Scene } from "./scene.ts";
import { call, FrameSocket, field, openSocket } from "./wire.ts";

/** How soon after the answer everything of an ended session is closed. */
const SOON_MS = 1_000;

/** How a link ends whose session ended: WebSocket's close code, the `problem` of a stream, or the 401 of a poll. */
function endOf(scene: Scene): number {
  return scene.wire.kind === "poll" ? 4000 + 401 : 4410;
}

async function endSession(scene: Scene, session: string): Promise<void> {
  const { url, serviceKey } = scene.target;
  const answer = await call(`${url}/v1/sessions/${session}`, { method: "DELETE", token: serviceKey });
  assert.deepEqual([answer.status, answer.body], [204, undefined]);
}

/** That nothing can be done with a token any more. */
async function expectRefused(scene: Scene, token: string): Promise<void> {
  const { url } = scene.target;
  const asked = [
    call(`${url}/v1/messages`, { token, body: { to: { user: "somebody" }, type: "t" } }),
    call(`${url}/v1/poll`, { token, body: { receiver: "p", wait: 0 } }),
    call(`${url}/v1/ack`, { token, body: { receiver: "p", epoch: null, upto: 1 } }),
    call(`${url}/v1/messages/x`, { token }),
    call(`${url}/v1/messages/x`, { method: "DELETE", token }),
  ];
  for (const answer of await Promise.all(asked)) assert.deepEqual([answer.status, field(answer.body, "code")], [401, "token-invalid"]);
  const socket = new FrameSocket(url);
  await socket.opened();
  socket.write({ op: "hello", token, receiver: "r" });
  await socket.inbox.until(() => socket.inbox.end !== undefined, "the close");
  assert.deepEqual([socket.inbox.end, socket.frames[0]?.code], [4401, "token-invalid"]);
}

/** Sends as a service. */
function tell(scene: Scene, { session }: Pick<Person, "session">, data: unknown, more: object = {}) {
  return scene.post(scene.target.serviceKey, { to: { session }, type: "test", data, ...more });
}

export const SESSIONS: readonly Rule[] = [
  rule("[T80] when a session ends, its connections and polls end within a second, and those of the user's other sessions do not", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const other = await scene.session(bob.user);
    const [first, second, kept] = [await scene.open(bob), await scene.open(bob), await scene.open(other)];
    const mute = { ...bob, token: scene.renewed(bob, 600, "send:user:*") };
    const sender = await openSocket(scene.target.url, { token: mute.token });
    scene.later(() => sender.terminate());
    await scene.mark(alice, bob, first);
    await endSession(scene, bob.session);
    await Promise.all([first, second].map((tab) => tab.until(() => tab.end !== undefined, "the end", SOON_MS)));
    await sender.inbox.until(() => sender.inbox.end !== undefined, "the end of a connection that only sends", SOON_MS);
    assert.deepEqual([first.end, second.end, sender.inbox.end], [endOf(scene), endOf(scene), 4410]);
    await scene.send(alice, bob, "for the others");
    await kept.until(() => dataOf(kept).includes("for the others"), "mail in the other session");
    assert.equal(kept.end, undefined);
  }),

  rule("[T81] with a token of an ended session, old or new, nothing can be done: 401 and 4401", async (scene) => {
    const [bob, unseen] = [await scene.person("bob"), { user: scene.name("zoe"), session: scene.name("session") }];
    await expectAccepted(scene, bob.token);
    for (const session of [bob.session, unseen.session]) await endSession(scene, session);
    for (const token of [bob.token, scene.renewed(bob, 600), scene.renewed(unseen, 600)]) await expectRefused(scene, token);
    // Once more does no harm, and another login is another session.
    await endSession(scene, bob.session);
    await expectRefused(scene, bob.token);
    await expectAccepted(scene, (await scene.session(bob.user)).token);
  }),

  rule(
    "[T82] an ended session stays ended across a restart",
    async (scene) => {
      const bob = await scene.person("bob");
      const kept = await scene.session(bob.user);
      await endSession(scene, bob.session);
      await scene.target.restart?.();
      for (const token of [bob.token, scene.renewed(bob, 600)]) await expectRefused(scene, token);
      await expectAccepted(scene, kept.token);
      // What was made before is known afterwards.
      assert.equal((await tell(scene, kept, 1)).status, 201);
    },
    { restart: true, limitMs: 30_000 },
  ),

  rule("[T83] a message to a session goes to that session's receivers only, and says whose it is", async (scene) => {
    const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
    const other = await scene.session(bob.user);
    const [first, elsewhere] = [await scene.open(bob), await scene.open(other)];
    const live = await tell(scene, bob, "live");
    assert.deepEqual([live.status, live.recipients], [201, [bob.user]]);
    await tell(scene, other, "for the other");
    const second = await scene.open(bob);
    for (const tab of [first, second, elsewhere]) await scene.mark(alice, bob, tab);
    assert.deepEqual([dataOf(first), dataOf(second), dataOf(elsewhere)], [["live"], ["live"], ["for the other"]]);
    // The others' acknowledgement does not reach it.
    await elsewhere.ack({ upto: elsewhere.cursor });
    const id = String(live.id);
    if (scene.target.supports.state) assert.deepEqual(await scene.states(scene.target.serviceKey, id), { [bob.user]: "waiting" });
    assert.equal(await second.ack({ seqs: [second.deliveries[0]?.seq ?? 0] }), 1);
    await first.until(() => first.settled.length > 0, "settled");
    if (scene.target.supports.state) assert.deepEqual(await scene.states(scene.target.serviceKey, id), { [bob.user]: "acked" });
  }),

  rule("[T84] a session is known once it was made or its token was seen; one that is not, or has ended, is 404 and gets nothing", async (scene) => {
    const bob = await scene.person("bob");
    const signed = { user: bob.user, session: scene.name("signed") };
    const codeOf = async (session: string) => {
      const { status, code } = await tell(scene, { session }, 1);
      return [status, code];
    };
    assert.deepEqual(await codeOf(bob.session), [201, undefined]);
    assert.deepEqual(await codeOf(signed.session), [404, "unknown"]);
    await expectAccepted(scene, scene.renewed(signed, 600));
    assert.deepEqual(await codeOf(signed.session), [201, undefined]);
    await endSession(scene, bob.session);
    assert.deepEqual(await codeOf(bob.session), [404, "unknown"]);
    const both = await scene.post(scene.target.serviceKey, [signed, bob].map(({ session }) => ({ to: { session }, type: "t" })) as unknown as object);
    assert.deepEqual([both.status, both.code], [404, "unknown"]);
    const tab = await scene.open({ ...signed, token: scene.renewed(signed, 600) });
    await scene.mark(await scene.person("alice"), bob, tab);
    assert.deepEqual(dataOf(tab), [1]);
  }),

  rule(
    "[T85] what is addressed to a session ends as evicted when the session ends, however it waits; the user's other mail stays",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const other = await scene.session(bob.user);
      const tab = await scene.open(bob);
      const ids: string[] = [];
      for (const data of ["handed", "held", "nacked"]) ids.push(String((await tell(scene, bob, data)).id));
      await got(tab, 3);
      const [, held = 0, nacked = 0] = tab.deliveries.map(({ seq }) => seq);
      await tab.ack({ hold: [held], nack: [{ seq: nacked, retryAfter: 600 }] });
      await scene.send(alice, bob, "for all");
      await tell(scene, other, "for the other");
      await endSession(scene, bob.session);
      for (const id of ids) assert.deepEqual(await scene.states(scene.target.serviceKey, id), { [bob.user]: "evicted" });
      const kept = await scene.open(other);
      await got(kept, 2);
      assert.deepEqual(dataOf(kept), ["for all", "for the other"]);
      assert.deepEqual(kept.gaps, []);
    },
    { feature: "state" },
  ),

  rule(
    "[T86] TTL 0 to a session looks for that session's receivers; a repeat of what a session got is answered as before, also when it has ended",
    async (scene) => {
      const bob = await scene.person("bob");
      const away = await scene.session(bob.user);
      const tab = await scene.open(bob);
      const [here, there] = [await tell(scene, bob, "now", { ttl: 0 }), await tell(scene, away, "now or never", { ttl: 0 })];
      assert.deepEqual([here.status, there.status], [201, 201]);
      await got(tab, 1);
      const { serviceKey, supports } = scene.target;
      if (supports.state) assert.deepEqual(await scene.states(serviceKey, String(there.id)), { [bob.user]: "expired" });
      const key = scene.name("key");
      const first = await tell(scene, bob, "once", { idempotencyKey: key });
      assert.deepEqual(await tell(scene, bob, "once", { idempotencyKey: key }), first);
      await endSession(scene, bob.session);
      assert.deepEqual(await tell(scene, bob, "once", { idempotencyKey: key }), first);
      assert.equal((await tell(scene, bob, "another")).status, 404);
    },
  ),

  rule(
    "[T87] a message to a session can be taken back, and replaced by Topic within its address: one to the session and one to its user do not replace each other",
    async (scene) => {
      const bob = await scene.person("bob");
      const { url, serviceKey, supports } = scene.target;
      const topic = "status";
      for (const data of ["session 1", "session 2"]) assert.equal((await tell(scene, bob, data, { topic })).status, 201);
      for (const data of ["user 1", "user 2"]) await scene.post(serviceKey, { to: { user: bob.user }, type: "test", data, topic });
      const tab = await scene.open(bob);
      await got(tab, 2);
      assert.deepEqual(dataOf(tab), ["session 2", "user 2"]);
      if (!supports.takeBack) return;
      const { id } = await tell(scene, bob, "oops");
      await got(tab, 3);
      const answer = await call(`${url}/v1/messages/${String(id)}`, { method: "DELETE", token: serviceKey });
      assert.deepEqual(answer.body, { evicted: 1 });
      await tab.until(() => tab.settled.length === 1, "settled");
    },
    { feature: "topic" },
  ),

  rule("[T89] what is opened, acknowledged or sent while a session ends does not outlive it", async (scene) => {
    const { url } = scene.target;
    const bob = await scene.person("bob");
    const to = { user: bob.user };
    let ended = false;
    const late: string[] = [];
    const sockets: FrameSocket[] = [];
    const open = async (n: number) => {
      const socket = new FrameSocket(url);
      sockets.push(socket);
      await socket.opened();
      socket.write({ op: "hello", token: bob.token, receiver: `ws-${n}` });
    };
    const ask = async (path: string, body: object) => {
      const wasEnded = ended;
      const { status } = await call(`${url}${path}`, { token: bob.token, body });
      if (wasEnded && status !== 401) late.push(`${path} → ${status}`);
      return status;
    };
    const work: Promise<unknown>[] = [];
    for (let n = 0; n < 30; n++) {
      work.push(open(n), ask("/v1/poll", { receiver: `poll-${n}`, wait: 15 }), ask("/v1/messages", { to, type: "t" }));
      work.push(ask("/v1/ack", { receiver: "p", epoch: null, upto: 1 }));
      if (n === 15) {
        work.push(
          endSession(scene, bob.session).then(() => {
            ended = true;
          }),
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    // The polls, held for 15 s otherwise, are all answered.
    await Promise.all(work);
    await Promise.all(sockets.map(({ inbox }) => inbox.until(() => inbox.end !== undefined, "the end", SOON_MS)));
    assert.deepEqual(late, []);
    assert.ok(sockets.every(({ inbox }) => inbox.end === 4410 || inbox.end === 4401));
  }),
];

async function expectAccepted(scene: Scene, token: string): Promise<void> {
  const answer = await call(`${scene.target.url}/v1/poll`, { token, body: { receiver: "p", wait: 0 } });
  assert.ok(answer.status === 204 || answer.status === 200, `${answer.status}`);
}
