/**
 * What a reader that does not read costs the server: its own process, so that its memory can be measured.
 * @module
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { call, openSocket, signToken } from "../src/testing/wire.ts";
import { EventStream } from "../src/testing/wire-sse.ts";
import { CommandServer } from "./support/command.ts";
import { freePort } from "./support/port.ts";
import { TOKEN_SECRET } from "./support/started.ts";

const MIB = 1_048_576;
const token = (user: string) => signToken(TOKEN_SECRET, { sub: user, sid: "s", aud: "handover", exp: Math.floor(Date.now() / 1000) + 600 });

let server: CommandServer | undefined;
let data = "";
afterAll(async () => {
  await server?.kill();
  await rm(data, { recursive: true, force: true });
});

test("[K8] 50 MB for five clients that do not read stay on disk: memory is bounded, nothing is lost, and others are served", {
  timeout: 120_000,
}, async () => {
  data = await mkdtemp(join(tmpdir(), "handover-slow-"));
  server = await CommandServer.start(await freePort(), data);
  const { url } = server;
  const text = "x".repeat(250_000);
  const send = async (to: string, n: number) => {
    const answer = await call(`${url}/v1/messages`, { token: token("alice"), body: { to: { user: to }, type: "t", data: { n, text } } });
    expect(answer.status).toBe(201);
  };
  // What the store and the runtime take at work, before it matters.
  for (let n = 0; n < 60; n++) await send("warm-up", n);
  const bob = { token: token("bob"), window: 1_000 };
  const sockets = await Promise.all(["1", "2", "3"].map((receiver) => openSocket(url, { ...bob, receiver })));
  const streams = await Promise.all(
    ["4", "5"].map((receiver) => EventStream.open({ url, token: bob.token, query: { receiver, window: bob.window } })),
  );
  const stuck = [...sockets, ...streams];
  for (const each of stuck) each.pause();
  const before = server.residentBytes;
  let highest = 0;
  for (let n = 0; n < 200; n++) {
    await send("bob", n);
    highest = Math.max(highest, server.residentBytes);
  }
  console.log(
    `resident: ${Math.round(before / MIB)} MiB before, at most ${Math.round(highest / MIB)} MiB while 5 × 50 MB waited for readers that do not read`,
  );
  expect(highest - before).toBeLessThan(150 * MIB);
  const well = await openSocket(url, { token: token("carol"), receiver: "r" });
  await send("carol", 1);
  await well.inbox.until(() => well.inbox.deliveries.length === 1, "mail for another");
  for (const each of stuck) {
    each.resume();
    await each.inbox.until(() => each.inbox.deliveries.length === 200, "all 200, once it reads again", 30_000);
    expect(each.inbox.deliveries.map(({ event }) => (event.data as { n: number }).n)).toEqual(Array.from({ length: 200 }, (_, n) => n));
  }
  await Promise.all([...sockets.map((socket) => socket.terminate()), ...streams.map((stream) => stream.leave())]);
  await well.terminate();
});
