/**
 * The end of the real command: SIGTERM while clients are connected that do not answer any more.
 * @module
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { call, openSocket, signToken } from "../src/testing/wire.ts";
import { EventStream } from "../src/testing/wire-sse.ts";
import { CommandServer } from "./support/command.ts";
import { freePort } from "./support/port.ts";
import { SERVICE_CREDENTIAL, TOKEN_SECRET } from "./support/started.ts";

let server: CommandServer | undefined;
let data = "";
afterEach(async () => {
  await server?.kill();
  await rm(data, { recursive: true, force: true });
});

test("[K10] SIGTERM ends it cleanly and soon, with sleeping peers, a stream and a held poll too; who still asks is answered 503", async () => {
  data = await mkdtemp(join(tmpdir(), "handover-stop-"));
  server = await CommandServer.start(await freePort(), data);
  const { url } = server;
  const token = signToken(TOKEN_SECRET, { sub: "bob", sid: "s", aud: "handover", exp: Math.floor(Date.now() / 1000) + 600 });
  const asleep = await openSocket(url, { token, receiver: "asleep" });
  asleep.pause();
  const streams = await Promise.all(["awake", "dozing"].map((receiver) => EventStream.open({ url, token, query: { receiver, window: 1_000 } })));
  const [stream, dozing] = streams as [EventStream, EventStream];
  dozing.pause();
  // More than the two systems take: some of it waits in the server itself.
  for (let n = 0; n < 60; n++) {
    await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "bob" }, type: "t", data: "x".repeat(200_000) } });
  }
  const poll = call(`${url}/v1/poll`, { token, body: { receiver: "polling", epoch: stream.inbox.epoch, cursor: 60 } });
  // It is held once an answer to something later has come.
  await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "carol" }, type: "t" } });
  const stoppedAtMs = performance.now();
  const ended = server.terminate();
  expect((await poll).status, "the held poll").toBe(204);
  await stream.ended;
  expect(stream.events.at(-1)?.name, "the last event of the stream").toBe("drain");
  const late = await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "carol" }, type: "t" } });
  expect(late.status).toBe(503);
  expect(late.body).toMatchObject({ code: "draining" });
  expect(await ended, "exit code").toBe(0);
  expect(performance.now() - stoppedAtMs, "ms until it was gone").toBeLessThan(5_000);
  await Promise.all([asleep.terminate(), dozing.leave()]);
});
