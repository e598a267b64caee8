/**
 * Clients that are not ours: `examples/curl` and `examples/python` against the real server, by long polling and by server-sent events.
 * @module
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { call } from "../../src/testing/wire.ts";
import { CommandServer } from "../support/command.ts";
import { describeWith, FOREIGN } from "../support/needs.ts";
import { SERVICE_CREDENTIAL } from "../support/started.ts";
import { CLIENTS, type Invocation, Running, run, tokenOf, WAYS } from "./client.ts";

const SOON = { timeout: 15_000, interval: 20 };

let folder = "";
let server: CommandServer;
beforeAll(async () => {
  if (!FOREIGN.isThere) return;
  folder = await mkdtemp(join(tmpdir(), "handover-foreign-"));
  server = await CommandServer.start(0, join(folder, "data"));
});
const started: Running[] = [];
afterAll(async () => {
  // Tests go on beside each other: nobody's client is ended before all are done.
  await Promise.all(started.map((running) => running.kill()));
  await server?.kill();
  await rm(folder, { recursive: true, force: true });
});

function listen(invocation: Invocation, user: string, seconds?: number): Running {
  const running = new Running(server.url, invocation, tokenOf(user, seconds));
  started.push(running);
  return running;
}

let users = 0;
/** A user whom no other test knows. */
const newUser = () => `user-${++users}`;

/** Sends past the client that is tested. @returns the id */
async function send(to: string, data: unknown = null): Promise<string> {
  const { status, body } = await call(`${server.url}/v1/messages`, {
    token: SERVICE_CREDENTIAL,
    body: { to: { user: to }, type: "form.data", data },
  });
  expect(status).toBe(201);
  return (body as { id: string }).id;
}

async function stateOf(id: string): Promise<string | undefined> {
  const { body } = await call(`${server.url}/v1/messages/${id}`, { token: SERVICE_CREDENTIAL });
  return (body as { recipients: { state: string }[] }).recipients[0]?.state;
}

const DATA = { text: "quotes \" ' \\ and \t tabs\nand lines", emoji: "ü 😀", number: 0.1, nothing: null, list: [1, [], {}] };

// A dozen programs start at once, one for each step; on a slow machine a test takes longer than the usual 20 s.
vi.setConfig({ testTimeout: 60_000 });

