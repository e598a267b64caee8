/** What an operator may do to the RabbitMQ engine's broker, journal and folder, and what it says then. */
import { once } from "node:events";
import { cpSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Engine } from "../../src/engine.ts";
import type { JournalIndex } from "../../src/engines/rabbitmq/opening.ts";
import type { MessageId, SessionId, UserId } from "../../src/protocol.ts";
import { until } from "../../src/testing/engine-bench.ts";
import { Broker, OWN_RABBITMQ, randomName } from "../support/broker.ts";
import { describeWith } from "../support/needs.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";
import {
  asOperator,
  attach,
  depth,
  isUnavailable,
  Load,
  numbers,
  type OpenOptions,
  openEngine,
  Receiver,
  send,
  startWire,
  waiting,
} from "./rabbitmq-rig.ts";

// The long timeouts: each command to the broker is a program that starts an Erlang system, and takes ten seconds on a machine that has other work.
describeWith(OWN_RABBITMQ, "the RabbitMQ engine and its operator", () => {
  let broker: Broker;
  beforeAll(async () => {
    broker = await Broker.start();
  }, 90_000);
  afterAll(() => broker.remove());
  const open = (dir: string, journal: string, options: OpenOptions = {}) => openEngine(broker.url, dir, journal, options);
  const drop = (...queues: readonly string[]) =>
    asOperator(broker.url, async (connection) => {
      for (const queue of queues) await connection.queueDelete({ queue });
    });
  /** What waits, with an empty folder and the journal alone. */
  const rebuilt = async (journal: string): Promise<readonly MessageId[]> => {
    const { dir, remove } = makeFolder();
    const engine = await open(dir, journal);
    const mail = await waiting(engine);
    await engine.close();
    remove();
    return mail;
  };

  /** After how long the broker closes a channel that holds something, and how often it looks; for channels that are opened from now on. */
  const setConsumerTimeout = (ms: number, lookEveryMs: number) =>
    broker.control("eval", `[application:set_env(rabbit, K, V) || {K, V} <- [{consumer_timeout, ${ms}}, {channel_tick_interval, ${lookEveryMs}}]].`);

  test("[Q12] a channel that the broker closes while the journal is cleaned: nothing is lost, mail is taken all the time, cleaning is done later", async () => {
    const { dir, remove } = makeFolder();
    const journal = randomName();
    let isSlow = false;
    const around = (index: JournalIndex): JournalIndex =>
      new Proxy(index, {
        get: (engine, name: keyof JournalIndex) => {
          if (name !== "find") return typeof engine[name] === "function" ? engine[name].bind(engine) : engine[name];
          return async (id: MessageId) => {
            if (isSlow) await new Promise((resolve) => setTimeout(resolve, 40));
            return engine.find(id);
          };
        },
      });
    const engine = await open(dir, journal, { around, answerWithinMs: 15_000 });
    for (const id of numbers("c", 300)) await send(engine, id);
    const desk = await attach(engine);
    await desk.settle({ kind: "acked-upto", upto: 290, except: [] });
    const load = new Load(engine, "l");
    isSlow = true;
    await setConsumerTimeout(1_000, 500);
    const before = await depth(broker.url, journal);
    await expect(engine.clean()).rejects.toMatchObject({ ...isUnavailable, message: /closed the channel/ });
    isSlow = false;
    await setConsumerTimeout(1_800_000, 60_000);
    expect(engine.lines.join("\n")).toMatch(/PRECONDITION_FAILED|acknowledgement/);
    expect(await depth(broker.url, journal)).toBeGreaterThanOrEqual(before);
    await load.stop();
    expect(load.refusals).toEqual([]);
    expect(load.accepted.length).toBeGreaterThan(100);
    await engine.clean();
    await engine.clean();
    expect(engine.journalWeight).toBe(10 + load.accepted.length);
    const mail = (await desk.read({ limit: 100_000, maxBytes: 1e9 })).entries.map(({ id }) => id);
    expect(mail).toHaveLength(10 + load.accepted.length);
    expect(engine.failures).toEqual([]);
    await engine.close();
    expect(new Set(await rebuilt(journal))).toEqual(new Set(mail));
    remove();
  }, 180_000);

  test("[Q13] channels and connections that are closed from outside under load: it goes on by itself, in the same epoch; nothing accepted is lost, nothing acknowledged comes again", async () => {
    const { dir, remove } = makeFolder();
    const journal = randomName();
    const engine = await open(dir, journal);
    const load = new Load(engine, "o");
    const receiver = new Receiver(engine);
    /** As a client would that acknowledges what it was never given: the broker closes the channel. */
    const close = (channels: string) => broker.control("eval", `[rabbit_channel:do(C, {'basic.ack', 999999, false}) || C <- ${channels}].`);
    const closings: readonly (readonly [() => Promise<void>, RegExp])[] = [
      [() => close("rabbit_channel:list()"), /unknown delivery tag/i],
      [() => broker.control("close_all_connections", "for a test"), /for a test/],
      [() => close("[lists:min(rabbit_channel:list())]"), /unknown delivery tag/i],
      [() => close("[lists:max(rabbit_channel:list())]"), /unknown delivery tag/i],
    ];
    for (const [happen, said] of closings) {
      await load.accepts(100);
      const before = engine.lines.length;
      await happen();
      await until(
        () => engine.lines.slice(before).some((line) => said.test(line)),
        () => `the engine to notice; the log: ${engine.lines.join("\n")}`,
      );
    }
    await load.accepts(100);
    await receiver.stop();
    await load.accepts(100);
    await load.stop();
    const mail = await waiting(engine);
    expect(new Set([...receiver.acknowledged, ...mail])).toEqual(new Set(load.accepted));
    expect(receiver.acknowledged.size + mail.length).toBe(load.accepted.length);
    expect([receiver.repeated, receiver.epochs.size, engine.failures]).toEqual([[], 1, []]);
    expect(await engine.totals()).toMatchObject({ accepted: load.accepted.length, acked: receiver.acknowledged.size, unsettled: mail.length });
    await engine.close();
    expect(new Set(await rebuilt(journal))).toEqual(new Set(mail));
    remove();
  }, 180_000);

  test("[Q19] the consumer timeout closes no channel of an engine that does not clean its journal: it holds no delivery, not after a reconnection either", async () => {
    const { dir, remove } = makeFolder();
    await setConsumerTimeout(1_000, 500);
    try {
      const engine = await open(dir, randomName());
      const load = new Load(engine, "t");
      await load.accepts(100);
      await broker.control("close_all_connections", "for a test");
      await load.accepts(100);
      const [lines, refusals] = [engine.lines.length, load.refusals.length];
      // Whoever holds something, and began later, is closed: so the engine's channels have been looked at by then.
      await asOperator(broker.url, async (connection) => {
        const channel = await connection.acquire({ emitErrorsFromChannel: true });
        const { queue } = await channel.queueDeclare({ exclusive: true });
        await channel.basicPublish({ routingKey: queue }, Buffer.from("held"));
        const closed = once(channel, "error");
        expect(await channel.basicGet({ queue, noAck: false })).toBeDefined();
        expect(String(await closed)).toMatch(/PRECONDITION_FAILED/);
      });
      await load.accepts(100);
      expect([engine.lines.slice(lines), load.refusals.slice(refusals)]).toEqual([[], []]);
      await load.stop();
      await engine.close();
    } finally {
      await setConsumerTimeout(1_800_000, 60_000);
    }
    remove();
  }, 180_000);

  test("[Q20] a channel that is closed in the moment when the journal is taken up again: what was being published is not waited for, and it goes on", async () => {
    const { dir, remove } = makeFolder();
    const [journal, wire] = [randomName(), await startWire(broker.url)];
    const engine = await openEngine(wire.url, dir, journal);
    const load = new Load(engine, "m");
    await load.accepts(100);
    await wire.closeChannelWhenTakenUp();
    await load.accepts(100);
    await load.stop();
    const mail = await waiting(engine);
    expect(new Set(mail)).toEqual(new Set(load.accepted));
    await engine.close();
    wire.remove();
    expect(await rebuilt(journal)).toEqual(mail);
    remove();
  }, 180_000);

  test("[Q14] a settlement that the broker does not confirm in time is answered 503, its mailbox is `lost`; a repeat is answered, and it is settled once", async () => {
    const { dir, remove } = makeFolder();
    const journal = randomName();
    const engine = await open(dir, journal);
    for (const id of ["s1", "s2"]) await send(engine, id);
    const desk = await attach(engine);
    await broker.pause();
    try {
      await expect(desk.settle({ kind: "acked", seqs: [1] })).rejects.toMatchObject({ ...isUnavailable, message: /did not confirm/ });
      expect(desk.losses).toMatchObject([isUnavailable]);
      await expect(desk.settle({ kind: "acked", seqs: [1] })).rejects.toMatchObject(isUnavailable);
      await expect(send(engine, "s3")).rejects.toMatchObject({ ...isUnavailable, message: /not stored/ });
    } finally {
      broker.resume();
    }
    const again = await attach(engine);
    await until(
      () =>
        again.settle({ kind: "acked", seqs: [1] }).then(
          (ended) => ended.length === 0,
          () => false,
        ),
      () => "the repeat to be answered",
    );
    expect((await again.read()).entries.map(({ id }) => id)).toEqual(["s2"]);
    expect(await engine.totals()).toMatchObject({ accepted: 2, unsettled: 1, acked: 1 });
    expect(engine.failures).toEqual([]);
    await engine.close();
    expect(await rebuilt(journal)).toEqual(["s2"]);
    remove();
  }, 180_000);

  test("[Q15] a journal that was deleted, emptied or thinned out is noticed at the start, and refilled from the folder when that is asked for", async () => {
    const { dir, remove } = makeFolder();
    const journal = randomName();
    const [queue, ownerQueue] = [`handover.${journal}.journal`, `handover.${journal}.owner`];
    let engine = await open(dir, journal);
    const session = "tab" as SessionId;
    await engine.append([
      ...numbers("a", 30).map((id) => makeMessage(id, ["bob", "eve"])),
      makeMessage("short", ["bob"], { topic: "t", recipients: [{ user: "bob" as UserId, session }] }),
      ...numbers("b", 30).map((id) => makeMessage(id, ["bob"])),
    ]);
    const desk = await attach(engine);
    await desk.settle({ kind: "acked", seqs: [1, 2, 40] }, { kind: "nacked", seq: 5, retryAfterMs: 0 });
    await desk.attachment.detach();
    // Nacked mail is at the end; in the journal it stands where it was accepted.
    const mail = [...(await waiting(engine))].sort();
    const eve = await waiting(engine, "eve" as UserId);
    expect([mail.length, eve.length]).toEqual([57, 30]);
    const losses: Record<string, () => Promise<unknown> | unknown> = {
      "the journal's queue deleted": () => drop(queue),
      "both queues deleted": () => drop(queue, ownerQueue),
      "the queue emptied": () => asOperator(broker.url, (connection) => connection.queuePurge({ queue })),
      "one record taken out": () => asOperator(broker.url, (connection) => connection.basicGet({ queue, noAck: true })),
    };
    for (const isClean of [true, false]) {
      for (const [loss, lose] of Object.entries(losses)) {
        if (isClean) await engine.close();
        else await crash(engine, broker);
        await lose();
        const what = `${loss} after ${isClean ? "a clean end" : "a crash"}`;
        await expect(open(dir, journal), what).rejects.toMatchObject({ ...isUnavailable, message: /refill=1/ });
        // Asking again does not make it good.
        await expect(open(dir, journal), what).rejects.toMatchObject({ ...isUnavailable, message: /refill=1/ });
        engine = await open(dir, journal, { refill: true });
        expect(engine.lines.join("\n"), what).toMatch(/60 messages that wait.*written into the journal/);
        expect([...(await waiting(engine))].sort(), what).toEqual(mail);
      }
    }
    await engine.close();
    // Left in the address, it does nothing to a journal that is whole.
    engine = await open(dir, journal, { refill: true });
    expect(engine.lines.join("\n")).toMatch(/nothing was written/);
    await engine.close();
    const other = makeFolder();
    engine = await open(other.dir, journal);
    expect([...(await waiting(engine))].sort()).toEqual(mail);
    expect(await waiting(engine, "eve" as UserId)).toEqual(eve);
    expect((await engine.find("short" as MessageId))?.recipients).toMatchObject([{ user: "bob", state: "waiting" }]);
    await engine.close();
    // Nor is another folder's journal written over.
    await expect(open(dir, journal, { refill: true })).rejects.toMatchObject({ ...isUnavailable, message: /another data folder/ });
    await drop(ownerQueue);
    await expect(open(dir, journal, { refill: true })).rejects.toMatchObject({ ...isUnavailable, message: /not overwritten/ });
    other.remove();
    remove();
  }, 180_000);

  test("[Q16] a data folder that is older than its journal is refused, and an empty one is rebuilt from the journal", async () => {
    const { dir, remove } = makeFolder();
    const [old, journal] = [makeFolder(), randomName()];
    let engine = await open(dir, journal);
    await send(engine, "first");
    await engine.close();
    cpSync(dir, old.dir, { recursive: true });
    engine = await open(dir, journal);
    for (const id of numbers("later", 5)) await send(engine, id);
    const isOld = { ...isUnavailable, message: /older than its journal/ };
    await engine.close();
    await expect(open(old.dir, journal)).rejects.toMatchObject(isOld);
    engine = await open(dir, journal);
    await send(engine, "last");
    await crash(engine, broker);
    await expect(open(old.dir, journal, { refill: true })).rejects.toMatchObject(isOld);
    expect(await rebuilt(journal)).toEqual(["first", ...numbers("later", 5), "last"]);
    old.remove();
    remove();
  }, 180_000);

  test("[Q17] a RabbitMQ user needs rights on `handover.*` and to publish, and no others; without them the start says what is missing", async () => {
    await broker.control("add_user", "mailman", "secret");
    const url = broker.url.replace("guest:guest", "mailman:secret");
    const { dir, remove } = makeFolder();
    const journal = randomName();
    await expect(openEngine(url, dir, journal, { openWithinMs: 500 })).rejects.toMatchObject({
      ...isUnavailable,
      message: /refused|denied|not allowed/i,
    });
    await broker.control("set_permissions", "mailman", "^handover\\..*", "^nothing$", "^handover\\..*");
    await expect(openEngine(url, dir, journal, { openWithinMs: 500 })).rejects.toMatchObject({ ...isUnavailable, message: /refused|denied/i });
    await broker.control("set_permissions", "mailman", "^handover\\..*", "^(handover\\..*|amq\\.default)$", "^handover\\..*");
    const engine = await openEngine(url, dir, journal);
    for (const id of numbers("p", 20)) expect(await send(engine, id)).toBe("stored");
    await engine.clean();
    await engine.close();
    await drop(`handover.${journal}.journal`);
    const refilled = await openEngine(url, dir, journal, { refill: true });
    expect(await waiting(refilled)).toHaveLength(20);
    await refilled.close();
    remove();
  }, 180_000);
});

/** An end without a word in the journal: as after `kill -9`, the journal does not say that all of it is in the index. */
async function crash(engine: Engine, broker: Broker): Promise<void> {
  broker.controlUnnoticed("close_all_connections", "a crash");
  await engine.close();
}
