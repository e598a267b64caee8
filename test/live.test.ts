/**
 * Receivers that are connected while something ends or is reserved: what the model test (test/model.test.ts) found to be wrong, each as a plain
 * test. The clock is the test's own.
 * @module
 */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Accepted } from "../src/answers.ts";
import { memoryEngine } from "../src/engines/memory.ts";
import { HandoverError } from "../src/errors.ts";
import { Hub } from "../src/hub.ts";
import type { ReceiverId, ServerFrame, SessionId, UserId, UserIdentity } from "../src/protocol.ts";
import type { Channel, Link } from "../src/transport.ts";

const identity = (user: string): UserIdentity => ({
  kind: "user",
  user: user as UserId,
  session: `session-of-${user}` as SessionId,
  scopes: ["receive", "send:user:*"],
  expiresAtMs: Number.MAX_SAFE_INTEGER,
});
const [alice, bob, carol] = [identity("alice"), identity("bob"), identity("carol")];

let hub: Hub;
let engine: ReturnType<typeof memoryEngine>;
beforeEach(async () => {
  vi.useFakeTimers({ toFake: ["Date", "setTimeout", "clearTimeout", "setInterval", "clearInterval"] });
  engine = memoryEngine();
  await engine.open((cause) => {
    throw cause;
  });
  hub = new Hub({
    engine,
    authenticate: () => Promise.reject(new Error("nobody asks")),
    maxMessageBytes: 10_000,
    maxTtlSeconds: 3_600,
    maxReceiversPerUser: 10,
    isKnown: () => true,
  });
});
afterEach(async () => {
  hub.drain(0);
  await engine.close();
  vi.useRealTimers();
});

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
