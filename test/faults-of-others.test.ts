/**
 * What other messaging servers for browsers were seen to lose, each fault done to this one: a real process, over the wire, with the SDK where a page
 * would use it. `docs/faults.md` has the table: who lost what, and which rule is the test of it. At last come the accounts of all of it.
 * @module
 */
import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import type { Transport } from "../src/client/index.ts";
import type { Totals } from "../src/engine.ts";
import { readFresh } from "../src/engines/sqlite/fresh-row.ts";
import { databaseFile } from "../src/engines/sqlite/schema.ts";
import { call, type Delivered, field, WEBSOCKET } from "../src/testing/wire.ts";
import { LONG_POLLING } from "../src/testing/wire-poll.ts";
import { EventStream, SSE } from "../src/testing/wire-sse.ts";
import { gate, until } from "./client/rig.ts";
import type { Relay } from "./support/demo.ts";
import { EVERY_WAY, endEveryWay } from "./support/endings.ts";
import { FaultRig, isOffline, isOnline } from "./support/faults.ts";
import { accounts, scrape } from "./support/prometheus.ts";
import { askDeaf, type DeafPeer, writeRequest, writeWebSocket } from "./support/raw.ts";
import { SERVICE_CREDENTIAL } from "./support/started.ts";

const rig = new FaultRig();

const dataOf = (deliveries: readonly Delivered[]) => deliveries.map(({ event }) => event.data);
/** What each was, and how often it counts as delivered. */
const countsOf = (deliveries: readonly Delivered[]) => deliveries.map(({ event, deliveryCount }) => [event.data, deliveryCount]);

