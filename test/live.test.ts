/**
 * Receivers that are connected while something ends or is reserved, and how long they are remembered: what the model test (test/model.test.ts) found
 * to be wrong, or had to know, each as a plain test. The clock is the test's own.
 * @module
 */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Accepted } from "../src/answers.ts";
import { type MemoryEngine, memoryEngine } from "../src/engines/memory.ts";
import { type SqliteEngine, sqliteEngine } from "../src/engines/sqlite.ts";
import { HandoverError } from "../src/errors.ts";
import { Hub } from "../src/hub.ts";
import type { ReceiverId, ServerFrame, SessionId, UserId, UserIdentity } from "../src/protocol.ts";
import type { Channel, Link } from "../src/transport.ts";
import { makeFolder } from "./engines/folder.ts";

const identity = (user: string): UserIdentity => ({
  kind: "user",
  user: user as UserId,
  session: `session-of-${user}` as SessionId,
  scopes: ["receive", "send:user:*"],
  expiresAtMs: Number.MAX_SAFE_INTEGER,
});
const [alice, bob, carol] = [identity("alice"), identity("bob"), identity("carol")];

let hub: Hub;
let engine: MemoryEngine | SqliteEngine;
beforeEach(async () => {
  vi.useFakeTimers({ toFake: ["Date", "performance", "setTimeout", "clearTimeout", "setInterval", "clearInterval"] });
  engine = memoryEngine();
  await engine.open(fail);
  hub = newHub();
});
afterEach(async () => {
  hub.drain(0);
  await engine.close();
  vi.useRealTimers();
});

function fail(cause: Error): never {
  throw cause;
}

function newHub(): Hub {
  return new Hub({
    engine,
    authenticate: () => Promise.reject(new Error("nobody asks")),
    maxMessageBytes: 10_000,
    maxTtlSeconds: 3_600,
    maxReceiversPerUser: 10,
    isKnown: () => true,
  });
}

/** Until everything that was ready has run. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function pass(ms: number): Promise<void> {
  vi.advanceTimersByTime(ms);
  await settled();
}

interface Tab {
  readonly channel: Channel;
  /** What came, in order: the data of deliveries, and gaps as `from-to reason`. */
  readonly got: unknown[];
}

async function open(who: UserIdentity, name: string, kind: Link["kind"] = "websocket"): Promise<Tab> {
  const got: unknown[] = [];
  const link: Link = {
    kind,
    send(frame: ServerFrame) {
      if (frame.op === "deliver") for (const { text } of frame.deliveries) got.push(JSON.parse(text).event.data);
      if (frame.op === "gap") got.push(`${frame.from}-${frame.to} ${frame.reason}`);
      return true;
    },
    close() {},
  };
  const channel = await hub.open(who, link, { receiver: name as ReceiverId, epoch: undefined, cursor: 0, window: 32 });
  return { channel, got };
}

async function send(to: readonly string[], data: unknown, more: object): Promise<Accepted> {
  const sent = await hub.send(alice, { to: { users: to }, type: "t", data, ...more });
  if (sent instanceof HandoverError) throw sent;
  await settled();
  return sent;
}

const nack = (who: UserIdentity, tab: Tab, retryAfter: number) =>
  hub.acknowledge(who, {
    receiver: tab.channel.receiver,
    epoch: tab.channel.epoch,
    cursor: undefined,
    nack: [{ seq: tab.channel.head(), retryAfter }],
  });

test("[M3] a connected receiver is told of the gap, too, when what it waited for ends and other mail comes in the same commit", async () => {
  const first = await open(bob, "first");
  await send(["bob"], "old", { topic: "t" });
  await nack(bob, first, 60);
  // It waits for the return of what it never saw.
  const second = await open(bob, "second");
  expect(second.got).toEqual([]);
  await send(["bob"], "new", { topic: "t" });
  expect(second.got).toEqual(["2-2 replaced", "new"]);
  expect(first.got).toEqual(["old", "2-2 replaced", "new"]);
});

test("[M4] TTL 0 to several users is for who was live at acceptance, in the mailbox of an absent user as well", async () => {
  const tab = await open(bob, "tab");
  const { id } = await send(["bob", "carol"], "now", { ttl: 0 });
  expect(tab.got).toEqual(["now"]);
  const late = await open(carol, "late");
  await settled();
  expect(late.got).toEqual([]);
  await pass(30_000);
  expect((await engine.find(id))?.recipients.map(({ state }) => state)).toEqual(["expired", "expired"]);
});

