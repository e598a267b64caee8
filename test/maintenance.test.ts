/**
 * Backup, restore and doctor as an operator uses them: the real commands, beside a real server.
 * @module
 */
import { createHash } from "node:crypto";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterEach, beforeEach, expect, test } from "vitest";
import { sqliteEngine } from "../src/engines/sqlite.ts";
import { call, field, signToken, WEBSOCKET, type WireReceiver } from "../src/testing/wire.ts";
import { makeMessage } from "./engines/message.ts";
import { report } from "./faults/report.ts";
import { CommandServer, runCommand } from "./support/command.ts";
import { freePort } from "./support/port.ts";
import { SERVICE_CREDENTIAL, start, TOKEN_SECRET } from "./support/started.ts";

/** What waits in the store that is backed up under load. */
const STORED = 20_000;
const BYTES = 400;
/** Commits wait for a backup no longer than this, ms; on a machine that has time, it is a few. */
const MAX_WAIT_MS = 2_000;

let folder = "";
let data = "";
let servers: CommandServer[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "handover-maintenance-"));
  data = join(folder, "data");
  servers = [];
});
afterEach(async () => {
  for (const server of servers) await server.kill();
  await rm(folder, { recursive: true, force: true });
});

async function serve(): Promise<CommandServer> {
  const server = await CommandServer.start(await freePort(), data);
  servers.push(server);
  return server;
}

const token = (user: string) =>
  signToken(TOKEN_SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: Math.floor(Date.now() / 1000) + 600 });
const send = (url: string, user: string, n: number) =>
  call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user }, type: "t", data: { n } } });
const numbers = (receiver: WireReceiver) => receiver.deliveries.map(({ event }) => Number(field(event.data, "n")));

async function receive(url: string, user: string, expected: readonly number[], more: object = {}): Promise<WireReceiver> {
  const receiver = await WEBSOCKET.openReceiver({ url, token: token(user), receiver: "tab", window: 1_000, ...more });
  await receiver.until(() => receiver.deliveries.length >= expected.length, `the mail of ${user}`);
  expect(numbers(receiver)).toEqual(expected);
  return receiver;
}

/** The files of the store, by what is in them. */
function digest(): Record<string, string> {
  const files = readdirSync(data).filter((name) => name.startsWith("handover.db") || name === "mark");
  return Object.fromEntries(
    files.map((name) => [
      name,
      createHash("sha256")
        .update(readFileSync(join(data, name)))
        .digest("hex"),
    ]),
  );
}

test("[D6] a backup of a server under load has everything that was accepted before it was asked for, and nothing waits for it for long", {
  timeout: 60_000,
}, async () => {
  const engine = sqliteEngine({ dir: data, log: () => {}, mailboxMaxMessages: STORED });
  await engine.open(() => {});
  const event = JSON.stringify({ specversion: "1.0", id: "stored", source: "/users/alice", type: "t", data: "x".repeat(BYTES) });
  for (let n = 0; n < STORED; n += 500)
    await engine.append(Array.from({ length: 500 }, (_none, at) => makeMessage(`stored-${n + at}`, [`u${at % 40}`], { event })));
  await engine.close();

  const { url } = await serve();
  let isOver = false;
  let backedUp = false;
  let longestMs = 0;
  let during = 0;
  const before: number[] = [];
  const sender = async (each: number) => {
    for (let n = each; !isOver; n += 8) {
      const startedMs = performance.now();
      const isBefore = !backedUp;
      const answer = await send(url, "bob", n);
      expect(answer.status).toBe(201);
      longestMs = Math.max(longestMs, performance.now() - startedMs);
      if (isBefore && !backedUp) before.push(n);
      else during += 1;
    }
  };
  const load = Array.from({ length: 8 }, (_none, each) => sender(each));
  await expect.poll(() => before.length, { interval: 5, timeout: 20_000 }).toBeGreaterThan(100);
  backedUp = true;
  const { code, output } = await runCommand("backup", "--to", join(folder, "copies", "one.db"), "--url", url);
  isOver = true;
  await Promise.all(load);
  report("R4", "backup of a running server", { stored: STORED, sends: before.length + during, "longest send ms": Math.round(longestMs) });
  expect(output).toMatch(/one\.db: \d+ unsettled messages in \d+ mailboxes, \d+ bytes, and all of it is whole/);
  expect(code).toBe(0);
  expect(during).toBeGreaterThan(0);
  expect(longestMs).toBeLessThan(MAX_WAIT_MS);
  expect(readdirSync(data).filter((name) => name.startsWith("backup"))).toEqual([]);
  expect(readdirSync(join(folder, "copies"))).toEqual(["one.db"]);

  const copy = new Database(join(folder, "copies", "one.db"));
  const events = copy.prepare("SELECT e.event FROM events e JOIN deliveries d ON d.event = e.id WHERE d.ending IS NULL").pluck().all().map(String);
  copy.close();
  expect(events.filter((text) => text === event).length).toBe(STORED);
  const sent = new Set(events.map((text) => Number(field(field(JSON.parse(text), "data"), "n"))));
  expect(before.filter((n) => !sent.has(n))).toEqual([]);
});