describe.each<Transport>(["websocket", "poll"])("with the SDK, over %s", (transport) => {
  test("[W1] the link drops after an event was seen: what was missed comes", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const page = rig.openPage(user, transport, line);
    const got: unknown[] = [];
    page.on("order", (message) => got.push(message.data));
    const first = await rig.send(user, 1);
    await until(() => expect(got).toEqual([1]));
    line.cut();
    const missed = [await rig.send(user, 2), await rig.send(user, 3)];
    line.mend();
    await rig.allAcked(first, ...missed);
    expect(got).toEqual([1, 2, 3]);
  });

  test("[W2] the link drops before any event was seen: what was missed comes all the same", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const page = rig.openPage(user, transport, line);
    const got: unknown[] = [];
    page.on("order", (message) => got.push(message.data));
    await isOnline(page);
    line.cut();
    const missed = [await rig.send(user, 1), await rig.send(user, 2)];
    line.mend();
    await rig.allAcked(...missed);
    expect(got).toEqual([1, 2]);
  });

  test("[W3] the page is loaded anew while messages are sent: none is missing", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const got = new Set<unknown>();
    const ids: Promise<string>[] = [];
    let page = rig.openPage(user, transport, line);
    for (let load = 0; load < 8; load++) {
      page.on("order", (message) => got.add(message.data));
      // With every other load it has not even connected.
      if (load % 2 === 0) await isOnline(page);
      ids.push(rig.send(user, `before ${load}`));
      // What its script would still say when it is left does not get out any more.
      line.cut();
      void page.close();
      ids.push(rig.send(user, `during ${load}`));
      line.mend();
      page = rig.openPage(user, transport, line);
      ids.push(rig.send(user, `after ${load}`));
    }
    page.on("order", (message) => got.add(message.data));
    await rig.allAcked(...(await Promise.all(ids)));
    expect(got.size).toBe(24);
  });

  test("[W4] nobody is there when it is sent: the sender is told that it waits, and not that it was processed, until it was", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const sender = rig.openPage("ann", transport, await rig.openLine());
    const first = await sender.send(user, "order", 1);
    expect(first.recipients).toEqual([user]);
    expect((await sender.state(first.id)).recipients).toEqual([{ user, state: "waiting" }]);
    const work = gate();
    const got: unknown[] = [];
    const page = rig.openPage(user, transport, line);
    page.on("order", async (message) => {
      got.push(message.data);
      await work.opened;
    });
    await until(() => expect(got).toEqual([1]));
    // And when the only client was there, and is down.
    line.cut();
    await isOffline(page);
    const second = await sender.send(user, "order", 2);
    expect((await sender.state(second.id)).recipients).toEqual([{ user, state: "waiting" }]);
    line.mend();
    await until(() => expect(got).toEqual([1, 2]));
    // Its handlers are at work.
    for (const { id } of [first, second]) expect((await sender.state(id)).recipients).toEqual([{ user, state: "waiting" }]);
    work.open();
    await rig.allAcked(first.id, second.id);
  });

  test("[W5] the link drops while a handler is at work, and its work comes to nothing: the message comes again and is processed", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const work = gate();
    const processed: unknown[] = [];
    let isAtWork = false;
    const page = rig.openPage(user, transport, line);
    page.on("order", async ({ data: value, deliveryCount }) => {
      isAtWork = value === 2 && deliveryCount === 1;
      if (isAtWork) await work.opened;
      processed.push(value);
    });
    const ids = [await rig.send(user, 1), await rig.send(user, 2)];
    await until(() => expect(isAtWork).toBe(true));
    line.cut();
    await isOffline(page);
    ids.push(await rig.send(user, 3));
    work.fail(new Error("the page has failed"));
    line.mend();
    await rig.allAcked(...ids);
    expect(processed).toEqual([1, 3, 2]);
  });

  test("[W5] … and so it does when the page itself is gone: the next one processes it", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const processed: unknown[] = [];
    let isAtWork = false;
    const page = rig.openPage(user, transport, line);
    page.on("order", async ({ data: value }) => {
      isAtWork = value === 2;
      if (isAtWork) await new Promise(() => {});
      processed.push(value);
    });
    const first = await rig.send(user, 1);
    await until(async () => expect(await rig.state(first)).toBe("acked"));
    const ids = [await rig.send(user, 2)];
    await until(() => expect(isAtWork).toBe(true));
    line.cut();
    void page.close();
    ids.push(await rig.send(user, 3));
    line.mend();
    rig.openPage(user, transport, line).on("order", (message) => processed.push(message.data));
    await rig.allAcked(first, ...ids);
    expect(processed).toEqual([1, 2, 3]);
  });

  test("[W6] three drops after a missed message: the application gets it once", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const work = gate();
    const got: unknown[] = [];
    const page = rig.openPage(user, transport, line);
    page.on("order", async (message) => {
      got.push(message.data);
      await work.opened;
    });
    await isOnline(page);
    line.cut();
    const missed = await rig.send(user, 1);
    line.mend();
    await until(() => expect(got).toEqual([1]), 15_000);
    for (let drop = 0; drop < 3; drop++) {
      line.cut();
      await isOffline(page);
      line.mend();
      await isOnline(page);
    }
    const last = await rig.send(user, 2);
    await until(() => expect(got).toEqual([1, 2]), 15_000);
    work.open();
    await rig.allAcked(missed, last);
    expect(got).toEqual([1, 2]);
  });
});

