/**
 * The SDK and the real server: what both promise together.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { type ConnectOptions, connect, type Handover, type Transport } from "../../src/client/index.ts";
import { until } from "./rig.ts";

const COMMAND = fileURLToPath(new URL("../../src/cli.ts", import.meta.url));
const SERVICE_KEY = "service-key-of-this-test-only";
const TOKEN_SECRET = "token-secret-of-this-test-only-0123456789";

let data: string;
let server: ChildProcess;
let url: string;
const clients: Handover[] = [];
let users = 0;

/** A name that no other test uses: a mailbox of its own. */
const newUser = (name: string) => `${name}-${++users}`;

async function start(port: string): Promise<void> {
  const env = { PATH: process.env.PATH, HANDOVER_SERVICE_KEY: SERVICE_KEY, HANDOVER_TOKEN_SECRET: TOKEN_SECRET };
  server = spawn(process.execPath, [COMMAND, "serve", "--host", "127.0.0.1", "--port", port, "--data", data], { env });
  let output = "";
  server.stderr?.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  url = await new Promise<string>((resolve, reject) => {
    server.stdout?.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      const found = /http:\/\/127\.0\.0\.1:[1-9]\d*/.exec(output);
      if (found) resolve(found[0]);
    });
    server.once("exit", (code) => reject(new Error(`The server ended with ${code}:\n${output}`)));
  });
}

async function kill(): Promise<void> {
  const gone = once(server, "exit");
  server.kill("SIGKILL");
  await gone;
}