test("[D7] after a restore the epoch is new, and every client gets what is unsettled in the backup; what was there is kept", {
  timeout: 60_000,
}, async () => {
  const first = await serve();
  for (const n of [1, 2, 3, 4, 5]) await send(first.url, "bob", n);
  await send(first.url, "carol", 6);
  const bob = await receive(first.url, "bob", [1, 2, 3, 4, 5]);
  expect(await bob.ack({ seqs: [1, 2] })).toBe(2);
  // No ending: it leaves this receiver's window, and the epoch ends it.
  await bob.ack({ hold: [4] });
  const backup = join(folder, "one.db");
  expect((await runCommand("backup", "--to", backup, "--url", first.url)).code).toBe(0);
  expect(await bob.ack({ seqs: [3] })).toBe(1);
  await send(first.url, "bob", 7);
  await bob.until(() => bob.deliveries.length === 6, "the message after the backup");
  const { epoch, cursor } = bob;

  const whileRunning = await runCommand("restore", "--from", backup, "--data", data);
  expect(whileRunning).toMatchObject({ code: 1, output: expect.stringMatching(/in use/) });
  expect(await first.terminate()).toBe(0);
  const hurt = join(folder, "hurt.db");
  writeFileSync(hurt, readFileSync(backup).fill(0, 8_192, 12_288));
  const untouched = digest();
  expect(await runCommand("restore", "--from", hurt, "--data", data)).toMatchObject({
    code: 1,
    output: expect.stringMatching(/damaged.*nothing was changed/),
  });
  expect(digest()).toEqual(untouched);

  const { code, output } = await runCommand("restore", "--from", backup, "--data", data);
  expect(output).toMatch(/Restored: 4 unsettled messages in 2 mailboxes/);
  expect(code).toBe(0);
  const kept = readdirSync(data).filter((name) => name.startsWith("before-restore-"));
  expect(kept.length).toBe(1);
  expect(output).toContain(kept[0]);
  expect(readdirSync(join(data, kept[0] ?? ""))).toContain("handover.db");

  const second = await serve();
  const again = await receive(second.url, "bob", [3, 4, 5], { epoch, cursor });
  expect(again.epoch).not.toBe(epoch);
  expect(await again.ack({ upto: again.cursor })).toBe(3);
  await receive(second.url, "carol", [6]);
  await send(second.url, "bob", 8);
  await again.until(() => again.deliveries.length === 4, "new mail");
  expect(await second.terminate()).toBe(0);

  // Into a folder of which there is nothing yet; and the copy is what it was.
  data = join(folder, "elsewhere");
  expect((await runCommand("restore", "--from", backup, "--data", data)).output).toMatch(/^Restored: 4 unsettled/);
  await receive((await serve()).url, "bob", [3, 4, 5]);
});

test("[D8] the doctor says by its exit code whether a store is in order, touches nothing unless told, and names what is lost, by mailbox", {
  timeout: 60_000,
}, async () => {
  const server = await serve();
  for (const n of [1, 2, 3]) await send(server.url, "bob", n);
  await send(server.url, "carol", 4);
  const doctor = (...more: string[]) => runCommand("doctor", "--data", data, ...more);
  expect(await doctor()).toMatchObject({ code: 1, output: expect.stringMatching(/in use: .* is held by process/) });
  expect(await server.terminate()).toBe(0);
  let before = digest();
  expect(await doctor()).toMatchObject({ code: 0, output: expect.stringMatching(/in order: 4 unsettled messages in 2 mailboxes/) });
  expect(await doctor("--repair")).toMatchObject({ code: 0, output: expect.stringMatching(/in order/) });
  expect(digest()).toEqual(before);

  // Something that is not in a message: nothing is lost by it.
  const root = (name: string) => {
    const db = new Database(join(data, "handover.db"), { readonly: true });
    const page = Number(db.prepare("SELECT rootpage FROM sqlite_schema WHERE name = ?").pluck().get(name));
    db.close();
    return page;
  };
  const zero = (page: number) => {
    const fd = openSync(join(data, "handover.db"), "r+");
    writeSync(fd, Buffer.alloc(4_096), 0, 4_096, (page - 1) * 4_096);
    closeSync(fd);
  };
  zero(root("deliveries_due"));
  before = digest();
  expect(await doctor()).toMatchObject({ code: 2, output: expect.stringMatching(/is damaged:\n- .*\n(?:.|\n)*Nothing was changed\. With --repair/) });
  expect(digest()).toEqual(before);
  expect(await doctor("--repair")).toMatchObject({ code: 0, output: expect.stringMatching(/Repaired: 4 unsettled messages in 2 mailboxes/) });
  expect(await doctor()).toMatchObject({ code: 0, output: expect.stringMatching(/in order: 4 unsettled messages in 2 mailboxes/) });

  // One of bob's messages.
  const db = new Database(join(data, "handover.db"));
  expect(db.prepare(`UPDATE events SET event = replace(event, '"n":2', '"n":9') WHERE event LIKE '%"n":2%'`).run().changes).toBe(1);
  const id = String(db.prepare("SELECT d.message FROM deliveries d JOIN events e ON e.id = d.event WHERE e.event LIKE '%\"n\":9%'").pluck().get());
  db.close();
  before = digest();
  const found = await doctor();
  expect(found).toMatchObject({ code: 2, output: expect.stringMatching(/1 message for bob cannot be handed out/) });
  expect(found.output).toContain(id);
  expect(digest()).toEqual(before);
  const repaired = await doctor("--repair");
  expect(repaired).toMatchObject({
    code: 3,
    output: expect.stringMatching(/Repaired: 3 unsettled messages in 2 mailboxes(?:.|\n)*Lost: 1 message for bob: /),
  });
  expect(repaired.output).toContain(id);
  expect(repaired.output).not.toMatch(/cannot be named|cannot be told|Commits are missing/);
  expect(readdirSync(data).filter((name) => name.startsWith("damaged-")).length).toBe(2);
  expect((await doctor()).code).toBe(0);
  const { url } = await serve();
  await receive(url, "bob", [1, 3]);
  await receive(url, "carol", [4]);
  expect(await runCommand("doctor", "--data", join(folder, "nowhere"))).toMatchObject({
    code: 1,
    output: expect.stringMatching(/There is no store/),
  });
});