describe("over server-sent events", () => {
  /** As an EventSource, which comes back with the last id that it saw and knows nothing else. */
  async function openStream(user: string, line: Relay, lastEventId?: string): Promise<EventStream> {
    const stream = await EventStream.open({
      url: line.url,
      token: rig.token(user),
      query: { receiver: "tab" },
      ...(lastEventId ? { lastEventId } : {}),
    });
    rig.later(() => stream.leave());
    return stream;
  }
  const got = (stream: EventStream, count: number) => stream.inbox.until(() => stream.inbox.deliveries.length >= count, `${count} events`);
  /** What `meanwhile` sends, the stream does not see any more. */
  async function drop<T>(line: Relay, stream: EventStream, meanwhile: () => Promise<T>): Promise<T> {
    line.cut();
    await stream.ended;
    const result = await meanwhile();
    line.mend();
    return result;
  }

  test("[W1] the stream drops after an event was seen: what was missed comes", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const stream = await openStream(user, line);
    const first = await rig.send(user, 1);
    await got(stream, 1);
    const missed = await drop(line, stream, async () => [await rig.send(user, 2), await rig.send(user, 3)]);
    const again = await openStream(user, line, stream.events.at(-1)?.id);
    await got(again, 2);
    expect(dataOf(again.inbox.deliveries)).toEqual([2, 3]);
    expect(await rig.acknowledge(user, again.inbox)).toBe(3);
    await rig.allAcked(first, ...missed);
  });

  test("[W2] the stream drops before any event was seen: what was missed comes all the same", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const stream = await openStream(user, line);
    const missed = await drop(line, stream, async () => [await rig.send(user, 1), await rig.send(user, 2)]);
    const again = await openStream(user, line, stream.events.at(-1)?.id);
    await got(again, 2);
    expect(dataOf(again.inbox.deliveries)).toEqual([1, 2]);
    expect(await rig.acknowledge(user, again.inbox)).toBe(2);
    await rig.allAcked(...missed);
  });

  test("[W3] the page is loaded anew while messages are sent: none is missing", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const seen = new Set<unknown>();
    const ids: Promise<string>[] = [];
    for (let load = 0; load < 8; load++) {
      ids.push(rig.send(user, `before ${load}`));
      const stream = await openStream(user, line);
      ids.push(rig.send(user, `during ${load}`));
      await drop(line, stream, async () => {});
      for (const value of dataOf(stream.inbox.deliveries)) seen.add(value);
    }
    await Promise.all(ids);
    const stream = await openStream(user, line);
    // What was seen by a page that is gone was not acknowledged by it.
    await got(stream, 16);
    for (const value of dataOf(stream.inbox.deliveries)) seen.add(value);
    expect(seen.size).toBe(16);
    expect(await rig.acknowledge(user, stream.inbox)).toBe(16);
    await rig.allAcked(...(await Promise.all(ids)));
  });

  test("[W5] the stream drops while a message is being processed, and the work comes to nothing: begun anew, it comes again", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const ids = [await rig.send(user, 1), await rig.send(user, 2)];
    const stream = await openStream(user, line);
    await got(stream, 2);
    const [first] = stream.inbox.deliveries;
    expect(await rig.acknowledge(user, { epoch: stream.inbox.epoch, cursor: first?.seq })).toBe(1);
    ids.push(await drop(line, stream, () => rig.send(user, 3)));
    const again = await openStream(user, line);
    await got(again, 2);
    expect(countsOf(again.inbox.deliveries)).toEqual([
      [2, 1],
      [3, 1],
    ]);
    expect(await rig.acknowledge(user, again.inbox)).toBe(2);
    await rig.allAcked(...ids);
  });

  test("[W6] three drops after a missed message: it comes once", async () => {
    const [user, line] = [rig.newUser(), await rig.openLine()];
    const first = await openStream(user, line);
    const missed = await drop(line, first, () => rig.send(user, 1));
    const seen: unknown[] = [];
    let id = first.events.at(-1)?.id;
    for (let drops = 0; drops < 3; drops++) {
      const stream = await openStream(user, line, id);
      if (drops === 0) await got(stream, 1);
      await drop(line, stream, async () => {});
      seen.push(...dataOf(stream.inbox.deliveries));
      id = stream.events.at(-1)?.id || id;
    }
    const last = await rig.send(user, 2);
    const stream = await openStream(user, line, id);
    await got(stream, 1);
    expect([...seen, ...dataOf(stream.inbox.deliveries)]).toEqual([1, 2]);
    expect(await rig.acknowledge(user, stream.inbox)).toBe(2);
    await rig.allAcked(missed, last);
  });
});

test("[W7] a held poll whose client gives up, then a message: the next poll gets it", async () => {
  const user = rig.newUser();
  const gone = new AbortController();
  const held = call(`${rig.url}/v1/poll`, { token: rig.token(user), body: { receiver: "tab", wait: 30 }, signal: gone.signal }).catch(() => "gone");
  await rig.linksAre("poll", 1);
  gone.abort();
  expect(await held).toBe("gone");
  await rig.linksAre("poll", 0);
  const id = await rig.send(user, 1);
  const next = await rig.poll(user);
  expect(countsOf(next.deliveries)).toEqual([[1, 1]]);
  expect(await rig.acknowledge(user, next)).toBe(1);
  await rig.allAcked(id);
});

