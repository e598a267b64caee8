/**
 * Rules of server-sent events: what an EventSource needs, which knows nothing of this protocol.
 * @module
 */
import assert from "node:assert/strict";
import { got, type Person, type Rule, rule, type Scene } from "./scene.ts";
import { call, type Delivered, field } from "./wire.ts";
import { EventStream, type StreamOptions } from "./wire-sse.ts";

async function stream(scene: Scene, person: Person, options: Partial<StreamOptions> = {}): Promise<EventStream> {
  const opened = await EventStream.open({ url: scene.target.url, token: person.token, ...options });
  scene.later(() => opened.leave());
  return opened;
}

const dataOf = ({ inbox }: EventStream) => inbox.deliveries.map(({ event }) => event.data);
const arrived = (opened: EventStream, count: number) =>
  opened.inbox.until(() => opened.inbox.deliveries.length >= count, `${count} deliveries on the stream`);
const ended = (opened: EventStream) => Promise.race([opened.ended, opened.inbox.until(() => false, "the end of the connection")]);

export const STREAMING: readonly Rule[] = [
  rule(
    "[T69] a stream is as the standard says: `ready` first, a delivery the default event, one line of JSON under the id `epoch:seq`",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const odd = "\r\n\nid: x:9\n\nevent: problem\rdata: {}\u2028\u2029\u0085\u0000\ufeff: end";
      const values = [odd, { [odd]: [odd] }, "", null, "ä🎉"];
      for (const value of values) await scene.send(alice, bob, value);
      const opened = await stream(scene, bob, { query: { receiver: "tab" } });
      await arrived(opened, values.length);
      assert.deepEqual(dataOf(opened), values);
      const [ready, ...others] = opened.events;
      const { epoch, head = 0 } = opened.inbox;
      assert.deepEqual([ready?.name, JSON.parse(ready?.data ?? "")], ["ready", { receiver: "tab", epoch, head }]);
      assert.equal(head, values.length);
      // Plain EventSources come back spread out, as other clients do.
      assert.ok((ready?.retry ?? 0) >= 250 && (ready?.retry ?? 0) <= 4_000, String(ready?.retry));
      for (const { name, id, data } of others) assert.deepEqual([name, id], ["message", `${epoch}:${(JSON.parse(data) as Delivered).seq}`]);
      for (const line of opened.text.split("\n")) assert.match(line, /^$|^:|^(id|event|data|retry): [^\r\n]+$/);
    },
    { wire: "sse" },
  ),

  rule(
    "[T70] `Last-Event-ID` says where to go on, whatever the query says; it is no acknowledgement",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      await scene.sendMany(alice, bob, 4);
      const first = await stream(scene, bob, { query: { receiver: "tab" } });
      await arrived(first, 4);
      const { epoch = "" } = first.inbox;
      await first.leave();
      const id = first.events.find(({ data }) => field(JSON.parse(data), "seq") === first.inbox.deliveries[1]?.seq)?.id ?? "";
      for (const query of [
        { receiver: "tab" },
        { receiver: "tab", epoch, cursor: 0 },
        { receiver: "tab", epoch: "of-another-store", cursor: 4 },
        {},
      ]) {
        const again = await stream(scene, bob, { query, lastEventId: id });
        await arrived(again, 2);
        assert.deepEqual(dataOf(again), [3, 4], JSON.stringify(query));
        await again.leave();
      }
      // One that cannot be continued means everything again, and nothing has been settled by any of them.
      for (const lastEventId of [`of-another-store:${first.inbox.cursor}`, `${epoch}:999999`]) {
        const anew = await stream(scene, bob, { query: { receiver: "tab", epoch, cursor: 4 }, lastEventId });
        await arrived(anew, 4);
        assert.deepEqual(dataOf(anew), [1, 2, 3, 4], lastEventId);
        await anew.leave();
      }
      for (const lastEventId of ["4", ":4", `${epoch}:`, `${epoch}:-1`, `${epoch}:1.5`, `${epoch}:4:4`, `${epoch}:${"9".repeat(17)}`, "a b:1"]) {
        const answer = await call(`${scene.target.url}/v1/events`, { token: bob.token, headers: { "Last-Event-ID": lastEventId } });
        assert.deepEqual([answer.status, field(answer.body, "code")], [400, "bad-request"], lastEventId);
      }
    },
    { wire: "sse" },
  ),

  rule(
    "[T71] a gap's event has an id: who comes back with it is told of the gap once",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      await scene.send(alice, bob, "kept");
      const tab = await stream(scene, bob);
      await arrived(tab, 1);
      const cursor = tab.events.at(-1)?.id ?? "";
      await tab.leave();
      const other = await scene.open(bob, { epoch: tab.inbox.epoch, cursor: tab.inbox.cursor });
      await scene.send(alice, bob, "bad");
      await got(other, 1);
      assert.equal(await other.ack({ reject: [{ seq: other.cursor }] }), 1);
      const resumed = await stream(scene, bob, { lastEventId: cursor });
      const gap = await resumed.event(({ name }) => name === "gap", "the gap");
      assert.deepEqual(JSON.parse(gap.data), { from: other.cursor, to: other.cursor, reason: "dead" });
      assert.equal(gap.id, `${tab.inbox.epoch}:${other.cursor}`);
      await resumed.leave();
      const again = await stream(scene, bob, { lastEventId: gap.id });
      await scene.send(alice, bob, "last");
      await arrived(again, 1);
      assert.deepEqual([dataOf(again), again.inbox.gaps], [["last"], []]);
    },
    { wire: "sse" },
  ),

  rule(
    "[T72] the last event of a stream that the server ends says why: `problem`, and a replaced one is told to stay away for minutes",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const older = await stream(scene, bob, { query: { receiver: "tab" } });
      const newer = await stream(scene, bob, { query: { receiver: "tab" } });
      await ended(older);
      const replaced = older.events.at(-1);
      assert.equal(replaced?.name, "problem");
      const { code, status, retryable, type, title, detail } = JSON.parse(replaced.data) as Record<string, unknown>;
      assert.deepEqual([code, status, retryable, type], ["replaced", 409, false, "urn:handover:error:replaced"]);
      assert.ok(title && detail);
      assert.ok((replaced.retry ?? 0) >= 60_000, String(replaced.retry));
      await scene.send(alice, bob, 1);
      await arrived(newer, 1);
      // A poll of that name takes over like any other link.
      const polled = await call(`${scene.target.url}/v1/poll`, { token: bob.token, body: { receiver: "tab", wait: 0 } });
      assert.equal(polled.status, 200);
      await ended(newer);
      assert.equal(field(JSON.parse(newer.events.at(-1)?.data ?? ""), "code"), "replaced");

      const brief = { ...bob, token: scene.renewed(bob, 1.5) };
      const expiring = await stream(scene, brief, { query: { receiver: "brief" } });
      await ended(expiring);
      await scene.send(alice, bob, "too late");
      const expired = expiring.events.at(-1);
      assert.deepEqual([expired?.name, field(JSON.parse(expired?.data ?? ""), "code")], ["problem", "token-expired"]);
      assert.deepEqual(dataOf(expiring), [1]);
    },
    { wire: "sse" },
  ),

  rule(
    "[T73] a server that stops says `drain`, with a `retry` within its delay, and ends the stream; the id leads on afterwards",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      await scene.send(alice, bob, 1);
      const opened = await stream(scene, bob);
      await arrived(opened, 1);
      const restarted = scene.target.restart?.();
      await ended(opened);
      const drain = opened.events.at(-1);
      assert.equal(drain?.name, "drain");
      const { delay } = JSON.parse(drain.data) as { delay: number };
      assert.ok(delay > 0 && (drain.retry ?? 0) > 0 && (drain.retry ?? 0) <= delay * 1000, `${drain.retry} ms of ${delay} s`);
      await restarted;
      await scene.send(alice, bob, 2);
      const again = await stream(scene, bob, { lastEventId: drain.id });
      await arrived(again, 1);
      assert.deepEqual(dataOf(again), [2]);
    },
    { wire: "sse", restart: true },
  ),

  rule(
    "[T74] a stream without a receiver gets one from the server, a name of its own each time, by which it acknowledges",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const [one, other] = [await stream(scene, bob, { query: { window: 1 } }), await stream(scene, bob)];
      assert.match(one.receiver, /^[A-Za-z0-9._:@-]{1,128}$/);
      assert.notEqual(one.receiver, other.receiver);
      await scene.sendMany(alice, bob, 3);
      await arrived(other, 3);
      const { epoch = null, cursor } = one.inbox;
      // The window is this stream's own, and an acknowledgement beside it makes room.
      assert.deepEqual(dataOf(one), [1]);
      assert.equal(await scene.ack(bob, { receiver: one.receiver, epoch, cursor, seqs: [cursor] }), 1);
      await arrived(one, 2);
      assert.deepEqual(dataOf(one), [1, 2]);
      await other.inbox.until(() => other.inbox.settled.includes(cursor), "settled");
    },
    { wire: "sse" },
  ),

  rule(
    "[T75] a stream on which nothing happens carries a comment every 15 s",
    async (scene) => {
      const opened = await stream(scene, await scene.person("bob"));
      const startedMs = performance.now();
      assert.equal(opened.comments, 0);
      await opened.inbox.until(() => opened.comments > 0, "a comment", 20_000);
      const tookMs = performance.now() - startedMs;
      assert.ok(Math.abs(tookMs - 15_000) < 1_500, `${tookMs} ms`);
      assert.deepEqual([opened.events.length, opened.inbox.end], [1, undefined]);
    },
    { wire: "sse", limitMs: 30_000 },
  ),

  rule(
    "[T76] what a stream that nobody reads was to get stays in the mailbox, and stops nobody else",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const stuck = await stream(scene, bob, { query: { receiver: "stuck", window: 1_000 } });
      stuck.pause();
      const text = "x".repeat(200_000);
      const numbers = Array.from({ length: 60 }, (_, n) => n);
      for (const n of numbers) await scene.send(alice, bob, [n, text]);
      const well = await stream(scene, bob, { query: { window: 1_000 } });
      await arrived(well, 60);
      assert.deepEqual(
        dataOf(well).map((data) => (data as [number])[0]),
        numbers,
      );
      assert.ok(stuck.inbox.deliveries.length < 60, "it does not read");
      stuck.resume();
      await arrived(stuck, 60);
      assert.deepEqual(
        dataOf(stuck).map((data) => (data as [number])[0]),
        numbers,
      );
      assert.equal(stuck.inbox.end, undefined);
    },
    { wire: "sse", limitMs: 60_000 },
  ),

  rule(
    "[T77] a receiver may change its transport: what one handed out is acknowledged, and gone on from, on another",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      await scene.sendMany(alice, bob, 3);
      const query = { receiver: "tab", window: 2 };
      const first = await stream(scene, bob, { query });
      await arrived(first, 2);
      const { epoch, cursor } = first.inbox;
      const poll = (more: object) => call(`${scene.target.url}/v1/poll`, { token: bob.token, body: { receiver: "tab", epoch, wait: 0, ...more } });
      const polled = await poll({ cursor, ack: { seqs: [first.inbox.deliveries[0]?.seq] } });
      const deliveries = field(polled.body, "deliveries") as Delivered[];
      assert.deepEqual(
        deliveries.map(({ event }) => event.data),
        [3],
      );
      await scene.send(alice, bob, 4);
      const again = await stream(scene, bob, { query: { ...query, epoch, cursor: Number(field(polled.body, "cursor")), window: 3 } });
      await arrived(again, 1);
      assert.deepEqual(dataOf(again), [4]);
      assert.equal(await scene.ack(bob, { receiver: "tab", epoch: epoch ?? null, cursor: again.inbox.cursor, upto: again.inbox.cursor }), 3);
    },
    { wire: "sse" },
  ),
];
