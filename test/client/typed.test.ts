/**
 * Messages with types of their own, handlers for one message, questions and answers, and ends by signal.
 * @module
 */
import { describe, expect, expectTypeOf, it, vi } from "vitest";
import { connect, type Handover, type Message, type Transport } from "../../src/client/index.ts";
import { gate, rig, until } from "./rig.ts";

const test = rig();

interface Messages {
  "form.data": { name: string };
  price: { pizza: number };
  "price.reply": { euros: number };
}

it("[C56] the types of the data are those of the application's own table", () => {
  type Typed = Handover<Messages>;
  const use = async (handover: Typed) => {
    handover.on("form.data", (message) => expectTypeOf(message.data).toEqualTypeOf<{ name: string }>());
    handover.once("price", (message) => expectTypeOf(message).toEqualTypeOf<Message<{ pizza: number }>>());
    handover.on("*", (message) => {
      if (message.type === "price") expectTypeOf(message.data).toEqualTypeOf<{ pizza: number }>();
    });
    await handover.send("bob", "form.data", { name: "Ann" });
    expectTypeOf(await handover.request("bob", "price", { pizza: 1 })).toEqualTypeOf<Message<{ euros: number }>>();
    expectTypeOf(await handover.request("bob", "form.data")).toEqualTypeOf<Message<unknown>>();
    // @ts-expect-error a type that the table does not have
    handover.on("form.dat", () => {});
    // @ts-expect-error data of another type
    await handover.send("bob", "price", { pizza: "two" });
  };
  expectTypeOf(use).toBeFunction();
  expectTypeOf(connect<Messages>).returns.toEqualTypeOf<Typed>();
  // Without a table every type is one, and its data is to be looked at.
  expectTypeOf<Parameters<Parameters<Handover["on"]>[1]>[0]["data"]>().toEqualTypeOf<unknown>();
});

describe("once", () => {
  it("[C57] handles one message, and what comes after it waits for another handler", async () => {
    const { server } = test;
    const got: unknown[] = [];
    const handover = test.connect();
    const work = gate();
    handover.once("order", async (message) => {
      got.push(message.data);
      await work.opened;
    });
    server.putAll("order", [1, 2]);
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([2]));
    work.open();
    await until(() => expect(server.entries.map(({ seq }) => seq)).toEqual([2]));
    expect(got).toEqual([1]);
    handover.on("order", (message) => got.push(message.data));
    await until(() => expect(server.entries).toEqual([]));
    expect(got).toEqual([1, 2]);
  });

  it("[C57] is still there when it has failed", async () => {
    const { server } = test;
    const got: unknown[] = [];
    test.connect().once("order", (message) => {
      got.push(message.data);
      if (got.length === 1) throw new Error("not yet");
    });
    server.putAll("order", [1, 2]);
    await until(() => expect(server.entries).toHaveLength(1));
    expect(got).toHaveLength(2);
    expect(test.errors.map(String)).toEqual(["Error: not yet"]);
  });
});

describe.each<Transport>(["websocket", "sse", "poll"])("questions over %s", (transport) => {
  it("[C58] the answer comes back to the one who asked", async () => {
    const { server } = test;
    const [asking, answering] = [test.connect({ transports: [transport] }), test.connect({ transports: [transport] })];
    // The fake server has one mailbox: what is sent comes back to both.
    server.delivers = true;
    answering.on("price", async (message) => {
      await answering.reply(message, { euros: 9 });
    });
    const answer = await asking.request("ann", "price", { pizza: 1 }, { timeoutMs: 5_000 });
    expect(answer.data).toEqual({ euros: 9 });
    const [question, reply] = server.sends;
    expect(question).toMatchObject({ to: { user: "ann" }, type: "price", ttl: 5, correlationid: expect.any(String) });
    expect(reply).toMatchObject({ to: { user: "ann" }, type: question?.replyto, correlationid: question?.correlationid });
    await until(() => expect(server.entries).toEqual([]));
    // The asking page was handed its own question, too; the other page had nobody for the answer, and that is nothing to warn of.
    expect(test.warnings).toEqual([expect.stringContaining('"price"')]);
  });
});

