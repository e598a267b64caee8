import { describe, expect, it, vi } from "vitest";
import { HandoverError, type Transport } from "../../src/client/index.ts";
import { gate, rig, until } from "./rig.ts";

const test = rig();

describe.each<Transport>(["websocket", "sse", "poll"])("sending over %s", (transport) => {
  const transports = [transport];

  it("[C12] resolves with what the server granted, and sends every field as it was given", async () => {
    const { server } = test;
    const handover = test.connect({ transports });
    const data = { text: 'a <b> "quoted" 🍕\n', list: [1, null, -0.5] };
    const options = { ttl: 60, topic: "t", urgency: "high", subject: "s", correlationid: "c", replyto: "/r" } as const;
    const sent = await handover.send("bob", "order", data, options);
    expect(sent).toEqual({ id: "s1", time: "2030-01-01T00:00:00Z", ttl: 60, recipients: ["bob"] });
    const { idempotencyKey, ...rest } = server.sends[0] ?? {};
    expect(rest).toEqual({ via: transport === "websocket" ? transport : "http", to: { user: "bob" }, type: "order", data, ...options });
    expect(idempotencyKey).toMatch(/^[0-9a-f]{32}$/);
    await handover.send({ group: "team" }, "order");
    await handover.send({ users: ["a", "b"] }, "order", 1, { idempotencyKey: "mine" });
    expect(server.sends.map((send) => send.to)).toEqual([{ user: "bob" }, { group: "team" }, { users: ["a", "b"] }]);
    expect(server.sends[2]?.idempotencyKey).toBe("mine");
    expect(server.sends[1]?.idempotencyKey).not.toBe(idempotencyKey);
  });

  it("[C13] a send whose answer was lost is sent again with the same key, and stored once", async () => {
    const { server } = test;
    server.fateOfSend = () => (server.sends.length === 1 ? "lose" : "answer");
    const handover = test.connect({ transports });
    const sent = await handover.send("bob", "order", 1);
    expect(sent.id).toBe("s1");
    expect(server.sends).toHaveLength(2);
    expect(server.sends[1]).toEqual(server.sends[0]);
    expect(server.stored.size).toBe(1);
  });

  it("[C14] sends made without a connection wait, and go in their order when it comes", async () => {
    const { server } = test;
    server.webSocket = "refuse";
    server.cutsPolls = true;
    const handover = test.connect({ transports });
    const sends = [1, 2, 3].map((data) => handover.send("bob", "order", data));
    await until(() => expect(handover.status.state).toBe("offline"));
    expect(server.sends).toEqual([]);
    server.webSocket = "open";
    server.cutsPolls = false;
    await Promise.all(sends);
    expect(server.sends.map((send) => send.data)).toEqual([1, 2, 3]);
  });

  it("[C15] waits and tries again when told to, and rejects what cannot succeed", async () => {
    const { server } = test;
    const handover = test.connect({ transports });
    const answers: Record<string, number> = {};
    server.fateOfSend = (message) => {
      const count = (answers[message.type] ?? 0) + 1;
      answers[message.type] = count;
      if (message.type === "busy" && count < 3) return { status: 429, code: "rate-limited", retryable: true, retryAfter: 0 };
      if (message.type === "first" && count < 2) return { status: 409, code: "in-progress", retryable: true };
      if (message.type === "down" && count < 2) return { status: 503, code: "draining", retryable: true };
      if (message.type === "full") return { status: 507, code: "mailbox-full", retryable: true, detail: "bob's mailbox is full." };
      if (message.type === "no") return { status: 403, code: "forbidden", retryable: false };
      if (message.type === "bug") return { status: 500, code: "internal", retryable: true };
      return "answer";
    };
    await Promise.all(["busy", "first", "down"].map((type) => handover.send("bob", type)));
    await expect(handover.send("bob", "full")).rejects.toMatchObject({ code: "mailbox-full", status: 507, detail: "bob's mailbox is full." });
    const refused = await handover.send("bob", "no").catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(HandoverError);
    expect(refused).toMatchObject({ code: "forbidden", status: 403, retryable: false });
    vi.spyOn(Math, "random").mockReturnValue(0);
    await expect(handover.send("bob", "bug")).rejects.toMatchObject({ code: "internal", retryable: true });
    vi.restoreAllMocks();
    expect(answers).toEqual({ busy: 3, first: 2, down: 2, full: 1, no: 1, bug: 5 });
  });

  it("[C15] does not come back before Retry-After", async () => {
    const { server } = test;
    const times: number[] = [];
    server.fateOfSend = () => {
      times.push(performance.now());
      return times.length === 1 ? { status: 429, code: "rate-limited", retryable: true, retryAfter: 1 } : "answer";
    };
    await test.connect({ transports }).send("bob", "order");
    const [first = 0, second = 0] = times;
    expect(second - first).toBeGreaterThan(950);
  });

  it("[C14] a signal ends the waiting with its own reason", async () => {
    const { server } = test;
    server.webSocket = "refuse";
    server.cutsPolls = true;
    const handover = test.connect({ transports });
    const stop = new AbortController();
    const sending = handover.send("bob", "order", 1, { signal: stop.signal });
    stop.abort(new Error("changed my mind"));
    await expect(sending).rejects.toThrow("changed my mind");
    await expect(handover.send("bob", "order", 2, { signal: stop.signal })).rejects.toThrow("changed my mind");
    const kept = handover.send("bob", "order", 3);
    server.webSocket = "open";
    server.cutsPolls = false;
    await kept;
    expect(server.sends.map((send) => send.data)).toEqual([3]);
  });
});

