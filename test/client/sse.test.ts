/**
 * Server-sent events in the SDK, and what gets lost between a page and its server in one direction only.
 * @module
 */
import { describe, expect, it, vi } from "vitest";
import { Acks } from "../../src/client/acks.ts";
import { HandoverError, type Transport } from "../../src/client/index.ts";
import { Mute } from "../../src/client/mute.ts";
import { Page } from "../../src/client/page.ts";
import { rig, until } from "./rig.ts";

const test = rig();
const numbers = (count: number) => Array.from({ length: count }, (_, index) => index);

describe("a stream", () => {
  const transports: readonly Transport[] = ["sse"];

  it("[C51] is ready when mail comes down and what goes up is answered; until then the next transport is tried", async () => {
    const { server } = test;
    server.swallows = true;
    const handover = test.connect({ transports: ["sse", "poll"], timing: { openMs: 1_000, answerMs: 60_000, probeMs: 60_000 } });
    await until(() => expect(handover.status).toEqual({ state: "online", transport: "poll" }));
    expect(server.streams).toHaveLength(1);
  });

  it("[C51] its events are understood however they are cut, and one that was cut short comes again", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect({ transports });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.state).toBe("online"));
    const event = { id: "cut", source: "/users/ann", type: "order", data: "ä🍕" };
    server.entries.push({ seq: ++server.head, deliveryCount: 1, event });
    const text = Buffer.from(`: a comment\n\nevent: later\ndata: {"than":"this"}\n\nid: e1:1\ndata: ${JSON.stringify(server.entries[0])}\n\nda`);
    for (const byte of text) server.writeBytes(Buffer.from([byte]));
    await until(() => expect(got).toEqual(["ä🍕"]));
    server.cut();
    server.put("order", 2);
    await until(() => expect(server.entries).toEqual([]));
    expect(got).toEqual(["ä🍕", 2]);
    expect(server.streams.at(-1)).toMatchObject({ epoch: "e1", cursor: 1 });
  });

  it("[C51] that the server ends only to see who comes back goes on under the same name, and nobody is told", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect({ transports });
    handover.on("order", (message) => got.push(message.data));
    server.put("order", 0);
    await until(() => expect(got).toEqual([0]));
    await until(() => expect(handover.status.state).toBe("online"));
    for (const index of [1, 2]) {
      // One that ends sooner is a proxy's doing, and is waited for.
      await new Promise((resolve) => setTimeout(resolve, 1_050));
      server.endStreams();
      server.put("order", index);
      await until(() => expect(got).toHaveLength(index + 1));
    }
    await until(() => expect(server.entries).toEqual([]));
    expect(server.streams).toHaveLength(3);
    expect(server.streams[2]).toMatchObject({ receiver: server.streams[0]?.receiver, epoch: "e1", cursor: 2 });
    expect(test.statuses.map(({ state }) => state)).toEqual(["online"]);
    server.endStreams();
    await until(() => expect(server.streams).toHaveLength(4));
    expect(test.statuses.map(({ state }) => state)).toContain("offline");
  });

  it("[C21] after a drain it comes back spread over the time that the server named", async () => {
    const { server } = test;
    const random = vi.spyOn(Math, "random").mockReturnValue(0.9);
    const handover = test.connect({ transports });
    await until(() => expect(handover.status.state).toBe("online"));
    const leftAt = performance.now();
    server.tell("drain", { delay: 1 }, true);
    await until(() => expect(server.streams).toHaveLength(2));
    random.mockRestore();
    expect(performance.now() - leftAt).toBeGreaterThan(890);
  });

  it("[C20] a problem that cannot be mended ends it, with the server's words", async () => {
    const { server } = test;
    const handover = test.connect({ transports });
    await until(() => expect(handover.status.state).toBe("online"));
    server.tell("problem", { code: "session-ended", status: 401, detail: "Gone.", retryable: false }, true);
    await until(() => expect(handover.status).toMatchObject({ state: "closed", error: { code: "session-ended", detail: "Gone." } }));
    expect(server.streams).toHaveLength(1);
  });

  it("[C23] nothing that a stream says raises an exception", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect({ transports });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.state).toBe("online"));
    server.write('\n\n:\n\nevent\n\nevent: ready\n\ndata\n\ndata: {\n\ndata: null\n\ndata: {"seq":"x"}\n\nevent: gap\ndata: {"to":"far"}\n\n');
    server.write('event: settled\ndata: {"seqs":5}\n\nevent: drain\ndata: {}\n\nevent: problem\ndata: {}\n\n');
    server.put("order", 1);
    await until(() => expect(got).toEqual([1]));
    expect(test.errors).toEqual([]);
    expect(handover.status.state).toBe("online");
  });
});