describe("a message is written to a client that never reads it, and goes", () => {
  /** Waits until more than `count` bytes have arrived for it, none of which it reads. */
  const arrived = (deaf: DeafPeer, count: number) => until(() => expect(deaf.unread()).toBeGreaterThan(count));
  const text = "x".repeat(1_000);
  async function openDeaf(request: string | Uint8Array): Promise<DeafPeer> {
    const deaf = await askDeaf(rig.url, request);
    rig.later(async () => deaf.leave());
    return deaf;
  }

  test("[W8] over long polling: the next poll with the old cursor gets it", async () => {
    const user = rig.newUser();
    const ids = [await rig.send(user, 0)];
    const { epoch, cursor } = await rig.poll(user);
    const deaf = await openDeaf(writeRequest("POST", "/v1/poll", rig.token(user), { receiver: "tab", epoch, cursor, wait: 30 }));
    await rig.linksAre("poll", 1);
    ids.push(await rig.send(user, text));
    await arrived(deaf, 1_000);
    deaf.leave();
    const next = await rig.poll(user, { epoch, cursor });
    expect(countsOf(next.deliveries)).toEqual([[text, 1]]);
    expect(await rig.acknowledge(user, next)).toBe(2);
    await rig.allAcked(...ids);
  });

  test.each([
    ["server-sent events", SSE, (token: string) => writeRequest("GET", "/v1/events?receiver=tab", token)],
    ["WebSocket", WEBSOCKET, (token: string) => writeWebSocket({ op: "hello", token, receiver: "tab" })],
  ] as const)("[W8] over %s: who comes back gets it", async (_name, wire, request) => {
    const user = rig.newUser();
    const deaf = await openDeaf(request(rig.token(user)));
    await rig.linksAre(wire.kind, 1);
    const before = deaf.unread();
    const id = await rig.send(user, text);
    await arrived(deaf, before + 1_000);
    deaf.leave();
    const tab = await wire.openReceiver({ url: rig.url, token: rig.token(user), receiver: "tab" });
    rig.later(() => tab.leave());
    await tab.until(() => tab.deliveries.length > 0, "the message");
    expect(countsOf(tab.deliveries)).toEqual([[text, 1]]);
    expect(await tab.ack({ upto: tab.cursor })).toBe(1);
    await rig.allAcked(id);
  });
});

test("[W9] a client that asks and leaves before the reply takes nothing with it", async () => {
  const user = rig.newUser();
  const ids: string[] = [];
  for (let n = 0; n < 10; n++) {
    ids.push(await rig.send(user, n));
    for (const request of [
      writeRequest("POST", "/v1/poll", rig.token(user), { receiver: "tab" }),
      writeRequest("GET", "/v1/events?receiver=tab", rig.token(user)),
    ])
      (await askDeaf(rig.url, request)).leave();
  }
  await rig.linksAre("poll", 0);
  await rig.linksAre("sse", 0);
  const next = await rig.poll(user);
  expect(countsOf(next.deliveries)).toEqual(ids.map((_, n) => [n, 1]));
  expect(await rig.acknowledge(user, next)).toBe(10);
  await rig.allAcked(...ids);
});

test.each([WEBSOCKET, SSE, LONG_POLLING])("[W10] a mailbox of much more than 4,096 bytes arrives whole ($kind)", async (wire) => {
  const user = rig.newUser();
  const values = Array.from({ length: 100 }, (_, n) => ({ n, text: `${"ä€🙂".repeat(300)} ${n}` }));
  const ids = await Promise.all(values.map((value) => rig.send(user, value)));
  const tab = await wire.openReceiver({ url: rig.url, token: rig.token(user), receiver: "tab", window: 1_000 });
  rig.later(() => tab.leave());
  await tab.until(() => tab.deliveries.length === 100, "all of them");
  const byNumber = (one: unknown, other: unknown) => Number(field(one, "n")) - Number(field(other, "n"));
  expect(dataOf(tab.deliveries).sort(byNumber)).toEqual(values);
  // Whoever comes beside it gets all of it too: it has been handed out, and not deleted.
  expect((await rig.poll(user, { receiver: "other", max: 1_000 })).deliveries.map(({ event }) => event.id).sort()).toEqual([...ids].sort());
  expect(await tab.ack({ upto: tab.cursor })).toBe(100);
  await rig.allAcked(...ids);
});