it("[C12] sends of one turn share frames of at most 100 messages and 1 MiB", async () => {
  const { server } = test;
  const handover = test.connect({ transports: ["websocket"] });
  await until(() => expect(handover.status.state).toBe("online"));
  await Promise.all(Array.from({ length: 250 }, (_, index) => handover.send("bob", "order", index)));
  expect(server.sendFrames).toBe(3);
  expect(server.sends.map((send) => send.data)).toEqual(Array.from({ length: 250 }, (_, index) => index));
  // 10 × 200 KB of text that is two bytes a character: three to a frame. The server's `ws` would refuse one above 1 MiB.
  await Promise.all(Array.from({ length: 10 }, () => handover.send("bob", "order", "ä".repeat(100_000))));
  expect(server.sendFrames).toBe(7);
  expect(server.stored.size).toBe(260);
});

it("[C12] a message that no frame can hold is refused here, without breaking the connection", async () => {
  const handover = test.connect({ transports: ["websocket"] });
  await expect(handover.send("bob", "order", "x".repeat(1_048_576))).rejects.toMatchObject({ code: "too-large", retryable: false });
  await handover.send("bob", "order", 1);
  expect(test.server.hellos).toHaveLength(1);
});

it("[C12] data that is not JSON is refused, and what is changed after the call is not sent", async () => {
  const handover = test.connect();
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  await expect(handover.send("bob", "order", loop)).rejects.toMatchObject({ code: "bad-request" });
  const data = { count: 1 };
  const sending = handover.send("bob", "order", data);
  data.count = 2;
  await sending;
  expect(test.server.sends[0]?.data).toEqual({ count: 1 });
});

it("[C13] a send whose answer was lost with the WebSocket is repeated over another transport with the same key", async () => {
  const { server } = test;
  server.fateOfSend = (message) => {
    if (message.via === "http") return "answer";
    server.webSocket = "refuse";
    return "lose";
  };
  const handover = test.connect({ timing: { probeMs: 60_000 } });
  await handover.send("bob", "order", 1);
  expect(server.sends.map((send) => send.via)).toEqual(["websocket", "http"]);
  expect(server.sends[0]?.idempotencyKey).toBe(server.sends[1]?.idempotencyKey);
  expect(server.stored.size).toBe(1);
  expect(handover.status).toMatchObject({ state: "online", transport: "sse" });
});

it("[C12] over polling sends go one after another, so that they are accepted in the order of the calls", async () => {
  const { server } = test;
  const release = gate();
  server.sendGate = release.opened;
  const handover = test.connect({ transports: ["poll"] });
  const sends = [1, 2, 3].map((data) => handover.send("bob", "order", data));
  await until(() => expect(server.sends).toHaveLength(1));
  // A request made later has been here.
  await handover.state("known");
  expect(server.sends.map((send) => send.data)).toEqual([1]);
  release.open();
  await Promise.all(sends);
  expect(server.sends.map((send) => send.data)).toEqual([1, 2, 3]);
});

it.each([4401, 4409, 4503, 1006])("[C13] a send that is under way when the connection ends with %i goes again on the next", async (code) => {
  const { server } = test;
  server.fateOfSend = () => (server.sends.length === 1 ? "mute" : "answer");
  const handover = test.connect({ transports: ["websocket"] });
  const sending = handover.send("bob", "order", 1);
  await until(() => expect(server.sends).toHaveLength(1));
  if (code === 1006) server.cut();
  else server.closeSockets(code);
  await expect(sending).resolves.toMatchObject({ id: "s1" });
  expect(server.sends[1]).toEqual(server.sends[0]);
});

it("[C14] no more than 1,000 sends wait without a connection", async () => {
  const { server } = test;
  server.webSocket = "refuse";
  server.cutsPolls = true;
  const handover = test.connect();
  const sends = Array.from({ length: 1_000 }, (_, index) => handover.send("bob", "order", index));
  await expect(handover.send("bob", "order", "one too many")).rejects.toMatchObject({ code: "outbox-full", retryable: true });
  server.webSocket = "open";
  const sent = await Promise.all(sends);
  expect(new Set(sent.map(({ id }) => id)).size).toBe(1_000);
  expect(server.stored.size).toBe(1_000);
});

it("[C28] gives the state of a message, or the server's problem", async () => {
  const handover = test.connect();
  expect(await handover.state("known")).toEqual({ id: "known", recipients: [{ user: "bob", state: "waiting" }] });
  await expect(handover.state("other")).rejects.toMatchObject({ code: "unknown", status: 404, detail: "There is no such message." });
});