async function newToken(user: string): Promise<string> {
  const response = await fetch(`${url}/v1/sessions`, {
    method: "POST",
    headers: { authorization: `Bearer ${SERVICE_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ user }),
  });
  expect(response.status).toBe(201);
  return ((await response.json()) as { token: string }).token;
}

function open(user: string, options: Partial<ConnectOptions> = {}): Handover {
  const client = connect(url, { token: () => newToken(user), onError: () => {}, ...options });
  clients.push(client);
  return client;
}

beforeAll(async () => {
  data = await mkdtemp(join(tmpdir(), "handover-sdk-"));
  await start("0");
});
afterEach(async () => {
  vi.unstubAllGlobals();
  await Promise.all(clients.splice(0).map((client) => client.close()));
});
afterAll(async () => {
  await kill();
  await rm(data, { recursive: true, force: true });
});

describe.each<Transport>(["websocket", "sse", "poll"])("with the real server, over %s", (transport) => {
  const transports = [transport];

  it("[C1] hands a message over; the sender sees that it was processed", async () => {
    const [ann, bob] = [newUser("ann"), newUser("bob")];
    const sender = open(ann, { transports });
    const value = { text: 'a <b> "q" 🍕\n', list: [null, 1e300, -0.5, "", {}] };
    const sent = await sender.send(bob, "order", value, { ttl: 600, subject: "s", correlationid: "c" });
    expect(sent).toMatchObject({ ttl: 600, recipients: [bob] });
    expect((await sender.state(sent.id)).recipients).toMatchObject([{ user: bob, state: "waiting" }]);
    const got: unknown[] = [];
    open(bob, { transports }).on("order", (message) => got.push(message));
    await until(async () => expect((await sender.state(sent.id)).recipients).toMatchObject([{ user: bob, state: "acked" }]));
    expect(got).toMatchObject([{ id: sent.id, from: ann, type: "order", data: value, subject: "s", correlationid: "c", deliveryCount: 1 }]);
  });

  it("[C2] a message whose handler failed comes again", async () => {
    const [ann, bob] = [newUser("ann"), newUser("bob")];
    const counts: number[] = [];
    open(bob, { transports }).on("order", (message) => {
      counts.push(message.deliveryCount);
      if (counts.length === 1) throw new Error("not yet");
    });
    const sender = open(ann, { transports });
    const { id } = await sender.send(bob, "order");
    await until(async () => expect((await sender.state(id)).recipients[0]?.state).toBe("acked"));
    expect(counts).toEqual([1, 2]);
  });

  it("[C3] what no handler wants waits, and goes when one comes", async () => {
    const [ann, bob] = [newUser("ann"), newUser("bob")];
    const [sender, receiver] = [open(ann, { transports }), open(bob, { transports, window: 1 })];
    const done: unknown[] = [];
    receiver.on("mark", (message) => done.push(message.data));
    const { id } = await sender.send(bob, "late", 1);
    await sender.send(bob, "mark", 2);
    // The window of one is free again: what is held is not in flight.
    await until(() => expect(done).toEqual([2]));
    expect((await sender.state(id)).recipients[0]?.state).toBe("waiting");
    receiver.on("late", (message) => done.push(message.data));
    await until(async () => expect((await sender.state(id)).recipients[0]?.state).toBe("acked"));
    expect(done).toEqual([2, 1]);
  });

  it("[C30] 1,000 messages that no handler wants and one whose handler never ends stop nothing; a page with its window full of such stops only itself", async () => {
    const [ann, bob] = [newUser("ann"), newUser("bob")];
    const sender = open(ann);
    const [got, late]: [unknown[], unknown[]] = [[], []];
    const stuck: (() => void)[] = [];
    const page = open(bob, { transports });
    page.on("order", (message) => got.push(message.data));
    page.on("stuck", () => new Promise<void>((resolve) => stuck.push(resolve)));
    await sender.send(bob, "stuck");
    const unwanted = Array.from({ length: 1_003 }, (_, n) => n);
    const sent = await Promise.all(unwanted.map((n) => sender.send(bob, "late", n)));
    await sender.send(bob, "order", 1);
    await until(() => expect(got).toEqual([1]));
    // 31 more, and there is no place left.
    await Promise.all(Array.from({ length: 31 }, () => sender.send(bob, "stuck")));
    await until(() => expect(stuck).toHaveLength(32));
    const { id } = await sender.send(bob, "order", 2);
    const other = open(bob, { transports });
    other.on("order", (message) => got.push(`other ${message.data}`));
    await until(async () => expect((await sender.state(id)).recipients[0]?.state).toBe("acked"));
    expect(got).toEqual([1, "other 2"]);
    await other.close();
    // One ends after all: the page goes on.
    stuck[5]?.();
    await sender.send(bob, "order", 3);
    await until(() => expect(got).toEqual([1, "other 2", 3]));
    page.on("late", (message) => late.push(message.data));
    await until(async () => expect((await sender.state(sent.at(-1)?.id ?? "")).recipients[0]?.state).toBe("acked"));
    // It remembers 1,000; the oldest stay in the mailbox for the next page.
    expect(late.splice(0)).toEqual(unwanted.slice(3));
    await page.close();
    open(bob, { transports }).on("late", (message) => late.push(message.data));
    await until(async () => expect((await sender.state(sent[2]?.id ?? "")).recipients[0]?.state).toBe("acked"));
    expect(late).toEqual([0, 1, 2]);
  });

  it("[C24] one reader's acknowledgement is told to the other", async () => {
    const [ann, bob] = [newUser("ann"), newUser("bob")];
    const [one, two] = [open(bob, { transports }), open(bob, { transports })];
    const settled: string[] = [];
    two.onSettled((message) => settled.push(message.id));
    await until(() => expect([one.status.state, two.status.state]).toEqual(["online", "online"]));
    const held = new Promise<void>((resolve) => {
      two.on("order", () => new Promise(() => resolve()));
    });
    const { id } = await open(ann).send(bob, "order");
    await held;
    one.on("order", () => {});
    await until(() => expect(settled).toEqual([id]));
  });

  it("[C13] kill -9 in the middle of the traffic: every accepted message is handled, each once", async () => {
    const [ann, bob] = [newUser("ann"), newUser("bob")];
    const [sender, receiver] = [open(ann, { transports }), open(bob, { transports })];
    const got: number[] = [];
    receiver.on("order", async (message) => {
      got.push(message.data as number);
      await new Promise((resolve) => setImmediate(resolve));
    });
    const sends: Promise<unknown>[] = [];
    let answered = 0;
    const traffic = setInterval(() => {
      // Fewer than the SDK keeps while the server is away.
      if (sends.length - answered < 500) sends.push(sender.send(bob, "order", sends.length).then(() => answered++));
    }, 10);
    try {
      for (let round = 1; round <= 2; round++) {
        const before = got.length;
        await until(() => expect(got.length).toBeGreaterThan(before + 20), 30_000);
        await kill();
        await start(new URL(url).port);
      }
    } finally {
      clearInterval(traffic);
    }
    await Promise.all(sends);
    await until(() => expect(got).toHaveLength(sends.length), 30_000);
    expect([...got].sort((a, b) => a - b)).toEqual(sends.map((_, index) => index));
  }, 120_000);
});

it("[C17] with the real server: changes from polling to WebSocket in the middle of the traffic", async () => {
  const [ann, bob] = [newUser("ann"), newUser("bob")];
  const sender = open(ann);
  await until(() => expect(sender.status.transport).toBe("websocket"));
  vi.stubGlobal("WebSocket", undefined);
  const receiver = open(bob, { transports: ["websocket", "poll"], timing: { probeMs: 50, probeMaxMs: 50 } });
  const got: unknown[] = [];
  receiver.on("order", (message) => got.push(message.data));
  await until(() => expect(receiver.status.transport).toBe("poll"));
  const statuses: unknown[] = [];
  receiver.onStatus((status) => statuses.push(status.transport ?? status));
  const sends: Promise<{ readonly id: string }>[] = [];
  const traffic = setInterval(() => sends.push(sender.send(bob, "order", sends.length)), 2);
  await until(() => expect(got.length).toBeGreaterThan(20));
  vi.unstubAllGlobals();
  await until(() => expect(receiver.status.transport).toBe("websocket"));
  const changedAt = got.length;
  await until(() => expect(got.length).toBeGreaterThan(changedAt + 20));
  clearInterval(traffic);
  const sent = await Promise.all(sends);
  await until(() => expect(got).toEqual(sent.map((_, index) => index)));
  for (const { id } of sent) await until(async () => expect((await sender.state(id)).recipients[0]?.state).toBe("acked"));
  expect(statuses).toEqual(["websocket"]);
});

it("[C12] with the real server: a service sends with its key", async () => {
  const bob = newUser("bob");
  const service = open("", { token: () => SERVICE_KEY, timing: { quietMs: 50 } });
  const got: unknown[] = [];
  open(bob).on("order", (message) => got.push([message.source, message.from]));
  await service.send(bob, "order");
  await until(() => expect(got).toEqual([["/services/backend", undefined]]));
  // Its checks of a quiet connection do not end it.
  const statuses: unknown[] = [];
  service.onStatus((status) => statuses.push(status));
  for (let index = 0; index < 5; index++) {
    await service.state("none").catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  expect(statuses).toEqual([]);
});

it("[C15] with the real server: its problems arrive as they are", async () => {
  const sender = open(newUser("ann"));
  await expect(sender.send("not a user name!", "order")).rejects.toMatchObject({ code: "bad-request", status: 400 });
  await expect(sender.send({ session: "s" }, "order")).rejects.toMatchObject({ code: "forbidden", status: 403 });
  await expect(sender.send("bob", "order", "x".repeat(300_000))).rejects.toMatchObject({ code: "too-large", status: 413 });
  await expect(sender.send("bob", "order", 1, { ttl: -1 })).rejects.toMatchObject({ code: "bad-request" });
  await expect(sender.state("nothing")).rejects.toMatchObject({ code: "unknown", status: 404 });
  expect(sender.status.state).toBe("online");
});
