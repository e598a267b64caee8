/** What the RabbitMQ engine does when its index, its broker or its queue goes away. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { MessageId, UserId } from "../../src/protocol.ts";
import { until } from "../../src/testing/engine-bench.ts";
import { Broker, OWN_RABBITMQ, randomName } from "../support/broker.ts";
import { describeWith } from "../support/needs.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";
import { asOperator, attach, depth, isUnavailable, Load, numbers, type OpenOptions, openEngine, recovered, send, waiting } from "./rabbitmq-rig.ts";

describeWith(OWN_RABBITMQ, "the RabbitMQ engine and faults", () => {
  let broker: Broker;
  beforeAll(async () => {
    broker = await Broker.start();
  }, 90_000);
  afterAll(() => broker.remove());
  const open = (dir: string, journal: string, options: OpenOptions = {}) => openEngine(broker.url, dir, journal, options);

  test("[Q1] without its index the mail is rebuilt from the journal, in order, under a new epoch: all that waited, nothing that had ended", async () => {
    const [one, other] = [makeFolder(), makeFolder()];
    const journal = randomName();
    const first = await open(one.dir, journal, { mailboxMaxMessages: 60 });
    for (const id of numbers("a", 50)) expect(await send(first, id, Number(id.slice(1)) % 5 === 0 ? ["bob", "eve"] : ["bob"])).toBe("stored");
    // In the journal, and in no mailbox: a full mailbox, a conflict, a repeat.
    for (const id of numbers("fill", 10)) await send(first, id);
    expect(await send(first, "refused")).toBe("full");
    expect(await send(first, "partly", ["bob", "eve"])).toBe("stored");
    const key = { idempotency: { key: "k", hash: "h" } };
    const keyed = await first.append([makeMessage("keyed", ["eve"], key), makeMessage("repeat", ["eve"], key)]);
    expect(keyed.map(({ outcome }) => outcome)).toEqual(["stored", "repeated"]);
    const desk = await attach(first);
    expect(await desk.settle({ kind: "acked-upto", upto: 20, except: [7] }, { kind: "rejected", seq: 30, reason: "" })).toHaveLength(20);
    expect(await first.evict("a40" as MessageId)).toBe(2);
    const epoch = desk.attachment.epoch;
    await desk.attachment.detach();
    const [bob, eve] = [await waiting(first), await waiting(first, "eve" as UserId)];
    // No word of goodbye: the connection is cut, and the folder with it.
    await first.close();
    one.remove();
    const second = await open(other.dir, journal);
    expect(await waiting(second)).toEqual(bob);
    expect(await waiting(second, "eve" as UserId)).toEqual(eve);
    const again = await attach(second);
    expect(again.attachment.epoch).not.toBe(epoch);
    const [repeat] = await second.append([makeMessage("late", ["eve"], key)]);
    expect(repeat?.outcome).toBe("repeated");
    await second.close();
    other.remove();
  }, 60_000);

  test("[Q2] cleaning leaves what waits and nothing else in the journal; a rebuild afterwards finds the same", async () => {
    const [one, other] = [makeFolder(), makeFolder()];
    const journal = randomName();
    const first = await open(one.dir, journal);
    for (const id of numbers("c", 400)) expect(await send(first, id)).toBe("stored");
    const desk = await attach(first);
    for (let seq = 1; seq <= 400; seq += 1) if (seq % 10 !== 0) await desk.settle({ kind: "acked", seqs: [seq] });
    const before = await depth(broker.url, journal);
    const sending = Promise.all(numbers("during", 50).map((id) => send(first, id)));
    await first.clean();
    await sending;
    await first.clean();
    expect(await depth(broker.url, journal)).toBeLessThan(before / 4);
    expect(first.journalWeight).toBe(90);
    const mail = await waiting(first, "nobody" as UserId).then(async () => {
      await desk.attachment.detach();
      return waiting(first);
    });
    expect(mail).toHaveLength(90);
    await first.close();
    const second = await open(other.dir, journal);
    expect(await waiting(second)).toEqual(mail);
    await second.close();
    one.remove();
    other.remove();
  }, 60_000);

  test("[Q21] however often the journal is cleaned, no record grows far beyond a megabyte, and a rebuild finds the same", async () => {
    const [one, other] = [makeFolder(), makeFolder()];
    const journal = randomName();
    const first = await open(one.dir, journal);
    const event = JSON.stringify({ data: "x".repeat(20_000) });
    await Promise.all(numbers("big", 200).map((id) => first.append([makeMessage(id, ["bob"], { event })])));
    for (let round = 0; round < 3; round += 1) await first.clean();
    await first.close();
    const sizes = await asOperator(broker.url, async (connection) => {
      const channel = await connection.acquire();
      const found: number[] = [];
      for (;;) {
        const record = await channel.basicGet({ queue: `handover.${journal}.journal` });
        if (!record) break;
        found.push((record.body as Buffer).length);
      }
      // What it held is in the queue again.
      await channel.close();
      return found;
    });
    expect(Math.max(...sizes)).toBeLessThan(1_200_000);
    expect(sizes.length).toBeGreaterThan(3);
    const second = await open(other.dir, journal);
    expect(await waiting(second)).toEqual(numbers("big", 200));
    await second.close();
    one.remove();
    other.remove();
  }, 60_000);

  test("[Q3] a journal cleans itself when most of it is settled", async () => {
    const { dir, remove } = makeFolder();
    const journal = randomName();
    const engine = await open(dir, journal);
    const desk = await attach(engine);
    let seq = 0;
    for (let round = 0; round < 60; round += 1) {
      const results = await engine.append(numbers(`r${round}-`, 100).map((id) => makeMessage(id, ["bob"])));
      expect(results.every(({ outcome }) => outcome === "stored")).toBe(true);
      seq += 100;
      await desk.settle({ kind: "acked-upto", upto: seq, except: [] });
    }
    await until(
      () => engine.journalWeight < 4_000,
      () => `the journal to be cleaned; it weighs ${engine.journalWeight} of 12000`,
    );
    await engine.close();
    remove();
  }, 60_000);

  test("[Q4] a journal has one owner: a second is told so, and the first goes on", async () => {
    const [one, other] = [makeFolder(), makeFolder()];
    const journal = randomName();
    const first = await open(one.dir, journal);
    await expect(open(other.dir, journal, { openWithinMs: 500 })).rejects.toMatchObject({ ...isUnavailable, message: /in use/ });
    expect(await send(first, "m1")).toBe("stored");
    await first.close();
    // A folder that holds other mail is not mixed with it.
    const stranger = await open(other.dir, randomName());
    await send(stranger, "m2");
    await stranger.close();
    await expect(open(other.dir, journal)).rejects.toMatchObject({ ...isUnavailable, message: /another data folder/ });
    one.remove();
    other.remove();
  }, 60_000);

  test("[Q5] a broker that is killed under load: what was accepted is in the journal, the rest is refused, and it goes on by itself", async () => {
    const [one, other] = [makeFolder(), makeFolder()];
    const journal = randomName();
    const engine = await open(one.dir, journal, { newQueueRestMs: 3_000 });
    const load = new Load(engine, "k");
    await load.accepts(500);
    await broker.kill();
    await load.refuses();
    await broker.start();
    await recovered(engine);
    await load.accepts(100);
    await load.stop();
    const desk = await attach(engine);
    const settled = (await desk.settle({ kind: "acked-upto", upto: 100, except: [] })).length;
    expect(settled).toBe(100);
    const here = new Set((await desk.read({ limit: 100_000, maxBytes: 1e9 })).entries.map(({ id }) => String(id)));
    await desk.attachment.detach();
    expect(engine.failures).toEqual([]);
    await engine.close();
    // The journal alone has to have it too.
    const rebuilt = await open(other.dir, journal);
    const there = await attach(rebuilt);
    const ids = (await there.read({ limit: 100_000, maxBytes: 1e9 })).entries.map(({ id }) => String(id));
    expect(new Set(ids).size).toBe(ids.length);
    expect(new Set(ids)).toEqual(here);
    expect(load.accepted.filter((id) => !here.has(id))).toHaveLength(100);
    await rebuilt.close();
    one.remove();
    other.remove();
  }, 120_000);

  test("[Q6] while the broker has an alarm, sending and settling are refused within seconds; afterwards they go on", async () => {
    const { dir, remove } = makeFolder();
    const engine = await open(dir, randomName());
    await send(engine, "before");
    const desk = await attach(engine);
    await broker.control("set_vm_memory_high_watermark", "0.000001");
    try {
      const begun = performance.now();
      // The broker says so at the first publish; that one may have to wait for its deadline.
      await expect(send(engine, "during")).rejects.toMatchObject(isUnavailable);
      await expect(send(engine, "during-2")).rejects.toMatchObject(isUnavailable);
      await expect(desk.settle({ kind: "acked", seqs: [1] })).rejects.toMatchObject(isUnavailable);
      expect(performance.now() - begun).toBeLessThan(5_000);
    } finally {
      await broker.control("set_vm_memory_high_watermark", "0.4");
    }
    await recovered(engine);
    expect(await desk.settle({ kind: "acked", seqs: [1] })).toHaveLength(1);
    expect((await desk.read()).entries.map(({ id }) => id)).toEqual([]);
    expect(await send(engine, "during")).toBe("stored");
    await engine.close();
    remove();
  }, 60_000);

  test("[Q7] a journal queue that somebody deletes: nothing is accepted any more", async () => {
    const { dir, remove } = makeFolder();
    const journal = randomName();
    const engine = await open(dir, journal);
    await send(engine, "before");
    await asOperator(broker.url, (connection) => connection.queueDelete({ queue: `handover.${journal}.journal` }));
    await expect(send(engine, "after")).rejects.toMatchObject({ ...isUnavailable, message: /deleted/ });
    await engine.close();
    remove();
  }, 60_000);
});
