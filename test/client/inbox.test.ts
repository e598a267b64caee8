import { describe, expect, it } from "vitest";
import type { Message, Transport } from "../../src/client/index.ts";
import type { Ack } from "./fake.ts";
import { gate, rig, until } from "./rig.ts";

const test = rig();
const seqsOf = (acks: readonly Ack[]) => acks.flatMap((ack) => ack.seqs ?? []);

describe.each<Transport>(["websocket", "sse", "poll"])("receiving over %s", (transport) => {
  const transports = [transport];

  it("[C1] acknowledges a message when the promises of all its handlers are resolved, and not before", async () => {
    const { server } = test;
    const [first, second] = [gate(), gate()];
    const got: Message[] = [];
    const handover = test.connect({ transports });
    handover.on("order", async (message) => {
      got.push(message);
      await first.opened;
    });
    handover.on("order", () => second.opened);
    server.put("order", { pizza: 2 }, { subject: "s", topic: "t" });
    await until(() => expect(got).toHaveLength(1));
    expect(got[0]).toMatchObject({ id: "m1", source: "/users/ann", from: "ann", type: "order", data: { pizza: 2 }, subject: "s", deliveryCount: 1 });
    first.open();
    // What is said of a later message would have come after an acknowledgement of the first.
    server.put("mark", 1);
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([2]));
    expect(seqsOf(server.acks)).toEqual([]);
    second.open();
    await until(() => expect(server.entries.map((entry) => entry.seq)).toEqual([2]));
    expect(server.acks.at(-1)).toMatchObject({ via: transport === "websocket" ? transport : "http", epoch: "e1", seqs: [1] });
  });

  it("[C2] takes a message back to the mailbox when a handler rejects, for twice as long each time, and tells the developer once", async () => {
    const { server } = test;
    const counts: number[] = [];
    const handover = test.connect({ transports });
    handover.on("order", async (message) => {
      counts.push(message.deliveryCount);
      if (counts.length < 4) throw new Error("no pizza");
    });
    server.put("order", 1);
    await until(() => expect(server.entries).toEqual([]));
    expect(counts).toEqual([1, 2, 3, 4]);
    const nacks = server.acks.flatMap((ack) => ack.nack ?? []);
    expect(nacks).toEqual([
      { seq: 1, retryAfter: 1 },
      { seq: 2, retryAfter: 2 },
      { seq: 3, retryAfter: 4 },
    ]);
    expect(seqsOf(server.acks)).toEqual([4]);
    expect(test.errors.map(String)).toEqual(["Error: no pizza"]);
  });

  it("[C2] never asks for more than 60 s", async () => {
    const { server } = test;
    let calls = 0;
    test.connect({ transports }).on("order", () => {
      if (++calls === 1) throw new Error("a synchronous throw is a rejection too");
    });
    server.put("order", 1, {}, 9);
    await until(() => expect(server.acks[0]?.nack).toEqual([{ seq: 1, retryAfter: 60 }]));
  });

  it("[C3] holds what no handler wants, and gives it to handlers that come later, whose ack goes by its number", async () => {
    const { server } = test;
    const handover = test.connect({ transports });
    server.put("late", "a");
    server.put("other", "x");
    server.put("late", "b");
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? []).sort()).toEqual([1, 2, 3]));
    expect(seqsOf(server.acks)).toEqual([]);
    const got: unknown[] = [];
    handover.on("late", (message) => got.push(message.data));
    handover.on("late", (message) => got.push(`${message.data}!`));
    await until(() => expect(server.entries.map((entry) => entry.seq)).toEqual([2]));
    expect(got).toEqual(["a", "a!", "b", "b!"]);
    expect(seqsOf(server.acks).sort()).toEqual([1, 3]);
  });

  it("[C3] a handler that was taken away gets nothing more", async () => {
    const { server } = test;
    const handover = test.connect({ transports });
    const off = handover.on("order", () => {});
    server.put("order", 1);
    await until(() => expect(server.entries).toEqual([]));
    off();
    server.put("order", 2);
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([2]));
  });

  it("[C4] starts handlers in the order of the mailbox; one that never ends stops nothing else", async () => {
    const { server } = test;
    const started: unknown[] = [];
    server.putAll("order", [0, 1, 2, 3, 4]);
    test.connect({ transports }).on("order", (message) => {
      started.push(message.data);
      return message.data === 0 ? new Promise(() => {}) : undefined;
    });
    await until(() => expect(server.entries.map((entry) => entry.seq)).toEqual([1]));
    server.put("order", 5);
    await until(() => expect(server.entries.map((entry) => entry.seq)).toEqual([1]));
    expect(started).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it("[C5] drops a repeat of what it processed, and acknowledges it again", async () => {
    const { server } = test;
    let calls = 0;
    test.connect({ transports }).on("order", () => void calls++);
    server.put("order", 1, { id: "same" });
    await until(() => expect(server.entries).toEqual([]));
    server.put("order", 1, { id: "same" });
    server.put("order", 1, { id: "same", source: "/users/zoe" });
    await until(() => expect(server.entries).toEqual([]));
    // Another source makes it another message.
    expect(calls).toBe(2);
    expect(seqsOf(server.acks)).toEqual([1, 2, 3]);
  });

  it("[C6] settles the newest entry of a message that comes again while it is handled", async () => {
    const { server } = test;
    const work = gate();
    let calls = 0;
    test.connect({ transports }).on("order", () => {
      calls++;
      return work.opened;
    });
    server.put("order", 1, { id: "same" });
    await until(() => expect(calls).toBe(1));
    server.put("order", 1, { id: "same" });
    server.put("mark", 0);
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([3]));
    work.open();
    await until(() => expect(seqsOf(server.acks)).toEqual([2]));
    expect(calls).toBe(1);
  });

  it("[C7] under a new epoch everything comes again: what was processed is acknowledged, what is at work settles its new entry", async () => {
    const { server } = test;
    const work = gate();
    const calls: unknown[] = [];
    // The old numbers are higher than the new ones will be.
    server.head = 10;
    // The acknowledgement of the first message gets lost with the store.
    server.fateOfAck = () => ({ status: 503, code: "store-unavailable", retryable: true });
    test.connect({ transports }).on("order", (message) => {
      calls.push(message.data);
      return message.data === "slow" ? work.opened : undefined;
    });
    server.put("order", "quick");
    server.put("order", "slow");
    await until(() => expect(server.acks.length).toBeGreaterThan(0));
    server.fateOfAck = () => "answer";
    server.entries.unshift({ seq: 0, deliveryCount: 1, event: { id: "old", source: "/users/ann", type: "none" } });
    server.acks.length = 0;
    server.renumber("e2");
    // What it says before it knows of the new epoch is of the old one, and settles nothing.
    const since = () => server.acks.slice(server.acks.findIndex((ack) => ack.epoch === "e2"));
    await until(() => expect(seqsOf(since())).toEqual([2]));
    work.open();
    await until(() => expect(seqsOf(since())).toEqual([2, 3]));
    expect(since().every((ack) => ack.epoch === "e2")).toBe(true);
    expect(calls).toEqual(["quick", "slow"]);
    await until(() => expect(server.entries.map((entry) => entry.event.id)).toEqual(["old"]));
    // It goes on from the new numbers.
    const asked = server.asked.length;
    server.cut();
    await until(() => expect(server.asked.length).toBeGreaterThan(asked));
    expect(server.asked.at(-1)).toMatchObject({ epoch: "e2", cursor: 3 });
  });

  it("[C7] forgets the number of an old epoch: work that ends between two epochs is acknowledged when its repeat comes", async () => {
    const { server } = test;
    const work = gate();
    let calls = 0;
    test.connect({ transports }).on("order", () => {
      calls++;
      return work.opened;
    });
    server.put("order", 1);
    await until(() => expect(calls).toBe(1));
    server.epoch = "e2";
    server.head = 5;
    const entry = server.entries[0];
    server.entries = [];
    server.cut();
    // Something of the new epoch has come, the message itself not yet.
    await until(() => expect(server.asked.length > 1 && (transport !== "poll" || server.polls.some((poll) => poll.epoch === "e2"))).toBe(true));
    server.put("mark", 0);
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([6]));
    work.open();
    await work.opened;
    server.put("order", 1, entry?.event);
    await until(() => expect(server.entries.map((each) => each.seq)).toEqual([6]));
    expect(seqsOf(server.acks)).toEqual([7]);
    expect(calls).toBe(1);
  });

  it("[C8] goes on after what it has received, processed or not", async () => {
    const { server } = test;
    let calls = 0;
    const handover = test.connect({ transports });
    handover.on("order", () => {
      calls++;
      return new Promise(() => {});
    });
    server.putAll("order", [1, 2, 3]);
    await until(() => expect(calls).toBe(3));
    await until(() => expect(server.openSockets + server.openStreams + server.heldPolls).toBe(1));
    const before = server.asked.length;
    server.cut();
    await until(() => expect(server.asked.length).toBeGreaterThan(before));
    const [first, last] = [server.asked[0], server.asked.at(-1)];
    expect(last).toMatchObject({ epoch: "e1", cursor: 3, receiver: first?.receiver });
    server.put("order", 4);
    await until(() => expect(calls).toBe(4));
  });

  it("[C10] acknowledgements that become ready in the same turn share one frame or request", async () => {
    const { server } = test;
    const work = gate();
    let calls = 0;
    test.connect({ transports }).on("order", async () => {
      calls++;
      await work.opened;
    });
    server.putAll("order", [0, 1, 2, 3, 4, 5, 6, 7]);
    await until(() => expect(calls).toBe(8));
    work.open();
    await until(() => expect(server.entries).toEqual([]));
    expect(server.acks).toHaveLength(1);
    expect(server.acks[0]?.seqs).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it("[C11] an acknowledgement whose answer was lost is sent again, and no handler is called again", async () => {
    const { server } = test;
    let calls = 0;
    let losses = 0;
    server.fateOfAck = () => (losses++ === 0 ? "lose" : "answer");
    test.connect({ transports }).on("order", () => void calls++);
    server.put("order", 1);
    await until(() => expect(seqsOf(server.acks)).toEqual([1, 1]));
    expect(calls).toBe(1);
  });

  it("[C11] an acknowledgement that the store could not take is sent again", async () => {
    const { server } = test;
    let refusals = 0;
    server.fateOfAck = () => (refusals++ < 2 ? { status: 503, code: "store-unavailable", retryable: true } : "answer");
    test.connect({ transports }).on("order", () => {});
    server.put("order", 1);
    await until(() => expect(server.entries).toEqual([]));
    expect(seqsOf(server.acks)).toEqual([1, 1, 1]);
  });

  it("[C11] an acknowledgement that the server will never take is reported and not sent for ever", async () => {
    const { server } = test;
    server.fateOfAck = (ack) => (ack.seqs?.includes(1) ? { status: 400, code: "bad-request", retryable: false, detail: "What?" } : "answer");
    test.connect({ transports }).on("order", () => {});
    server.put("order", 1);
    await until(() => expect(test.errors.map(String)).toEqual(["HandoverError: What? [bad-request]"]));
    server.put("order", 2);
    await until(() => expect(server.entries.map((entry) => entry.seq)).toEqual([1]));
    expect(seqsOf(server.acks)).toEqual([1, 2]);
  });
});

