/**
 * What a backend uses: sessions, sending as a service, states; and two lines of Express or Fastify.
 * @module
 */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import fastify from "fastify";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { connect, type Handover } from "../../src/client/index.ts";
import { HandoverService } from "../../src/client/service.ts";
import { openLossyProxy } from "../faults/lossy.ts";
import { randomOf, SEED } from "../faults/report.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "../support/started.ts";
import { until } from "./rig.ts";

const ends: (() => unknown)[] = [];
let started: Started;
let handover: HandoverService<{ order: number }>;
beforeAll(async () => {
  started = await start("memory");
  handover = new HandoverService(started.url, SERVICE_CREDENTIAL);
});
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});
afterAll(() => started.stop());

function open(token: () => Promise<string> | string): Handover {
  const client = connect(started.url, { token, onWarning: () => {} });
  ends.push(() => client.close());
  return client;
}

describe("a backend", () => {
  it("[C65] makes sessions, sends, sees what became of it, and takes it back", async () => {
    const { session, token, expires } = await handover.createSession("bob", { ttl: 60 });
    expect(Date.parse(expires) - Date.now()).toBeLessThan(62_000);
    const got: unknown[] = [];
    const page = open(() => token);
    page.on("order", (message) => got.push([message.source, message.from, message.data]));
    const sent = await handover.send("bob", "order", 1, { ttl: 60 });
    expect(sent).toMatchObject({ ttl: 60, recipients: ["bob"] });
    await until(async () => expect((await handover.state(sent.id)).recipients).toMatchObject([{ user: "bob", state: "acked" }]));
    expect(got).toEqual([["/services/desk", undefined, 1]]);
    const { id } = await handover.send("carol", "order", 2);
    expect(await handover.takeBack(id)).toBe(1);
    await handover.endSession(session);
    await until(() => expect(page.status).toMatchObject({ state: "closed", error: { code: "session-ended" } }));
  });

  it("[C65] sends once through a network that loses every fifth answer and repeats requests", async () => {
    const proxy = await openLossyProxy(started.url, randomOf(SEED));
    ends.push(() => proxy.close());
    const service = new HandoverService(proxy.url, SERVICE_CREDENTIAL);
    const { token } = await service.createSession("dora");
    const got: unknown[] = [];
    open(() => token).on("order", (message) => got.push(message.data));
    await Promise.all(Array.from({ length: 100 }, (_, index) => service.send("dora", "order", index)));
    await until(() => expect(got.length).toBeGreaterThanOrEqual(100));
    expect(got.toSorted((one, other) => Number(one) - Number(other))).toEqual(Array.from({ length: 100 }, (_, index) => index));
  });

  it("[C65] is told the server's problem at once, and gives up in time or with its signal", async () => {
    await expect(new HandoverService(started.url, "no key").send("bob", "order")).rejects.toMatchObject({ code: "token-invalid", status: 401 });
    await expect(handover.state("nothing")).rejects.toMatchObject({ code: "unknown", status: 404 });
    const mute = createServer(() => {}).listen(0, "127.0.0.1");
    await once(mute, "listening");
    ends.push(
      () => mute.closeAllConnections(),
      () => mute.close(),
    );
    const url = `http://127.0.0.1:${(mute.address() as AddressInfo).port}`;
    const patient = new HandoverService(url, SERVICE_CREDENTIAL, { answerMs: 50, retryMs: 200 });
    await expect(patient.send("bob", "order")).rejects.toMatchObject({ code: "connection-lost" });
    const stop = new AbortController();
    const sending = new HandoverService(url, SERVICE_CREDENTIAL).send("bob", "order", 1, { signal: stop.signal });
    stop.abort("enough");
    await expect(sending).rejects.toBe("enough");
    expect(() => new HandoverService("nowhere", "key")).toThrow(TypeError);
  });
});

describe("its page", () => {
  /** What the application knows of who is asking. */
  const userOf = () => "bob";
  const receives = async (url: string) => {
    const got: unknown[] = [];
    open(async () => (await fetch(`${url}/token`, { method: "POST" })).text()).on("order", (message) => got.push(message.data));
    await handover.send("bob", "order", 7);
    await until(() => expect(got).toContain(7));
  };

  it("[C65] gets its token from Express", async () => {
    const app = express();
    app.post("/token", async (_request, response) => void response.send((await handover.createSession(userOf())).token));
    const server: Server = app.listen(0, "127.0.0.1");
    await once(server, "listening");
    ends.push(() => server.close());
    await receives(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  });

  it("[C65] gets its token from Fastify", async () => {
    const app = fastify();
    app.post("/token", async () => (await handover.createSession(userOf())).token);
    ends.push(() => app.close());
    await receives(await app.listen({ host: "127.0.0.1", port: 0 }));
  });
});