describe("what is swallowed", () => {
  it("[C52] a stream that falls silent is given up, and its mail comes over another, once", async () => {
    const { server } = test;
    const got: unknown[] = [];
    server.webSocket = "refuse";
    const timing = { quietMs: 400, answerMs: 400, openMs: 1_000, probeMs: 60_000 };
    const handover = test.connect({ timing });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.transport).toBe("sse"));
    server.put("order", 0);
    await until(() => expect(got).toEqual([0]));
    server.eventStream = "stall";
    server.put("order", 1);
    await until(() => expect(handover.status.transport).toBe("poll"), 20_000);
    await until(() => expect(server.entries).toEqual([]));
    expect(got).toEqual([0, 1]);
  });

  it.each<Transport>(["sse", "poll"])(
    "[C52] over %s: sends that nothing answers end the connection, and go over another, once",
    async (transport) => {
      const { server } = test;
      server.webSocket = "refuse";
      const handover = test.connect({ transports: ["websocket", transport], timing: { answerMs: 100, pollWaitMs: 200, probeMs: 60_000 } });
      await until(() => expect(handover.status.transport).toBe(transport));
      server.swallows = true;
      const sends = numbers(20).map((index) => handover.send("bob", "order", index));
      await until(() => expect(handover.status.state).not.toBe("online"));
      server.webSocket = "open";
      await Promise.all(sends);
      expect(handover.status.transport).toBe("websocket");
      expect([...server.stored.values()].map(({ data }) => data)).toEqual(numbers(20));
    },
  );

  it("[C53] a transport that is swallowed is tried last from then on, until it gets through", async () => {
    const { server } = test;
    server.webSocket = "mute";
    // Times that only what is swallowed exceeds, on a loaded machine too; and the next try of the WebSocket is not before the stream has come back.
    const handover = test.connect({ timing: { openMs: 2_000, probeMs: 5_000, probeMaxMs: 5_000 } });
    await until(() => expect(handover.status.transport).toBe("sse"), 20_000);
    const upgrades = server.upgrades;
    server.cut();
    await until(() => expect(server.streams).toHaveLength(2));
    expect(server.upgrades).toBe(upgrades);
    await until(() => expect(handover.status.transport).toBe("sse"));
    server.webSocket = "open";
    await until(() => expect(handover.status.transport).toBe("websocket"), 20_000);
    const hellos = server.hellos.length;
    server.cut();
    await until(() => expect(server.hellos.length).toBeGreaterThan(hellos));
    await until(() => expect(handover.status).toEqual({ state: "online", transport: "websocket" }));
    expect(server.streams).toHaveLength(2);
  }, 60_000);

  it("[C53] the tab's next page knows it, until the network is another one", () => {
    const listeners = new Map<string, () => void>();
    const kept = new Map<string, string>();
    vi.stubGlobal("addEventListener", (name: string, listener: () => void) => void listeners.set(name, listener));
    vi.stubGlobal("document", { addEventListener() {} });
    vi.stubGlobal("sessionStorage", {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, text: string) => void kept.set(key, text),
    });
    try {
      const openPage = () => {
        const line = { mute: new Mute(), nudge: vi.fn() };
        const parts = { base: "http://here", inbox: { acks: { use() {} } }, outbox: {}, options: {} };
        return { line, page: new Page(line as never, parts as never, new Acks(() => {}), HandoverError) };
      };
      const first = openPage();
      first.line.mute.set("websocket", true);
      first.page.tell({ state: "online", transport: "sse" }, undefined);
      const second = openPage();
      expect(second.line.mute.last(["websocket", "sse", "poll"])).toEqual(["sse", "poll", "websocket"]);
      listeners.get("online")?.();
      expect(second.line.mute.last(["websocket", "sse", "poll"])).toEqual(["websocket", "sse", "poll"]);
      expect(second.line.nudge).toHaveBeenCalledTimes(1);
    } finally {
      vi.unstubAllGlobals();
    }
  });

  it("[C53] a network that was away is no transport that is swallowed: the WebSocket stays the first", async () => {
    const { server } = test;
    const handover = test.connect({ timing: { quietMs: 50, answerMs: 1_000, openMs: 10_000 } });
    await until(() => expect(handover.status.transport).toBe("websocket"));
    // Away until it comes back: what it then asks, and that is soon, is answered.
    let answered = 0;
    server.fateOfAck = () => {
      if (server.hellos.length < 2) return "mute";
      answered += 1;
      return "answer";
    };
    await until(() => expect(answered).toBeGreaterThan(1), 20_000);
    expect(handover.status).toEqual({ state: "online", transport: "websocket" });
    expect(server.streams).toEqual([]);
  }, 30_000);

  it("[C54] a WebSocket is blocked in mid-stream, then the stream: every message is handled once, in order, and every send stored once", async () => {
    const { server } = test;
    const got: unknown[] = [];
    // None that a loaded machine exceeds when nothing is blocked: a stream that opens too late would be passed over.
    const timing = { quietMs: 1_000, answerMs: 1_000, openMs: 10_000, probeMs: 60_000, pollWaitMs: 300 };
    const handover = test.connect({ timing });
    handover.on("order", (message) => got.push(message.data));
    let count = 0;
    const sends: Promise<unknown>[] = [];
    const traffic = setInterval(() => {
      server.put("order", count);
      sends.push(handover.send("bob", "order", count++));
    }, 5);
    await until(() => expect(got.length).toBeGreaterThan(20));
    server.webSocket = "refuse";
    server.stallSockets();
    await until(() => expect(handover.status.transport).toBe("sse"), 20_000);
    const atStream = got.length;
    await until(() => expect(got.length).toBeGreaterThan(atStream + 20));
    server.eventStream = "stall";
    await until(() => expect(handover.status.transport).toBe("poll"), 20_000);
    const atPoll = got.length;
    await until(() => expect(got.length).toBeGreaterThan(atPoll + 20));
    clearInterval(traffic);
    await Promise.all(sends);
    await until(() => expect(server.entries).toEqual([]));
    expect(got).toEqual(numbers(count));
    expect([...server.stored.values()].map(({ data }) => data).sort((one, other) => Number(one) - Number(other))).toEqual(numbers(count));
  }, 60_000);
});