it("[C8] a gap moves the cursor, forward only", async () => {
  const { server } = test;
  const handover = test.connect({ transports: ["websocket"] });
  await until(() => expect(handover.status.state).toBe("online"));
  server.head = 9;
  server.say({ op: "gap", from: 1, to: 7, reason: "expired" });
  server.say({ op: "gap", from: 3, to: 4, reason: "unknown" });
  // The frames of one connection come in order: with this answer, the gaps are here.
  await handover.send("bob", "echo");
  server.cut();
  await until(() => expect(server.hellos).toHaveLength(2));
  expect(server.hellos[1]?.cursor).toBe(7);
});

it("[C8] the gaps of a poll's answer move the cursor, and so does where it says to ask from next", async () => {
  const { server } = test;
  server.answerPolls([
    { gaps: [{ from: 1, to: 7, reason: "expired" }], cursor: 0 },
    { deliveries: [], cursor: 8 },
  ]);
  test.connect({ transports: ["poll"] });
  await until(() => expect(server.polls.map((poll) => poll.cursor)).toEqual([0, 7, 8]));
});

it("[C10] on long polling, what becomes ready while a request is under way shares the next", async () => {
  const { server } = test;
  const release = gate();
  server.ackGate = release.opened;
  const work = [gate(), gate(), gate(), gate()];
  let calls = 0;
  test.connect({ transports: ["poll"] }).on("order", (message) => {
    calls++;
    return work[message.data as number]?.opened;
  });
  server.putAll("order", [0, 1, 2, 3]);
  await until(() => expect(calls).toBe(4));
  for (const each of work) {
    each.open();
    // Each in a turn of its own.
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => expect(server.acks).toHaveLength(1));
  release.open();
  await until(() => expect(server.entries).toEqual([]));
  expect(server.acks.map((ack) => ack.seqs)).toEqual([[1], [2, 3, 4]]);
});