test("[M5] TTL 0 stays for who was live at acceptance when it comes again after a nack", async () => {
  const tab = await open(bob, "tab");
  await send(["bob"], "now", { ttl: 0 });
  const late = await open(bob, "late");
  await nack(bob, tab, 0);
  await settled();
  await nack(bob, tab, 5);
  await pass(5_000);
  expect(tab.got).toEqual(["now", "now", "now"]);
  expect(late.got).toEqual([]);
  expect((await open(bob, "later")).got).toEqual([]);
});

test("[M6] TTL 0 stays for who was live at acceptance when the node has forgotten that receiver meanwhile", async () => {
  const poll = await open(bob, "poll", "poll");
  poll.channel.closed();
  await pass(20_000);
  await send(["bob"], "now", { ttl: 0 });
  await pass(15_000);
  // Nobody of bob's is known any more; a stranger comes, and then the one that it was for.
  expect(hub.isLive(bob.user)).toBe(false);
  expect((await open(bob, "late")).got).toEqual([]);
  expect((await open(bob, "poll", "poll")).got).toEqual(["now"]);
});

/** What an acknowledgement of everything up to the end settles. @param cursor  what the receiver says it has received */
const ackAll = (who: UserIdentity, { channel }: Tab, cursor?: number) =>
  hub.acknowledge(who, { receiver: channel.receiver, epoch: channel.epoch, cursor, upto: channel.head() });

test("[M7] what a receiver was handed is remembered for 30 s after its last poll, else for 90 s after its last connection", async () => {
  for (const [kind, rememberedMs] of [
    ["poll", 30_000],
    ["websocket", 90_000],
    ["sse", 90_000],
  ] as const) {
    await send(["bob"], kind, {});
    const kept = await open(bob, `kept-${kind}`, kind);
    kept.channel.closed();
    await pass(rememberedMs - 5_000);
    expect(await ackAll(bob, kept), `${kind}: a moment before`).toBe(1);
    await send(["bob"], kind, {});
    const forgotten = await open(bob, `forgotten-${kind}`, kind);
    forgotten.channel.closed();
    await pass(rememberedMs);
    expect(await ackAll(bob, forgotten), `${kind}: forgotten`).toBe(0);
    expect(await ackAll(bob, forgotten, forgotten.channel.head()), `${kind}: by its own word`).toBe(1);
  }
});

test("[M7] a receiver that only acknowledges is remembered for 90 s after it did so first", async () => {
  const tab = await open(bob, "tab", "poll");
  await send(["bob"], "mail", {});
  tab.channel.closed();
  await pass(30_000);
  const say = (more: { readonly cursor?: number; readonly upto?: number }) =>
    hub.acknowledge(bob, { receiver: tab.channel.receiver, epoch: tab.channel.epoch, cursor: undefined, ...more });
  expect(await say({ upto: 1 }), "it was forgotten").toBe(0);
  expect(await say({ cursor: 1 }), "it says what it has received").toBe(0);
  await pass(85_000);
  expect(await say({ upto: 1 }), "its word is remembered").toBe(1);
  await send(["bob"], "more mail", {});
  expect(await say({ cursor: 2 })).toBe(0);
  await pass(5_000);
  expect(await say({ upto: 2 }), "90 s after its first acknowledgement").toBe(0);
});

test("[M8] after a restart TTL 0 is, for the rest of its 30 s, for whoever comes", async () => {
  const { dir, remove } = makeFolder();
  const restart = async () => {
    hub.drain(0);
    await engine.close();
    engine = sqliteEngine({ dir, reserveBytes: 65_536 });
    await engine.open(fail);
    hub = newHub();
  };
  try {
    await restart();
    await open(bob, "tab");
    const { id } = await send(["bob"], "now", { ttl: 0 });
    await restart();
    expect((await open(bob, "late")).got).toEqual(["now"]);
    await pass(30_000);
    await engine.sweep();
    expect((await engine.find(id))?.recipients.map(({ state }) => state)).toEqual(["expired"]);
    expect((await open(bob, "later")).got).toEqual([]);
  } finally {
    remove();
  }
});
