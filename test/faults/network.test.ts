/** A network that loses answers, cuts them in their middle, and repeats requests. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { connect, type Handover, type Transport } from "../../src/client/index.ts";
import { call, field } from "../../src/testing/wire.ts";
import { until } from "../client/rig.ts";
import { CommandServer } from "../support/command.ts";
import { freePort } from "../support/port.ts";
import { accounts, scrape } from "../support/prometheus.ts";
import { SERVICE_CREDENTIAL, tokenOf } from "../support/started.ts";
import { type LossyProxy, openLossyProxy } from "./lossy.ts";
import { count, patience, randomOf, report, SEED } from "./report.ts";

let server: CommandServer;
let data = "";
let port = 0;
const clients: Handover[] = [];
const ends: LossyProxy[] = [];
beforeEach(async () => {
  data = await mkdtemp(join(tmpdir(), "handover-network-"));
  port = await freePort();
  server = await CommandServer.start(port, data);
});
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
  await Promise.all(ends.splice(0).map((end) => end.close()));
  await server.kill();
  await rm(data, { recursive: true, force: true });
});

function open(url: string, user: string, transport: Transport): Handover {
  // Each break counts as the first: the tests need not wait for longer and longer.
  const client = connect(url, { token: () => tokenOf(user), transports: [transport], onError: () => {}, timing: { stableMs: 0 } });
  clients.push(client);
  return client;
}

const SENDS = count(200, 10_000);
test(
  "[N4] of five answers one is lost after it was done, requests come twice, the server is killed: by key each send is stored once, by id each message handled once",
  async () => {
    const proxy = await openLossyProxy(server.url, randomOf(SEED));
    ends.push(proxy);
    const handled = new Map<string, number>();
    const senders: Handover[] = [];
    for (const [user, transport] of [
      ["bob", "websocket"],
      ["carol", "poll"],
    ] as const) {
      open(proxy.url, user, transport).on("order", ({ data }) => void handled.set(`${user} ${data}`, (handled.get(`${user} ${data}`) ?? 0) + 1));
      senders.push(open(proxy.url, `sender-${transport}`, transport));
    }
    const ids = new Set<string>();
    for (let n = 0; n < SENDS; ) {
      const batch: Promise<unknown>[] = [];
      for (const end = Math.min(SENDS, n + 100); n < end; n += 1) {
        const sender = senders[n % 2];
        batch.push(Promise.resolve(sender?.send(n % 4 < 2 ? "bob" : "carol", "order", n)).then((sent) => ids.add(String(sent?.id))));
      }
      // In the middle of a batch, when a part of the run is over.
      if (n === Math.ceil(SENDS / 200) * 100) {
        await Promise.race(batch);
        await server.kill();
        server = await CommandServer.start(port, data);
      }
      await Promise.all(batch);
    }
    await until(() => expect(handled.size).toBe(SENDS), 60_000);
    // What was sent comes once more, later: the answer is the first one's, and with other content it is refused.
    const replays = proxy.sends.slice(0, count(50, 1_000));
    for (const body of replays) {
      const again = await call(`${server.url}/v1/messages`, { token: tokenOf("sender-poll"), body });
      expect([again.status, ids.has(String(field(again.body, "id")))]).toEqual([201, true]);
      const other = await call(`${server.url}/v1/messages`, {
        token: tokenOf("sender-poll"),
        body: { ...(JSON.parse(body) as object), data: "other" },
      });
      expect(other.status).toBe(422);
    }
    const { accepted } = accounts(await scrape(server.url));
    const twice = [...handled.values()].filter((times) => times > 1).length;
    const { lost, cut, repeated } = proxy;
    report("R8", "answers lost and cut, requests repeated", { seed: SEED, sends: SENDS, lost, cut, repeated, stored: accepted, handledTwice: twice });
    expect([accepted, ids.size, twice]).toEqual([SENDS, SENDS, 0]);
    expect(lost).toBeGreaterThan(SENDS / 20);
    expect(repeated).toBeGreaterThan(0);
  },
  patience(SENDS, 150),
);

test("[N5] the same without keys stores some twice: the test would see it", async () => {
  const proxy = await openLossyProxy(server.url, randomOf(SEED));
  ends.push(proxy);
  const sends = 40;
  for (let n = 0; n < sends; n += 1)
    await until(async () => {
      const answer = await call(`${proxy.url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "bob" }, type: "order", data: n } });
      expect(answer.status).toBe(201);
    });
  const { accepted } = accounts(await scrape(server.url));
  report("R8", "control: sends without keys", { seed: SEED, sends, stored: accepted });
  expect(accepted).toBeGreaterThan(sends);
});
