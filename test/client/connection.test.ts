import { describe, expect, it, vi } from "vitest";
import { backoffMs } from "../../src/client/backoff.ts";
import type { Transport } from "../../src/client/index.ts";
import { gate, rig, until } from "./rig.ts";

const test = rig();

describe("transports", () => {
  it("[C16] connects by WebSocket, says who it is, and takes a new name for each connection", async () => {
    const { server } = test;
    const [one, two] = [test.connect({ window: 5 }), test.connect()];
    await until(() => expect([one.status.state, two.status.state]).toEqual(["online", "online"]));
    expect(one.status).toEqual({ state: "online", transport: "websocket" });
    expect(server.hellos[0]).toMatchObject({ token: "token-1", cursor: 0, window: 5 });
    expect(server.hellos[0]?.receiver).toMatch(/^[0-9a-f]{32}$/);
    expect(new Set(server.hellos.map((hello) => hello.receiver)).size).toBe(2);
  });

  it("[C16] falls back to server-sent events when WebSocket is refused, and to long polling when both are", async () => {
    test.server.webSocket = "refuse";
    const streaming = test.connect({ timing: { openMs: 60_000, probeMs: 60_000 } });
    await until(() => expect(streaming.status).toEqual({ state: "online", transport: "sse" }));
    test.statuses.length = 0;
    test.server.eventStream = "refuse";
    const handover = test.connect({ timing: { openMs: 60_000, probeMs: 60_000 } });
    await until(() => expect(handover.status).toEqual({ state: "online", transport: "poll" }));
    expect(test.statuses.map((status) => status.state)).toEqual(["online"]);
  });

  it("[C16] falls back to long polling when a WebSocket and a stream open and nothing comes through them", async () => {
    test.server.webSocket = "mute";
    test.server.eventStream = "mute";
    const handover = test.connect({ timing: { openMs: 50, probeMs: 60_000 } });
    await until(() => expect(handover.status).toEqual({ state: "online", transport: "poll" }));
  });

  it("[C17] comes back to WebSocket when it gets through, without loss or repeats", async () => {
    const { server } = test;
    server.webSocket = server.eventStream = "refuse";
    const got: unknown[] = [];
    const handover = test.connect({ timing: { probeMs: 50, probeMaxMs: 100 } });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.transport).toBe("poll"));
    let next = 0;
    const sends: Promise<unknown>[] = [];
    const traffic = setInterval(() => {
      server.put("order", next++);
      sends.push(handover.send("bob", "echo", next));
    }, 3);
    await until(() => expect(server.upgrades).toBeGreaterThan(2));
    server.webSocket = "open";
    await until(() => expect(handover.status.transport).toBe("websocket"));
    const changedAt = next;
    await until(() => expect(next).toBeGreaterThan(changedAt + 20));
    clearInterval(traffic);
    await until(() => expect(server.entries).toEqual([]));
    expect(got).toEqual(Array.from({ length: next }, (_, index) => index));
    await Promise.all(sends);
    expect(server.stored.size).toBe(next);
    // It never went offline, and no poll of ours, sent before and arriving late, took the place of our own WebSocket.
    expect(test.statuses.map((status) => status.transport)).toEqual(["poll", "websocket"]);
    expect(server.hellos).toHaveLength(1);
  });

  it("[C17] keeps polling while a WebSocket that it tries stays mute", async () => {
    const { server } = test;
    server.webSocket = server.eventStream = "refuse";
    const got: unknown[] = [];
    const handover = test.connect({ timing: { openMs: 300, probeMs: 20, probeMaxMs: 20, pollWaitMs: 60_000 } });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.transport).toBe("poll"));
    server.webSocket = "mute";
    await until(() => expect(server.hellos.length).toBeGreaterThan(0));
    server.put("order", 1);
    // The poll that is held gives it, before the attempt is over; after it, polling goes on.
    await until(() => expect(got).toEqual([1]));
    await until(() => expect(server.hellos.length).toBeGreaterThan(1));
    server.put("order", 2);
    await until(() => expect(got).toEqual([1, 2]));
    expect(handover.status.transport).toBe("poll");
  });

  it("[C18] tries WebSocket first again when a connection breaks, and comes back when there was none for a while", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect();
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.transport).toBe("websocket"));
    server.webSocket = "refuse";
    server.cutsPolls = true;
    server.cut();
    server.put("order", 1);
    await until(() => expect(server.polls.length).toBeGreaterThan(1));
    expect(test.statuses.at(1)).toMatchObject({ state: "offline", error: { code: "connection-lost" } });
    server.webSocket = "open";
    await until(() => expect(handover.status).toEqual({ state: "online", transport: "websocket" }));
    await until(() => expect(got).toEqual([1]));
    // Each round asks by WebSocket before it polls.
    expect(server.upgrades).toBe(server.polls.length + 2);
  });

  it("[C18] waits a random time of at most 250 ms, 500 ms, … 4 s", () => {
    const random = vi.spyOn(Math, "random").mockReturnValue(0.5);
    expect([0, 1, 2, 3, 4, 5, 1_000].map(backoffMs)).toEqual([125, 250, 500, 1_000, 2_000, 2_000, 2_000]);
    random.mockReturnValue(0);
    expect(backoffMs(9)).toBe(0);
    random.mockRestore();
  });

  it("[C18] waits longer after each failure", async () => {
    const { server } = test;
    const random = vi.spyOn(Math, "random").mockReturnValue(0.2);
    server.webSocket = "refuse";
    server.cutsPolls = true;
    const times: number[] = [];
    const handover = test.connect({ transports: ["websocket"] });
    handover.onStatus(({ state }) => {
      if (state !== "online") times.push(performance.now());
    });
    // offline → connecting: 0.2 × 250, 500, 1,000 ms
    await until(() => expect(times.length).toBeGreaterThanOrEqual(6));
    random.mockRestore();
    const waits = [1, 3, 5].map((index) => (times[index] ?? 0) - (times[index - 1] ?? 0));
    for (const [index, expected] of [50, 100, 200].entries()) expect(waits[index]).toBeGreaterThan(expected * 0.95);
  });

  it("[C18] while the server is away it asks by polling, and comes back to the WebSocket as soon as a poll is answered", async () => {
    const { server } = test;
    const random = vi.spyOn(Math, "random").mockReturnValue(0.005);
    const got: unknown[] = [];
    const handover = test.connect({ timing: { probeMs: 60_000 } });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.transport).toBe("websocket"));
    server.webSocket = "refuse";
    server.cutsPolls = true;
    server.cut();
    server.put("order", 1);
    await until(() => expect(server.polls.length).toBeGreaterThan(40));
    // Three attempts with every transport, and one of sixteen then.
    expect(server.upgrades - 1).toBeLessThanOrEqual(3 + server.polls.length / 16);
    expect(server.upgrades - 1).toBeGreaterThanOrEqual(5);
    server.webSocket = "open";
    server.cutsPolls = false;
    await until(() => expect(handover.status).toEqual({ state: "online", transport: "websocket" }));
    random.mockRestore();
    await until(() => expect(server.entries).toEqual([]));
    expect(got).toEqual([1]);
  });

  it("[C21] after a drain it comes back spread over the time that the server named", async () => {
    const { server } = test;
    const random = vi.spyOn(Math, "random").mockReturnValue(0.9);
    const handover = test.connect({ transports: ["websocket"] });
    await until(() => expect(handover.status.state).toBe("online"));
    server.closeSockets(4503, { op: "drain", delay: 1 });
    const leftAt = performance.now();
    await until(() => expect(server.hellos).toHaveLength(2));
    random.mockRestore();
    expect(performance.now() - leftAt).toBeGreaterThan(890);
  });

  it("[C27] checks a WebSocket on which nothing comes, and replaces one that is dead", async () => {
    const { server } = test;
    const handover = test.connect({ transports: ["websocket"], timing: { quietMs: 50, answerMs: 100 } });
    await until(() => expect(handover.status.state).toBe("online"));
    let checks = 0;
    server.fateOfAck = () => {
      checks++;
      return "answer";
    };
    await until(() => expect(checks).toBeGreaterThan(3));
    expect(server.hellos).toHaveLength(1);
    server.fateOfAck = () => "mute";
    await until(() => expect(server.hellos.length).toBeGreaterThan(1));
  });
});