test("[W11] five polls are held at the same time, and answered at the same time, at once", async () => {
  const five = Array.from({ length: 5 }, () => rig.newUser());
  const held = five.map((user) => rig.poll(user, { wait: 30 }));
  await rig.linksAre("poll", 5);
  const startedMs = performance.now();
  const answer = await call(`${rig.url}/v1/messages`, { token: rig.token("ann"), body: { to: { users: five }, type: "order", data: 1 } });
  expect(answer.status).toBe(201);
  const polls = await Promise.all(held);
  expect(polls.map(({ deliveries }) => dataOf(deliveries))).toEqual(five.map(() => [1]));
  // x0's server took a second for one and five for five.
  expect(performance.now() - startedMs).toBeLessThan(1_000);
  for (const [place, user] of five.entries()) expect(await rig.acknowledge(user, polls[place] ?? { epoch: "", cursor: 0 })).toBe(1);
  rig.account("acked", 5);
});

/** What the rows of the store say, counted one by one: within a day no row of a message goes. */
function recount(): Totals {
  const db = new Database(databaseFile(rig.data), { readonly: true });
  const rows = db.prepare("SELECT coalesce(ending, 'unsettled') AS name, count(*) AS n FROM deliveries GROUP BY 1").all() as Row[];
  const folded = Number(db.prepare("SELECT coalesce(sum(mails), 0) FROM folds").pluck().get());
  const fresh = readFresh(db).arrivals.flatMap(({ mails }) => mails.filter((mail) => !mail.isMoved));
  db.close();
  const counts: Record<string, number> = {
    unsettled: 0,
    acked: 0,
    expired: 0,
    replaced: 0,
    evicted: 0,
    dead: 0,
    ...Object.fromEntries(rows.map(({ name, n }) => [name, n])),
  };
  counts.acked = (counts.acked ?? 0) + folded;
  // What has no rows yet.
  for (const { ended_ms } of fresh) counts[ended_ms === null ? "unsettled" : "acked"] = (counts[ended_ms === null ? "unsettled" : "acked"] ?? 0) + 1;
  return { accepted: Object.values(counts).reduce((sum, n) => sum + n), ...counts } as Totals;
}
interface Row {
  readonly name: string;
  readonly n: number;
}

test("[W12] after all of that, every ending on every transport, and kill -9: accepted is acked + expired + replaced + evicted + dead + what is still there", {
  timeout: 120_000,
}, async () => {
  const place = { url: rig.url, serviceKey: SERVICE_CREDENTIAL, token: (user: string) => rig.token(user) };
  const wires = [WEBSOCKET, SSE, LONG_POLLING];
  await Promise.all(wires.map((wire) => endEveryWay(place, wire, `every-${wire.kind}`)));
  for (const [name, count] of Object.entries(EVERY_WAY)) rig.expected[name as keyof Totals] += count * wires.length;
  const told = async () => accounts(await scrape(rig.url));
  expect(await told()).toEqual(rig.expected);
  console.log(`accounts of all faults and of every ending: ${JSON.stringify(rig.expected)}`);
  await rig.kill();
  expect(recount()).toEqual(rig.expected);
  await rig.start();
  expect(await told()).toEqual(rig.expected);

  // And in the middle of it.
  for (let round = 0; round < 2; round++) {
    const before = await told();
    let isOver = false;
    const load = async (each: number) => {
      for (let run = 0; !isOver; run++) {
        const wire = wires[(each + run) % wires.length] ?? SSE;
        await endEveryWay(place, wire, `load-${round}-${each}-${run}`, { waits: false }).catch((thrown: unknown) => {
          if (!isOver) throw thrown;
        });
      }
    };
    const loads = Promise.all([0, 1, 2, 3, 4, 5].map(load));
    let last = before;
    // Each of these readings is exact, too.
    const enough = until(async () => {
      last = await told();
      expect(last.accepted).toBeGreaterThan(before.accepted + 60);
    }, 30_000);
    await Promise.race([loads, enough]);
    isOver = true;
    await rig.kill();
    await loads;
    const counted = recount();
    expect(counted.accepted).toBeGreaterThanOrEqual(last.accepted);
    await rig.start();
    expect(await told()).toEqual(counted);
  }
});
