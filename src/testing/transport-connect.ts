/**
 * Rules of connecting: who may, for how long, and how a connection ends.
 * @module
 */
import assert from "node:assert/strict";
import { dataOf, got, type Rule, rule } from "./scene.ts";
import { call, FrameSocket, field, openSocket, signToken } from "./wire.ts";

export const CONNECTING: readonly Rule[] = [
  rule("[T55] without a valid token nothing is handed out: 401 and 4401", async (scene) => {
    const { url, tokenSecret } = scene.target;
    const bob = await scene.person("bob");
    const claims = { sub: bob.user, sid: bob.session, aud: "handover", exp: Date.now() / 1000 + 600 };
    const wrong = ["nonsense", `${bob.token}x`, signToken(`${tokenSecret}x`, claims), signToken(tokenSecret, { ...claims, aud: "other" })];
    for (const token of wrong) {
      if (scene.wire.kind !== "websocket") {
        const polled = scene.wire.kind === "poll";
        const answer = await (polled ? call(`${url}/v1/poll`, { token, body: { receiver: "p", wait: 0 } }) : call(`${url}/v1/events`, { token }));
        assert.deepEqual([answer.status, field(answer.body, "code")], [401, "token-invalid"]);
        continue;
      }
      const socket = new FrameSocket(url);
      await socket.opened();
      const startedMs = performance.now();
      socket.write({ op: "hello", token, receiver: "r" });
      await socket.inbox.until(() => socket.inbox.end !== undefined, "the close");
      assert.equal(socket.inbox.end, 4401);
      assert.ok(performance.now() - startedMs < 3_000, "a refused hello closes at once");
      assert.deepEqual(
        socket.frames.map(({ op, code }) => [op, code]),
        [["error", "token-invalid"]],
      );
    }
  }),

  rule("[T56] what a token allows ends with it, in the middle of a connection or a poll", async (scene) => {
    const bob = await scene.person("bob");
    const brief = { ...bob, token: scene.renewed(bob, 1.5) };
    const startedMs = performance.now();
    const tab = await scene.open(brief);
    await tab.until(() => tab.end !== undefined, "the end");
    const tookMs = performance.now() - startedMs;
    assert.equal(tab.end, scene.wire.kind === "poll" ? 4000 + 401 : 4401);
    assert.ok(tookMs > 1_300 && tookMs < 4_000, `${tookMs} ms`);
    const answer = await call(`${scene.target.url}/v1/messages`, { token: brief.token, body: { to: { user: bob.user }, type: "t" } });
    assert.deepEqual([answer.status, field(answer.body, "code")], [401, "token-expired"]);
  }),

  rule("[T57] a token whose scope lacks receive may send and gets no mail", async (scene) => {
    const [bob, alice] = [await scene.person("bob"), await scene.person("alice")];
    const mute = await scene.session(bob.user, "send:user:*");
    const tab = await scene.open(alice);
    await scene.send(alice, bob, "for bob");
    const polled = await call(`${scene.target.url}/v1/poll`, { token: mute.token, body: { receiver: "p", wait: 0 } });
    assert.deepEqual([polled.status, field(polled.body, "code")], [403, "forbidden"]);
    const streamed = await call(`${scene.target.url}/v1/events`, { token: mute.token });
    assert.deepEqual([streamed.status, field(streamed.body, "code")], [403, "forbidden"]);
    const acked = await call(`${scene.target.url}/v1/ack`, { token: mute.token, body: { receiver: "p", epoch: null, cursor: 9, upto: 9 } });
    assert.deepEqual([acked.status, field(acked.body, "code")], [403, "forbidden"]);
    const socket = await openSocket(scene.target.url, { token: mute.token });
    scene.later(() => socket.terminate());
    const [sent] = await socket.send([{ to: { user: alice.user }, type: "t", data: "from bob" }]);
    assert.equal(sent?.status, 201);
    await got(tab, 1);
    assert.deepEqual(dataOf(tab), ["from bob"]);
    assert.deepEqual(socket.inbox.deliveries, []);
    socket.write({ op: "ack", ref: 1, epoch: "x", upto: 1 });
    const refused = await socket.frame(({ ref }) => ref === 1, "the refusal");
    assert.deepEqual([refused.op, refused.code], ["error", "forbidden"]);
  }),

  rule(
    "[T58] `auth` with a token of the same session renews the connection; another user's or session's is refused",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const receiver = scene.name("tab");
      const socket = await openSocket(scene.target.url, { token: scene.renewed(bob, 2), receiver });
      scene.later(() => socket.terminate());
      for (const token of [alice.token, (await scene.session(bob.user)).token, scene.target.serviceKey]) {
        const start = socket.frames.length;
        socket.write({ op: "auth", token });
        const refused = await socket.frame(() => true, "the refusal", start);
        assert.deepEqual([refused.op, refused.code], ["error", "forbidden"]);
      }
      const start = socket.frames.length;
      socket.write({ op: "auth", token: "nonsense" });
      assert.equal((await socket.frame(() => true, "the refusal", start)).code, "token-invalid");
      socket.write({ op: "auth", token: scene.renewed(bob, 4) });
      const ready = await socket.frame(({ op }) => op === "ready", "ready", start);
      assert.equal(ready.receiver, receiver);
      const renewedMs = performance.now();
      await socket.inbox.until(() => socket.inbox.end !== undefined, "the end of the renewed token");
      assert.equal(socket.inbox.end, 4401);
      assert.ok(performance.now() - renewedMs > 3_000, "the new token counts");
    },
    { wire: "websocket" },
  ),

  rule(
    "[T59] the first frame is hello, once; what is not is answered with an error and 4400, at once",
    async (scene) => {
      const bob = await scene.person("bob");
      const wrong: readonly (string | Uint8Array)[] = [
        "not json",
        '"text"',
        "[]",
        "{}",
        '{"op":1}',
        '{"op":"ack","epoch":null,"upto":1}',
        '{"op":"send","messages":[]}',
        '{"op":"hello"}',
        '{"op":"hello","token":7}',
        JSON.stringify({ op: "hello", token: bob.token, receiver: "not a name" }),
        JSON.stringify({ op: "hello", token: bob.token, cursor: -1 }),
        JSON.stringify({ op: "hello", token: bob.token, colour: "red" }),
        Buffer.from(JSON.stringify({ op: "hello", token: bob.token })),
      ];
      for (const frame of wrong) {
        const socket = new FrameSocket(scene.target.url);
        await socket.opened();
        const startedMs = performance.now();
        if (typeof frame === "string") socket.write(frame);
        else socket.writeBinary(frame);
        await socket.inbox.until(() => socket.inbox.end !== undefined, `the close after ${String(frame)}`);
        assert.equal(socket.inbox.end, 4400, String(frame));
        assert.ok(performance.now() - startedMs < 3_000, "it closes at once");
        assert.deepEqual([socket.frames[0]?.op, socket.frames[0]?.code], ["error", "bad-request"]);
      }
      const socket = await openSocket(scene.target.url, { token: bob.token, receiver: "r" });
      socket.write({ op: "hello", token: bob.token, receiver: "r" });
      await socket.inbox.until(() => socket.inbox.end !== undefined, "the close after a second hello");
      assert.equal(socket.inbox.end, 4400);
    },
    { wire: "websocket" },
  ),

  rule(
    "[T60] after hello a frame that is wrong is answered with an error that carries its ref, and the connection goes on",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const socket = await openSocket(scene.target.url, { token: bob.token, receiver: "r" });
      scene.later(() => socket.terminate());
      const wrong: readonly object[] = [
        { op: "dance", ref: "a" },
        { op: "ack", ref: "b", epoch: null, seqs: "1" },
        { op: "ack", ref: "c", epoch: null, seqs: [1.5] },
        { op: "ack", ref: "d", epoch: null, receiver: "mine" },
        { op: "send", ref: "e", messages: "none" },
        { op: "send", ref: "f", messages: [] },
        { op: "send", ref: "g", messages: [{ to: { user: "bob" } }] },
      ];
      for (const frame of wrong) socket.write(frame);
      for (const frame of wrong) {
        const { ref } = frame as { ref: string };
        const answer = await socket.frame((each) => each.ref === ref, JSON.stringify(frame));
        assert.deepEqual([answer.op, answer.status, answer.code], ["error", 400, "bad-request"]);
      }
      await scene.send(alice, bob, "still here");
      await socket.inbox.until(() => socket.inbox.deliveries.length === 1, "a delivery");
    },
    { wire: "websocket" },
  ),

  rule(
    "[T61] without hello the connection is closed with 4508 after 10 s",
    async (scene) => {
      const socket = new FrameSocket(scene.target.url);
      await socket.opened();
      const startedMs = performance.now();
      await socket.inbox.until(() => socket.inbox.end !== undefined, "the close", 15_000);
      assert.equal(socket.inbox.end, 4508);
      const tookMs = performance.now() - startedMs;
      assert.ok(tookMs > 9_500 && tookMs < 13_000, `${tookMs} ms`);
    },
    { wire: "websocket", limitMs: 30_000 },
  ),

  rule(
    "[T62] a frame of more than 1 MiB closes the connection with 4413; nothing of it is stored",
    async (scene) => {
      const bob = await scene.person("bob");
      const big = await openSocket(scene.target.url, { token: bob.token, receiver: "big" });
      big.write(JSON.stringify({ op: "send", messages: [{ ref: 1, to: { user: bob.user }, type: "t", data: "x".repeat(1_048_576) }] }));
      await big.inbox.until(() => big.inbox.end !== undefined, "the close");
      assert.equal(big.inbox.end, 4413);
      const tab = await scene.open(bob);
      await scene.mark(bob, bob, tab);
      assert.deepEqual(dataOf(tab), []);
    },
    { wire: "websocket" },
  ),

  rule(
    "[T63] hello without a receiver gets one from the server, a name of its own each time",
    async (scene) => {
      const bob = await scene.person("bob");
      const names = new Set<unknown>();
      for (let n = 0; n < 2; n++) {
        const socket = await openSocket(scene.target.url, { token: bob.token });
        scene.later(() => socket.terminate());
        names.add(socket.frames[0]?.receiver);
      }
      assert.equal(names.size, 2);
      assert.ok([...names].every((name) => typeof name === "string" && name !== ""));
    },
    { wire: "websocket" },
  ),

  rule(
    "[T64] what a peer that does not read was to get stays in its mailbox, and stops nobody else",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const stuck = await openSocket(scene.target.url, { token: bob.token, receiver: "stuck", window: 1_000 });
      scene.later(() => stuck.terminate());
      stuck.pause();
      const text = "x".repeat(200_000);
      for (let n = 0; n < 60; n++) await scene.send(alice, bob, [n, text]);
      const well = await scene.open(bob, { window: 1_000 });
      await got(well, 60);
      assert.deepEqual(
        well.deliveries.map(({ event }) => (event.data as [number])[0]),
        Array.from({ length: 60 }, (_, n) => n),
      );
      stuck.resume();
      await stuck.inbox.until(() => stuck.inbox.deliveries.length === 60 || stuck.inbox.end !== undefined, "everything, once it reads again");
      // Slow to read is no fault as long as it asks for nothing: what fitted waits for it on the wire, the rest in the mailbox.
      assert.equal(stuck.inbox.end, undefined);
      assert.deepEqual(
        stuck.inbox.deliveries.map(({ event }) => (event.data as [number])[0]),
        Array.from({ length: 60 }, (_, n) => n),
      );
    },
    { wire: "websocket", limitMs: 60_000 },
  ),

  rule(
    "[T65] a peer that goes on asking and reads no answers is let go with 4513",
    async (scene) => {
      const bob = await scene.person("bob");
      const socket = await openSocket(scene.target.url, { token: bob.token, receiver: "r" });
      socket.pause();
      // Each is answered with an error of some 450 bytes: 54 MB in all, far more than the two systems' buffers and the server's own bound.
      const question = { op: "dance", ref: "x".repeat(128) };
      for (let n = 0; n < 119_999; n++) socket.write(question);
      // All of it is taken, or the server stops reading this peer, as it may: then the rest never leaves, and nothing tells us so.
      const taken = socket.writeThrough(question).catch(() => {});
      await Promise.race([taken, new Promise((resolve) => setTimeout(resolve, 4_000))]);
      socket.resume();
      await socket.inbox.until(() => socket.inbox.end !== undefined, "the close", 40_000);
      assert.equal(socket.inbox.end, 4513);
    },
    { wire: "websocket", limitMs: 60_000 },
  ),

  rule(
    "[T66] a poll that a newer one of the same receiver replaced ends with 204; the newer one gets the mail",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const poll = (wait: number) => call(`${scene.target.url}/v1/poll`, { token: bob.token, body: { receiver: "p", wait } });
      assert.equal((await poll(0)).status, 204);
      const startedMs = performance.now();
      const polls = [poll(8), poll(8), poll(8)];
      // Two of the three have ended; which of them came first is the network's affair.
      const first = await Promise.race(polls);
      assert.equal(first.status, 204);
      assert.ok(performance.now() - startedMs < 4_000);
      await scene.send(alice, bob, 1);
      const answers = await Promise.all(polls);
      assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 204, 204]);
    },
    { wire: "poll" },
  ),
];