describe("long polling", () => {
  const transports: readonly Transport[] = ["poll"];

  it("[C22] holds one poll at a time, and asks again at once after an answer", async () => {
    const { server } = test;
    const got: unknown[] = [];
    test.connect({ transports, timing: { pollWaitMs: 300 } }).on("order", (message) => got.push(message.data));
    const startedAt = performance.now();
    for (let index = 0; index < 30; index++) {
      server.put("order", index);
      await until(() => expect(got).toHaveLength(index + 1));
    }
    // With a poll begun only when the last one's time was up, it would be 9 s.
    expect(performance.now() - startedAt).toBeLessThan(4_000);
    // Held to their end, too.
    const polls = server.polls.length;
    await until(() => expect(server.polls.length).toBeGreaterThan(polls + 2));
    expect(server.mostHeldPolls).toBe(1);
    expect(server.polls[0]).toMatchObject({ wait: 0, cursor: 0 });
    expect(server.polls[0]).not.toHaveProperty("epoch");
  });

  it("[C22] an answer that comes empty and too soon does not make a busy loop", async () => {
    const { server } = test;
    server.fateOfPoll = () => "empty";
    const handover = test.connect({ transports });
    await until(() => expect(handover.status.state).toBe("online"));
    const startedAt = performance.now();
    const before = server.polls.length;
    await until(() => expect(server.polls.length).toBe(before + 3), 10_000);
    expect(performance.now() - startedAt).toBeGreaterThan(990);
  });

  it("[C22] a poll that is not answered in time is given up and asked again with the old cursor", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect({ transports, timing: { pollWaitMs: 50, answerMs: 100 } });
    handover.on("order", (message) => got.push(message.data));
    server.put("order", 1);
    await until(() => expect(got).toEqual([1]));
    // Answers of the server get lost on the way: it takes the poll, and nothing comes back.
    const wait = server.polls.length;
    let isMute = true;
    server.fateOfPoll = (poll) => {
      if (isMute) poll.wait = 60;
      return "answer";
    };
    await until(() => expect(server.polls.length).toBeGreaterThan(wait + 3));
    expect(server.mostHeldPolls).toBe(1);
    expect(server.polls.at(-1)).toMatchObject({ cursor: 1, epoch: "e1" });
    isMute = false;
    server.put("order", 2);
    await until(() => expect(got).toEqual([1, 2]));
  });

  it("[C18] a lost answer costs nothing: it comes again", async () => {
    const { server } = test;
    const got: unknown[] = [];
    let losses = 0;
    server.fateOfPoll = (poll) => ((poll.wait as number) > 0 && losses++ < 2 ? "lose" : "answer");
    test.connect({ transports }).on("order", (message) => got.push(message.data));
    await until(() => expect(losses).toBeGreaterThan(0));
    server.put("order", 1);
    await until(() => expect(got).toEqual([1]));
    await until(() => expect(server.entries).toEqual([]));
  });
});

