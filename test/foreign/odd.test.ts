/**
 * The clients of `examples/` when the server says what it says seldom: what PROTOCOL.md asks of every client.
 * @module
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterAll, test } from "vitest";
import { describeWith, FOREIGN } from "../support/needs.ts";
import { CLIENTS, type Invocation, type Over, Running, WAYS } from "./client.ts";
import { delivery, event, type FakeServer, json, refuse, startFake, tell } from "./fake.ts";

const SOON = { timeout: 15_000, interval: 20 };

const running: Running[] = [];
const fakes: FakeServer[] = [];
afterAll(async () => {
  for (const each of running) await each.kill();
  for (const each of fakes) await each.close();
});

async function fake(...answer: Parameters<typeof startFake>): Promise<FakeServer> {
  const server = await startFake(...answer);
  fakes.push(server);
  return server;
}

function start(server: FakeServer, invocation: Invocation): Running {
  const client = new Running(server.url, invocation, "a-token");
  running.push(client);
  return client;
}

/** Where mail is asked for. */
const receiving = (over: Over) => (over === "poll" ? "POST /v1/poll" : "GET /v1/events");
/** The numbers that were acknowledged, beside a stream or with a poll. */
const acknowledged = (server: FakeServer) => server.asked.flatMap(({ body }) => body.seqs ?? body.ack?.seqs ?? []);