describe.each<Transport>(["websocket", "sse", "poll"])("a hidden tab over %s", (transport) => {
  it("[C55] whose timers stand still receives, acknowledges and sends", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect({ transports: [transport] });
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(handover.status.state).toBe("online"));
    const real = globalThis.setTimeout;
    vi.stubGlobal("setTimeout", (then: () => void, waitMs: number) => (waitMs >= 50 ? real(() => {}, 0) : real(then, waitMs)));
    try {
      for (const index of numbers(20)) {
        server.put("order", index);
        await handover.send("bob", "order", index);
        await until(() => expect(server.entries).toEqual([]));
      }
      expect(got).toEqual(numbers(20));
      expect(handover.status.state).toBe("online");
    } finally {
      vi.unstubAllGlobals();
    }
  });
});

it("[C55] an alarm that rings late, as in a page that has slept, judges nothing before it has waited once more", async () => {
  const { alarm } = await import("../../src/client/backoff.ts");
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
  try {
    const then = vi.fn();
    alarm(1_000, then);
    // The machine sleeps: the time of day goes on, and timers ring when it wakes.
    vi.setSystemTime(Date.now() + 3_600_000);
    vi.advanceTimersByTime(1_000);
    expect(then).not.toHaveBeenCalled();
    vi.advanceTimersByTime(1_000);
    expect(then).toHaveBeenCalledTimes(1);
    const cancelled = vi.fn();
    alarm(1_000, cancelled)();
    alarm(1_000, then);
    vi.advanceTimersByTime(1_000);
    expect(then).toHaveBeenCalledTimes(2);
    expect(cancelled).not.toHaveBeenCalled();
  } finally {
    vi.useRealTimers();
  }
});