describe("what the server says", () => {
  it.each([
    [4400, "bad-request"],
    [4403, "forbidden"],
    [4410, "session-ended"],
    [4413, "too-large"],
    [4499, "bad-request"],
  ])("[C20] %i stops the connection, and tells", async (code, expected) => {
    const { server } = test;
    const handover = test.connect();
    await until(() => expect(handover.status.state).toBe("online"));
    server.closeSockets(code);
    await until(() => expect(handover.status).toMatchObject({ state: "closed", error: { code: expected } }));
    await expect(handover.send("bob", "order")).rejects.toMatchObject({ code: expected });
    expect(server.hellos).toHaveLength(1);
    expect(server.polls).toEqual([]);
  });

  it("[C20] a refused poll stops the connection, with the server's words", async () => {
    test.server.fateOfPoll = () => ({ status: 403, code: "forbidden", retryable: false, detail: "Not this origin." });
    const handover = test.connect({ transports: ["poll"] });
    await until(() => expect(handover.status).toMatchObject({ state: "closed", error: { code: "forbidden", detail: "Not this origin." } }));
    expect(test.server.polls).toHaveLength(1);
  });

  it.each([4500, 4503, 4508, 4513, 4529, 1001, 1011, 1012, 1013])("[C18] %i brings it back", async (code) => {
    const { server } = test;
    const handover = test.connect();
    await until(() => expect(handover.status.state).toBe("online"));
    server.closeSockets(code);
    await until(() => expect(server.hellos).toHaveLength(2));
    expect(server.polls).toEqual([]);
  });

  it("[C9] replaced by another of the same name, it comes back under a new name, where it was", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect();
    handover.on("order", (message) => got.push(message.data));
    server.put("order", 1);
    await until(() => expect(got).toEqual([1]));
    await until(() => expect(server.entries).toEqual([]));
    server.closeSockets(4409);
    await until(() => expect(server.hellos).toHaveLength(2));
    expect(server.hellos[1]?.receiver).not.toBe(server.hellos[0]?.receiver);
    expect(server.hellos[1]).toMatchObject({ epoch: "e1", cursor: 1 });
    server.put("order", 2);
    await until(() => expect(got).toEqual([1, 2]));
  });

  it("[C9] replaced again and again, it gives up", async () => {
    const { server } = test;
    server.refusals.push(4409, 4409, 4409, 4409, 4409, 4409);
    const handover = test.connect();
    await until(() => expect(handover.status).toMatchObject({ state: "closed", error: { code: "replaced" } }));
    expect(server.hellos).toHaveLength(4);
  });

  it("[C23] nothing that the server says raises an exception: it is passed over, or the connection made anew", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect({ transports: ["websocket"] });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.state).toBe("online"));
    const events = [null, 7, "x", [], {}, { id: 1, source: "s", type: "t" }, { id: "a", source: "s" }];
    for (const frame of [
      { op: "later", than: "this" },
      { op: "deliver" },
      { op: "deliver", deliveries: { length: 3 } },
      { op: "deliver", deliveries: [null, 1, "x", [], {}, { seq: -1 }, { seq: "4" }, ...events.map((event) => ({ seq: 0, event }))] },
      { op: "settled", seqs: "all" },
      { op: "settled", seqs: [null, {}, -1] },
      { op: "gap" },
      { op: "gap", to: "far" },
      { op: "acked", ref: 999 },
      { op: "acked" },
      { op: "sent", results: 5 },
      { op: "sent", results: [null, { ref: {} }, { ref: 999, status: 201 }] },
      { op: "error" },
      { op: "error", ref: 999, code: 5 },
      { op: "drain" },
      {},
    ])
      server.say(frame);
    server.put("order", 1);
    await until(() => expect(got).toEqual([1]));
    expect(server.hellos).toHaveLength(1);
    for (const text of ["no json {", "[1,2]", "null"]) {
      const hellos = server.hellos.length;
      server.say(text);
      await until(() => expect(server.hellos.length).toBe(hellos + 1));
      await until(() => expect(handover.status.state).toBe("online"));
    }
    server.put("order", 2);
    await until(() => expect(got).toEqual([1, 2]));
  });

  it("[C23] an answer to a send that is none is asked for again", async () => {
    const { server } = test;
    const handover = test.connect({ transports: ["websocket"] });
    await until(() => expect(handover.status.state).toBe("online"));
    server.fateOfSend = () => (server.sends.length < 3 ? ({ status: 418 } as never) : "answer");
    await expect(handover.send("bob", "order")).resolves.toMatchObject({ id: "s1" });
    expect(server.sends).toHaveLength(3);
  });
});

