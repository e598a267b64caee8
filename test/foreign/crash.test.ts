/**
 * The clients of `examples/` while the server is killed under them.
 * @module
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { call } from "../../src/testing/wire.ts";
import { CommandServer } from "../support/command.ts";
import { describeWith, FOREIGN } from "../support/needs.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL } from "../support/started.ts";
import { Running, tokenOf, WAYS } from "./client.ts";

const HALF = 100;

describeWith(FOREIGN, "foreign clients and a crash", () => {
  test("[F10] the server killed in the middle of 200 messages: each is processed exactly once, over each client and transport", {
    timeout: 60_000,
  }, async () => {
    const data = await mkdtemp(join(tmpdir(), "handover-foreign-crash-"));
    const port = await freePort();
    let server = await CommandServer.start(port, data);
    const { url } = server;
    const listeners: { way: string; running: Running }[] = [];
    const send = async (from: number) => {
      for (const { way } of WAYS) {
        const messages = Array.from({ length: HALF }, (_, n) => ({ to: { user: way.replace(" ", "-") }, type: "t", data: from + n }));
        expect((await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: messages })).status).toBe(201);
      }
    };
    try {
      for (const { client, over, way } of WAYS)
        listeners.push({ way, running: new Running(url, client.listen(over), tokenOf(way.replace(" ", "-"))) });
      await send(0);
      // Each is in the middle of it.
      for (const { way, running } of listeners)
        await expect.poll(() => running.messages.length, { timeout: 15_000, interval: 5, message: way }).toBeGreaterThan(0);
      await server.kill();
      server = await CommandServer.start(port, data);
      await send(HALF);
      const all = Array.from({ length: 2 * HALF }, (_, n) => n);
      for (const { way, running } of listeners) {
        await expect
          .poll(() => running.messages.length, { timeout: 30_000, interval: 50, message: `${way}: ${running.err}` })
          .toBeGreaterThanOrEqual(2 * HALF);
      }
      // All that can come has come once everything is acknowledged.
      for (const { way } of WAYS) {
        const left = () =>
          call(`${url}/v1/poll`, { token: tokenOf(way.replace(" ", "-")), body: { receiver: "auditor", wait: 0 } }).then(({ status }) => status);
        await expect.poll(left, { timeout: 10_000, interval: 50, message: way }).toBe(204);
      }
      for (const { way, running } of listeners) {
        expect(
          running.messages.map((message) => message.data),
          way,
        ).toEqual(all);
        expect(new Set(running.messages.map(({ source, id }) => `${source} ${id}`)).size, way).toBe(2 * HALF);
      }
    } finally {
      for (const { running } of listeners) await running.kill();
      await server.kill();
      await rm(data, { recursive: true, force: true });
    }
  });
});