describe("questions", () => {
  it("[C58] one that nobody answers ends in time, and its answer then waits in vain without a word", async () => {
    const { server } = test;
    const handover = test.connect();
    const asking = handover.request("bob", "price", 1, { timeoutMs: 1_000 });
    // The time runs while the page still connects: what must be there before it ends is waited for, not counted on.
    const ended = expect(asking).rejects.toMatchObject({ code: "timeout", retryable: true });
    await until(() => expect(server.sends[0]).toMatchObject({ ttl: 1 }));
    await ended;
    server.put(server.sends[0]?.replyto as string, "late");
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([1]));
    expect(test.warnings).toEqual([]);
  });

  it("[C58] one that cannot be sent is refused with the server's problem, and a signal ends it", async () => {
    const { server } = test;
    const handover = test.connect();
    server.fateOfSend = () => ({ status: 403, code: "forbidden", retryable: false });
    await expect(handover.request("bob", "price")).rejects.toMatchObject({ code: "forbidden" });
    server.fateOfSend = () => "answer";
    const stop = new AbortController();
    const asking = handover.request("bob", "price", 1, { signal: stop.signal });
    stop.abort("enough");
    await expect(asking).rejects.toBe("enough");
    await expect(handover.request("bob", "price", 1, { signal: stop.signal })).rejects.toBe("enough");
  });

  it("[C58] what wants no answer, or comes from a service, cannot be answered", async () => {
    const handover = test.connect();
    const message = { id: "1", source: "/users/ann", from: "ann", type: "order", time: "2030-01-01T00:00:00Z", data: 1, deliveryCount: 1 };
    await expect(handover.reply(message)).rejects.toMatchObject({ code: "bad-request" });
    await expect(handover.reply({ ...message, from: undefined, replyto: "x" })).rejects.toMatchObject({ code: "bad-request" });
    expect(test.server.sends).toEqual([]);
  });
});

describe("signals", () => {
  it("[C59] end handlers, listeners, and the connection", async () => {
    const { server } = test;
    const stop = new AbortController();
    const { signal } = stop;
    const got: unknown[] = [];
    const handover = test.connect({ signal });
    const own = new AbortController();
    handover.on("order", (message) => got.push(message.data), own);
    handover.once("order", (message) => got.push(message.data), own);
    handover.onStatus((status) => got.push(status.state), own);
    handover.onSettled(() => got.push("settled"), own);
    handover.on("late", () => got.push("late"), { signal: AbortSignal.abort() });
    own.abort();
    await until(() => expect(handover.status.state).toBe("online"));
    server.put("order", 1);
    server.put("late", 1);
    await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([1, 2]));
    server.settle(1);
    expect(got).toEqual([]);
    await expect(handover.state("known", { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "connection-lost" });
    stop.abort();
    await until(() => expect(handover.status.state).toBe("closed"));
  });
});

describe("handlers that take too long", () => {
  it("[C60] are told to the developer, and their message is given back, so that their place is free", async () => {
    const { server } = test;
    const handover = test.connect({ window: 2, handlerTimeoutMs: 50, transports: ["poll"], timing: { pollWaitMs: 200 } });
    const got: unknown[] = [];
    const work = gate();
    handover.on("stuck", () => work.opened);
    handover.on("order", (message) => got.push(message.data));
    server.putAll("stuck", [1, 2]);
    await until(() => expect(server.acks.flatMap((ack) => ack.nack ?? [])).toHaveLength(2));
    server.put("order", 1);
    await until(() => expect(got).toEqual([1]));
    expect(test.errors).toMatchObject([{ code: "handler-timeout" }, { code: "handler-timeout" }]);
  });

  it("[C60] and end well after all: when the message comes again it is acknowledged, and not handled twice", async () => {
    const { server } = test;
    const handover = test.connect({ handlerTimeoutMs: 50 });
    const work = gate();
    let calls = 0;
    server.fateOfAck = (ack) => (ack.nack ? "mute" : "answer");
    handover.on("stuck", () => {
      calls++;
      return work.opened;
    });
    const seq = server.put("stuck", 1);
    await until(() => expect(test.errors).toHaveLength(1));
    work.open();
    await work.opened;
    server.fateOfAck = () => "answer";
    const [entry] = server.entries;
    server.entries = [];
    server.put("stuck", 1, entry?.event, 2);
    await until(() => expect(server.acks.flatMap((ack) => ack.seqs ?? [])).toEqual([seq + 1]));
    expect(calls).toBe(1);
  });

  it("[C60] with 0 they may take as long as they like", async () => {
    const { server } = test;
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      test
        .connect({ handlerTimeoutMs: 0, timing: { quietMs: 10 ** 9, answerMs: 10 ** 9, openMs: 10 ** 9 } })
        .on("order", () => new Promise(() => {}));
      server.put("order", 1);
      await vi.waitFor(() => expect(server.hellos).toHaveLength(1));
      await vi.advanceTimersByTimeAsync(10 ** 8);
      expect(server.acks).toEqual([]);
      expect(test.errors).toEqual([]);
    } finally {
      vi.useRealTimers();
    }
  });
});

it("[C61] what no handler wants is told to the developer, once for each type", async () => {
  const { server } = test;
  const handover = test.connect();
  server.putAll("late", [1, 2, 3]);
  server.put("other", 1);
  await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toEqual([1, 2, 3, 4]));
  expect(test.warnings).toHaveLength(2);
  expect(test.warnings[0]).toContain('"late"');
  expect(test.warnings[1]).toContain('"other"');
  const off = handover.on("late", () => {});
  await until(() => expect(server.entries).toHaveLength(1));
  off();
  server.put("late", 4);
  await until(() => expect(server.acks.flatMap((ack) => ack.hold ?? [])).toContain(5));
  expect(test.warnings).toHaveLength(2);
});