describe("the end", () => {
  it.each<Transport>(["websocket", "sse", "poll"])(
    "[C25] over %s: close waits for what is under way, and then there is nothing more",
    async (transport) => {
      const { server } = test;
      const work = gate();
      let calls = 0;
      const handover = test.connect({ transports: [transport] });
      handover.on("order", () => {
        calls++;
        return work.opened;
      });
      handover.on("hung", () => new Promise(() => {}));
      server.put("order", 1);
      server.put("hung", 2);
      await until(() => expect(calls).toBe(1));
      await until(() => expect(handover.status.state).toBe("online"));
      const sending = handover.send("bob", "echo");
      work.open();
      await work.opened;
      const startedAt = performance.now();
      await Promise.all([handover.close(), handover.close()]);
      expect(performance.now() - startedAt).toBeLessThan(4_000);
      expect(await sending).toMatchObject({ id: "s1" });
      expect(server.entries.map((entry) => entry.event.type)).toEqual(["hung"]);
      expect(handover.status).toEqual({ state: "closed" });
      await until(() => expect(server.openSockets + server.openStreams + server.heldPolls).toBe(0));
      const said = server.asked.length;
      server.put("order", 3);
      await expect(handover.send("bob", "echo")).rejects.toMatchObject({ code: "closed" });
      await until(() => expect(server.head).toBe(3));
      expect(calls).toBe(1);
      expect(server.asked.length).toBe(said);
      expect(test.statuses.at(-1)).toEqual({ state: "closed" });
    },
  );

  it("[C25] close waits for a send, and passes on the acknowledgements that wait for one under way", async () => {
    const { server } = test;
    const [release, work] = [gate(), gate()];
    server.ackGate = server.sendGate = release.opened;
    const handover = test.connect({ transports: ["poll"] });
    handover.on("quick", () => {});
    handover.on("slow", () => work.opened);
    server.putAll("quick", [1]);
    server.putAll("slow", [2]);
    await until(() => expect(server.acks).toHaveLength(1));
    const sending = handover.send("bob", "order");
    await until(() => expect(server.sends).toHaveLength(1));
    work.open();
    const closing = handover.close();
    release.open();
    await closing;
    expect(server.acks.map((ack) => ack.seqs)).toEqual([[1], [2]]);
    expect(await sending).toMatchObject({ id: "s1" });
  });

  it("[C25] close waits for the answer to a send", async () => {
    const { server } = test;
    const release = gate();
    server.sendGate = release.opened;
    const handover = test.connect({ transports: ["poll"] });
    const sending = handover.send("bob", "order");
    await until(() => expect(server.sends).toHaveLength(1));
    const closing = handover.close();
    await handover.state("known");
    expect(handover.status.state).toBe("online");
    release.open();
    await closing;
    expect(await sending).toMatchObject({ id: "s1" });
  });

  it("[C25] close without a connection rejects what waits, at once", async () => {
    test.server.webSocket = "refuse";
    test.server.cutsPolls = true;
    const handover = test.connect();
    const sending = handover.send("bob", "order");
    const refused = expect(sending).rejects.toMatchObject({ code: "closed", retryable: false });
    await handover.close();
    await refused;
    expect(handover.status.state).toBe("closed");
  });

  it.each([
    ["has put it off", { status: 503, code: "draining", retryable: true, retryAfter: 60 }, 4_000],
    ["does not answer", "mute", 4_000],
  ] as const)("[C25] close does not wait for ever for a send when the server %s", async (_, fate, mostMs) => {
    const { server } = test;
    server.fateOfSend = () => fate;
    const handover = test.connect({ transports: ["websocket"], timing: { answerMs: 1_000 } });
    const refused = expect(handover.send("bob", "order")).rejects.toMatchObject({ code: "closed" });
    await until(() => expect(server.sends).toHaveLength(1));
    // The answer has been here when a later one has.
    await expect(handover.state("known")).resolves.toBeDefined();
    const startedAt = performance.now();
    await handover.close();
    await refused;
    expect(performance.now() - startedAt).toBeLessThan(mostMs);
  });

  it("[C23] an address that is none is refused at once", () => {
    expect(() => test.connect().close()).not.toThrow();
  });
});