test("[D9] a backup goes to service keys on this machine only, one at a time, and one that breaks off leaves nothing", async () => {
  const { url } = await serve();
  await send(url, "bob", 1);
  const ask = (credential: string, headers: Record<string, string> = {}) => call(`${url}/v1/backup`, { token: credential, headers });
  expect((await ask(token("bob"))).status).toBe(403);
  expect((await ask("")).status).toBe(401);
  expect((await ask(SERVICE_CREDENTIAL, { "X-Forwarded-For": "203.0.113.9" })).status).toBe(403);
  const good = await ask(SERVICE_CREDENTIAL);
  expect([good.status, good.headers.get("content-type")]).toEqual([200, "application/vnd.sqlite3"]);
  const memory = await start("memory");
  expect((await call(`${memory.url}/v1/backup`, { token: SERVICE_CREDENTIAL })).status).toBe(501);
  await memory.stop();

  const there = join(folder, "there.db");
  writeFileSync(there, "precious");
  expect(await runCommand("backup", "--to", there, "--url", url)).toMatchObject({ code: 1, output: expect.stringMatching(/is there already/) });
  expect(readFileSync(there, "utf8")).toBe("precious");
  const nowhere = await runCommand("backup", "--to", join(folder, "two.db"), "--url", `http://127.0.0.1:${await freePort()}`);
  expect(nowhere).toMatchObject({ code: 1, output: expect.stringMatching(/There is no answer/) });
  expect(readdirSync(folder).sort()).toEqual(["data", "there.db"]);

  const dir = join(folder, "engine");
  const engine = sqliteEngine({ dir, log: () => {} });
  await engine.open(() => {});
  for (let n = 0; n < 2_000; n += 500) await engine.append(Array.from({ length: 500 }, (_none, at) => makeMessage(`m${n + at}`, ["u"])));
  const [one, two] = await Promise.allSettled([engine.backup(), engine.backup()]);
  expect(one.status === "fulfilled" && one.value.bytes).toBeGreaterThan(100_000);
  expect(two).toMatchObject({ status: "rejected", reason: { code: "rate-limited" } });
  if (one.status === "fulfilled") for await (const _part of one.value.content) break;
  const third = engine.backup();
  third.catch(() => {});
  await engine.close();
  // Whichever was first; and a copy that was not finished is gone at the next start.
  const outcome = await third.then(
    () => "made",
    ({ code }: { code: string }) => code,
  );
  expect(["made", "store-unavailable"]).toContain(outcome);
  writeFileSync(join(dir, "backup.part"), "of a process that was killed");
  const again = sqliteEngine({ dir, log: () => {} });
  await again.open(() => {});
  expect(existsSync(join(dir, "backup.part"))).toBe(false);
  await again.close();
}, 60_000);

test("[D10] a damaged message is given to nobody, and counted: in the metrics, in the accounts, and in a line of the log", async () => {
  const server = await serve();
  for (const n of [1, 2, 3]) await send(server.url, "bob", n);
  expect(await server.terminate()).toBe(0);
  const db = new Database(join(data, "handover.db"));
  expect(db.prepare(`UPDATE events SET event = replace(event, '"n":2', '"n":9')  WHERE event LIKE '%"n":2%'`).run().changes).toBe(1);
  db.close();
  const again = await serve();
  await receive(again.url, "bob", [1, 3]);
  const metrics = String((await call(`${again.url}/metrics`)).body);
  expect(metrics).toMatch(/^handover_store_damaged_total 1$/m);
  expect(metrics).toMatch(/^handover_deliveries_ended_total\{ending="dead"\} 1$/m);
  expect(again.output).toMatch(/Message .* is damaged on the disk.*handover doctor/);
});