it("[C24] tells of messages that were settled elsewhere, and does not give them to later handlers", async () => {
  const { server } = test;
  const handover = test.connect();
  const settled: unknown[] = [];
  handover.onSettled((message) => settled.push(message));
  const gone = server.put("badge", 1);
  server.put("badge", 2);
  await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? []).sort()).toEqual([1, 2]));
  server.settle(gone);
  server.say({ op: "settled", seqs: [99] });
  await until(() => expect(settled).toEqual([{ source: "/users/ann", id: "m1", type: "badge" }]));
  const got: unknown[] = [];
  handover.on("badge", (message) => got.push(message.data));
  await until(() => expect(got).toEqual([2]));
});

it("[C22] on long polling takes no more than the window, and goes on when there is room", async () => {
  const { server } = test;
  const work: (() => void)[] = [];
  test.connect({ transports: ["poll"], window: 2 }).on("order", () => new Promise<void>((resolve) => work.push(resolve)));
  server.putAll("order", [1, 2, 3]);
  await until(() => expect(work).toHaveLength(2));
  const polls = server.polls.length;
  expect(server.polls.at(-1)).toMatchObject({ max: 2 });
  work[0]?.();
  await until(() => expect(work).toHaveLength(3));
  expect(server.polls.length).toBe(polls + 1);
  expect(server.polls.at(-1)).toMatchObject({ max: 1 });
});

it("[C23] a handler or listener that throws breaks nothing, and is reported", async () => {
  const { server } = test;
  const handover = test.connect();
  handover.onStatus(() => {
    throw new Error("status");
  });
  handover.onSettled(() => Promise.reject(new Error("settled")));
  handover.on("order", () => {});
  await until(() => expect(handover.status.state).toBe("online"));
  const seq = server.put("badge", 1);
  await until(() => expect(server.acks).toHaveLength(1));
  server.settle(seq);
  server.put("order", 1);
  await until(() => expect(server.entries).toEqual([]));
  expect(test.errors.map(String)).toEqual(["Error: status", "Error: settled"]);
});