describeWith(FOREIGN, "foreign clients", () => {
  test.concurrent.for(CLIENTS)("[F1] $name: a session, sending with key, TTL and topic, the state, taking back", async (client, { expect }) => {
    const user = newUser();
    const token = (await run(server.url, client.session(`${user}-sender`))).trim();
    const how = { key: "the same", ttl: 60, topic: "form" };
    const first = JSON.parse(await run(server.url, client.send(user, DATA, how), token));
    expect(first).toMatchObject({ ttl: 60, recipients: [user] });
    // The same key is the same message.
    expect(JSON.parse(await run(server.url, client.send(user, DATA, how), token))).toEqual(first);
    const second = JSON.parse(await run(server.url, client.send(user, DATA, { ...how, key: "another" }), token));
    expect(await stateOf(first.id)).toBe("replaced");
    const state = async () => JSON.parse(await run(server.url, client.state(second.id), token)).recipients;
    expect(await state()).toEqual([{ user, state: "waiting" }]);
    expect(JSON.parse(await run(server.url, client.takeBack(second.id), token))).toEqual({ evicted: 1 });
    expect(await state()).toMatchObject([{ user, state: "evicted" }]);
  });

  test.concurrent.for(CLIENTS)("[F2] $name: a refusal is shown with what to do, and ends it with a status", async (client, { expect }) => {
    const user = newUser();
    await run(server.url, client.send(user, 1, { key: `used by ${client.name}` }));
    for (const [invocation, token, detail] of [
      [client.send(user, 2, { key: `used by ${client.name}` }), undefined, /key/],
      [client.send("not a name", 1), undefined, /A-Z a-z 0-9/],
      [client.state("nothing"), undefined, /No message of yours/],
      [client.session("a b"), undefined, /A-Z a-z 0-9/],
      [client.listen("poll"), "not-a-token", /The token is not valid here/],
      [client.listen("events"), "not-a-token", /The token is not valid here/],
    ] as const) {
      const running = new Running(server.url, invocation, token);
      started.push(running);
      expect(await running.ended(), invocation.command.join(" ")).toBe(1);
      expect(running.err).toMatch(detail);
      expect(running.out).toBe("");
    }
  });

  test.concurrent.for(WAYS)(
    "[F3] $way: what one sends the other receives, as it was, in order; then it is acknowledged",
    async ({ client, over }, { expect }) => {
      const user = newUser();
      const listener = listen(client.listen(over), user);
      const ids = [await send(user, DATA)];
      for (const n of [1, 2]) ids.push(JSON.parse(await run(server.url, client.send(user, n), tokenOf("alice"))).id);
      await expect.poll(() => listener.messages.length, SOON).toBe(3);
      expect(listener.messages.map(({ id }) => id)).toEqual(ids);
      expect(listener.messages[0]).toMatchObject({ source: "/services/desk", type: "form.data", data: DATA, deliverycount: 1 });
      expect(listener.messages[1]).toMatchObject({ source: "/users/alice", data: 1 });
      for (const id of ids) await expect.poll(() => stateOf(id), SOON).toBe("acked");
    },
  );

  test.concurrent.for(WAYS)("[F4] $way: nothing is acknowledged before it is processed", async ({ client, over }, { expect }) => {
    const [user, done] = [newUser(), join(folder, `${client.name}-${over}-done`)];
    const listener = listen(client.listen(over, `cat; while ! test -e ${done}; do sleep 0.05; done`), user);
    const id = await send(user);
    await expect.poll(() => listener.messages.length, SOON).toBe(1);
    // A request made after it was received is answered: an acknowledgement made then would have been carried out.
    await send(newUser());
    expect(await stateOf(id)).toBe("waiting");
    await writeFile(done, "");
    await expect.poll(() => stateOf(id), SOON).toBe("acked");
  });

  test.concurrent.for(WAYS)(
    "[F5] $way: killed between receiving and acknowledging, it gets the message again",
    async ({ client, over }, { expect }) => {
      const user = newUser();
      const id = await send(user);
      const first = listen(client.listen(over, "cat; sleep 60", "desk"), user);
      await expect.poll(() => first.messages.length, SOON).toBe(1);
      await first.kill();
      expect(await stateOf(id)).toBe("waiting");
      const second = listen(client.listen(over, undefined, "desk"), user);
      // Handed out twice, and given back by nobody: the count stays.
      await expect.poll(() => second.messages.map((message) => [message.id, message.deliverycount]), SOON).toEqual([[id, 1]]);
      await expect.poll(() => stateOf(id), SOON).toBe("acked");
    },
  );

  test.concurrent.for(WAYS)("[F6] $way: a token that expires while it waits ends it with a clear message", async ({ client, over }, { expect }) => {
    const user = newUser();
    const listener = listen(client.listen(over), user, 6);
    await send(user);
    await expect.poll(() => listener.messages.length, SOON).toBe(1);
    expect(await listener.ended()).toBe(1);
    expect(listener.err).toMatch(/token has expired\. Ask the backend for a new one/);
  });

  test.concurrent.for(WAYS)("[F7] $way: what could not be processed comes again, counted", async ({ client, over }, { expect }) => {
    const [user, tried] = [newUser(), join(folder, `${client.name}-${over}-tried`)];
    // The first try fails.
    const listener = listen(client.listen(over, `cat; test -e ${tried} || { touch ${tried}; exit 1; }`), user);
    const id = await send(user);
    await expect.poll(() => listener.messages.map((message) => [message.id, message.deliverycount]), SOON).toEqual([[id, 1], [id, 2]]); // biome-ignore format: as it is read
    await expect.poll(() => stateOf(id), SOON).toBe("acked");
  });

  test.concurrent.for(WAYS)(
    "[F8] $way: of two receivers of one user the first acknowledgement settles, and the other is told",
    async ({ client, over }, { expect }) => {
      const [user, go] = [newUser(), join(folder, `${client.name}-${over}-go`)];
      const slow = listen(client.listen(over, `cat; while ! test -e ${go}; do sleep 0.05; done`), user);
      const id = await send(user);
      await expect.poll(() => slow.messages.length, SOON).toBe(1);
      const quick = listen(client.listen(over), user);
      await expect.poll(() => quick.messages.map((message) => message.id), SOON).toEqual([id]);
      await expect.poll(() => stateOf(id), SOON).toBe("acked");
      await writeFile(go, "");
      await expect.poll(() => slow.err, SOON).toMatch(/settled elsewhere/);
      expect(quick.err).toBe("");
      // Both go on.
      const next = await send(user);
      for (const each of [slow, quick]) await expect.poll(() => each.messages.at(-1)?.id, SOON).toBe(next);
    },
  );

  test.concurrent.for(CLIENTS)("[F9] $name: every command of its README does what it says there", async (client, { expect }) => {
    const readme = await readFile(new URL(`../../examples/${client.name}/README.md`, import.meta.url), "utf8");
    const blocks = [...readme.matchAll(/```sh\n(.*?)```/gs)].map(([, commands]) => commands);
    expect(blocks.length).toBeGreaterThan(1);
    // As somebody would type them, one after the other.
    const running = new Running(server.url, { command: ["bash", "-euc", blocks.join("\n")] });
    started.push(running);
    const answers = [...readme.matchAll(/^# → (.*)$/gm)].map(([, answer = ""]) => answer);
    expect(answers.length).toBeGreaterThan(1);
    expect(await running.ended(), running.err).toBe(0);
    let from = 0;
    for (const answer of answers) {
      const place = running.out.indexOf(answer, from);
      expect(place, `${answer} in ${running.out.slice(from)}`).toBeGreaterThanOrEqual(0);
      from = place + answer.length;
    }
  });
});