describeWith(FOREIGN, "foreign clients and rare answers", () => {
  test.concurrent.for(CLIENTS)(
    "[F11] $name: a send without an answer, or that may succeed later, is repeated under the same key",
    async (client, { expect }) => {
      const server = await fake((_asked, before, response) => {
        if (before === 0) response.destroy();
        else if (before === 1) refuse(response, 503, "store-unavailable", true);
        else json(response, 201, { id: "x", time: "t", ttl: 1, recipients: ["bob"] });
      });
      const send = start(server, client.send("bob", 1));
      expect(await send.ended(), send.err).toBe(0);
      expect(JSON.parse(send.out).id).toBe("x");
      const keys = server.of("POST /v1/messages").map(({ key }) => key);
      expect(keys).toEqual([keys[0], keys[0], keys[0]]);
      expect(String(keys[0]).length).toBeGreaterThan(15);
    },
  );

  test.concurrent.for(WAYS)(
    "[F12] $way: under a new epoch what was processed is acknowledged again and not processed again",
    async ({ client, over }, { expect }) => {
      const server = await fake((asked, before, response) => {
        if (asked.what === "POST /v1/ack") json(response, 200, { acked: 0 });
        else if (before === 0) tell(asked, response, { epoch: "one", deliveries: [delivery(7, "a"), delivery(8, "b")], cursor: 8 });
        else if (before === 1) tell(asked, response, { epoch: "two", deliveries: [delivery(1, "b"), delivery(2, "c")], cursor: 2 });
        else response.writeHead(200).flushHeaders();
      });
      const client1 = start(server, client.listen(over));
      await expect.poll(() => server.of(receiving(over)).length, SOON).toBe(3);
      expect(client1.messages.map(({ id }) => id)).toEqual(["a", "b", "c"]);
      expect(acknowledged(server)).toEqual(expect.arrayContaining([7, 8, 1, 2]));
      // No number of the old epoch is said under the new one.
      const late = server.asked.filter(({ body }) => body.epoch === "two");
      expect(late.flatMap(({ body }) => body.seqs ?? body.ack?.seqs ?? [])).toEqual([1, 2]);
      const [first, second] = server.of(receiving(over)).map(({ body, query }) => ({ epoch: body.epoch ?? query.get("epoch"), cursor: Number(body.cursor ?? query.get("cursor")) })); // biome-ignore format: as it is read
      expect(first?.epoch).toBeNull();
      expect(second).toEqual({ epoch: "one", cursor: 8 });
    },
  );

  test.concurrent.for(WAYS)("[F13] $way: a gap is told, and it goes on behind it", async ({ client, over }, { expect }) => {
    const server = await fake((asked, before, response) => {
      if (before === 0) tell(asked, response, { epoch: "one", gap: { from: 3, to: 9, reason: "expired" }, cursor: 9 });
      else response.writeHead(200).flushHeaders();
    });
    const listener = start(server, client.listen(over));
    await expect.poll(() => server.of(receiving(over)).length, SOON).toBe(2);
    const next = server.of(receiving(over))[1];
    expect(next?.body.cursor ?? Number(next?.query.get("cursor"))).toBe(9);
    expect(listener.err).toMatch(/3 to 9 ended before they came: expired/);
  });

  test.concurrent.for(CLIENTS)("[F14] $name: polls that end too early are not repeated at once", async (client, { expect }) => {
    const server = await fake((_asked, _before, response) => response.writeHead(204).end());
    const listener = start(server, client.listen("poll"));
    await expect.poll(() => server.asked.length, SOON).toBeGreaterThan(1);
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    // At most 0.25, 0.5, 1, 2, 4 s: without them there would be hundreds.
    expect(server.asked.length).toBeLessThan(25);
    expect(listener.isRunning, listener.err).toBe(true);
  });

  test.concurrent.for(CLIENTS)("[F15] $name: after a drain it comes back within its delay, where it was", async (client, { expect }) => {
    let drainedAtMs = 0;
    const server = await fake((asked, before, response) => {
      if (asked.what === "POST /v1/ack") return json(response, 200, { acked: 1 });
      tell(asked, response, { epoch: "one", deliveries: before === 0 ? [delivery(5, "a")] : [], cursor: 5 }, false);
      if (before === 0) {
        drainedAtMs = performance.now();
        return response.end(event("drain", { delay: 1 }));
      }
    });
    start(server, client.listen("events"));
    await expect.poll(() => server.of("GET /v1/events").length, SOON).toBe(2);
    const back = server.of("GET /v1/events")[1];
    expect(back?.query.get("epoch")).toBe("one");
    expect(back?.query.get("cursor")).toBe("5");
    expect((back?.atMs ?? 0) - drainedAtMs).toBeLessThan(4_000);
    await expect.poll(() => acknowledged(server), SOON).toContain(5);
  });

  test.concurrent.for(WAYS)(
    "[F16] $way: an acknowledgement whose answer was lost goes again, and nothing is processed again",
    async ({ client, over }, { expect }) => {
      const server = await fake((asked, before, response) => {
        const isAck = asked.what === "POST /v1/ack" || asked.body.ack?.seqs?.length;
        if (isAck && acknowledged(server).filter((seq) => seq === 5).length < 2) response.destroy();
        else if (asked.what === "POST /v1/ack") json(response, 200, { acked: 1 });
        else if (before === 0) tell(asked, response, { epoch: "one", deliveries: [delivery(5, "a")], cursor: 5 });
        else tell(asked, response, { epoch: "one", cursor: 5 });
      });
      const listener = start(server, client.listen(over));
      await expect.poll(() => acknowledged(server).filter((seq) => seq === 5).length, SOON).toBe(2);
      expect(listener.messages.length).toBe(1);
      expect(listener.isRunning, listener.err).toBe(true);
    },
  );

  test.concurrent("[F17] python: a token that has expired is asked for anew, once; refused again, it ends with the reason", async ({ expect }) => {
    const server = await fake((asked, _before, response) => {
      if (asked.token === "Bearer token-2") json(response, 201, { id: "x" });
      else refuse(response, 401, "token-expired", false);
    });
    const script = `
tokens = iter(["token-1", "token-2"])
print(Client(URL, lambda: next(tokens)).send("bob", "t", 1)["id"])
for over in ("poll", "events"):
    asked = []
    try:
        Client(URL, lambda: asked.append(1) or f"other-{len(asked)}").receive(print, over)
    except Problem as problem:
        print(over, problem.code, len(asked))
`;
    const python = start(server, { command: pythonScript(server, script) });
    expect(await python.ended(), python.err).toBe(0);
    expect(python.out.trim().split("\n")).toEqual(["x", "poll token-expired 2", "events token-expired 2"]);
  });

  test.concurrent("[F18] python: Reject gives a message up, stop ends it after the message in hand, and waits are not before Retry-After", async ({
    expect,
  }) => {
    const server = await fake((asked, before, response) => {
      if (asked.what === "POST /v1/ack") json(response, 200, { acked: 1 });
      else if (before === 0) refuse(response, 503, "draining", true, { "Retry-After": "1" });
      else tell(asked, response, { epoch: "one", deliveries: [delivery(5, "a"), delivery(6, "b"), delivery(7, "c")], cursor: 7 });
    });
    const script = `
client = Client(URL, "token")
def process(event):
    print(event["id"])
    if event["id"] == "a": raise Reject("not a form")
    client.stop()
client.receive(process)
`;
    const python = start(server, { command: pythonScript(server, script) });
    expect(await python.ended(), python.err).toBe(0);
    expect(python.out).toBe("a\nb\n");
    expect(server.of("POST /v1/ack").map(({ body }) => body)).toMatchObject([
      { epoch: "one", seqs: [6], reject: [{ seq: 5, reason: "not a form" }] },
    ]);
    const [first, second] = server.of("POST /v1/poll");
    expect((second?.atMs ?? 0) - (first?.atMs ?? 0)).toBeGreaterThan(950);
  });

  test.concurrent("[F19] curl: no command line shows a credential", async ({ expect }) => {
    const server = await fake((_asked, _before, response) => response.writeHead(200).flushHeaders());
    for (const over of ["poll", "events"] as const) start(server, CLIENTS[0].listen(over));
    await expect.poll(() => server.asked.length, SOON).toBe(2);
    const lines = spawnSync("sh", ["-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout.toString();
    expect(lines).toContain(server.url);
    expect(lines).not.toContain("a-token");
  });
});

function pythonScript(server: FakeServer, text: string): string[] {
  const folder = fileURLToPath(new URL("../../examples/python", import.meta.url));
  const head = `import sys; sys.path.insert(0, ${JSON.stringify(folder)})\nfrom handover import *\nfrom handover import Problem, Reject\nURL = ${JSON.stringify(server.url)}\n`;
  return ["python3", "-c", head + text];
}
