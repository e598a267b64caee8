/** A disk that is full, as senders, receivers and an operator see it: the real command, its data and its log on a small disk with ext4. */
import { execFileSync } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { call, field, signToken } from "../../src/testing/wire.ts";
import { LONG_POLLING } from "../../src/testing/wire-poll.ts";
import { CommandServer } from "../support/command.ts";
import { fill, makeImage, mountImage } from "../support/disk.ts";
import { describeWith, EXT4 } from "../support/needs.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL, TOKEN_SECRET } from "../support/started.ts";
import { count, patience, report } from "./report.ts";

const DISK_BYTES = 32 * 1_048_576;
/** Without it the disk is full at once; with it removed, there is room again. */
const BALLAST_BYTES = 8 * 1_048_576;
const TEXT = "x".repeat(8_000);
const SENDERS = 16;
const REFUSALS = 100;
/** After there is room, mail is taken within, ms. */
const AGAIN_MS = 5_000;
const USERS = ["bob", "carol"] as const;
const ROUNDS = count(1, 5);

const token = (user: string) =>
  signToken(TOKEN_SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: Math.floor(Date.now() / 1000) + 3_600 });

describeWith(EXT4, "a full disk under a running server", () => {
  let folder = "";
  let unmount = () => {};
  let server: CommandServer | undefined;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "handover-full-"));
  });
  afterEach(async () => {
    await server?.kill();
    unmount();
    rmSync(folder, { recursive: true, force: true });
  });

  test("[D13] a log for which there is no room ends nothing", async () => {
    const data = join(folder, "data");
    const port = await freePort();
    server = await CommandServer.start(port, data, ["--log-level", "trace"], {}, "/dev/full");
    const { url } = server;
    const send = () => call(`${url}/v1/messages`, { token: token("sender"), body: { to: { user: "bob" }, type: "t" } });
    expect((await send()).status).toBe(201);
    // It says that it stops, and does.
    expect(await server.terminate()).toBe(0);
  });

  test.each(["stands still", "dies"])(
    "[D13] a log whose reader %s holds nothing up: requests are answered, and SIGTERM is a clean end",
    async (how) => {
      const pipe = join(folder, "pipe");
      execFileSync("mkfifo", [pipe]);
      const reader = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
      // A provider that gives no keys has a line in the log.
      server = await CommandServer.start(await freePort(), join(folder, "data"), ["--jwks-url", "http://127.0.0.1:1/keys"], {}, pipe);
      const { url } = server;
      if (how === "dies") closeSync(reader);
      else fillPipe(reader);
      const strange = `${part({ alg: "RS256", kid: "x" })}.${part({ sub: "u", sid: "s", aud: "handover", exp: 9_999_999_999 })}.${"A".repeat(342)}`;
      const send = (as: string) => call(`${url}/v1/messages`, { token: as, body: { to: { user: "bob" }, type: "t" } });
      expect((await send(strange)).status, "the keys are not to be had").toBe(503);
      expect((await send(SERVICE_CREDENTIAL)).status).toBe(201);
      expect(await server.terminate()).toBe(0);
      if (how !== "dies") closeSync(reader);
    },
  );

  test(
    "[D12] a full disk, the log on it too: 507 and never a false 201, mail is read, acknowledged and taken back, and soon after there is room it is taken again; nothing is lost",
    async () => {
      const figures = { rounds: ROUNDS, sent: 0, refused: 0, "again after ms": 0, lost: 0 };
      for (let round = 0; round < ROUNDS; round += 1) {
        const { sent, refused, againMs, lost } = await fillAndFree();
        figures.sent += sent;
        figures.refused += refused;
        figures.lost += lost.length;
        figures["again after ms"] = Math.max(figures["again after ms"], Math.round(againMs));
        expect(lost).toEqual([]);
      }
      report("R5", "full disk, ext4", figures);
      expect(figures["again after ms"]).toBeLessThanOrEqual(AGAIN_MS);
    },
    patience(ROUNDS, 60_000),
  );

  test("[D14] killed, and started again on a disk that has become full to the last byte: what had just been accepted is delivered and acknowledged", async () => {
    makeImage(join(folder, "image"), "ext4", DISK_BYTES);
    const disk = join(folder, "disk");
    unmount = mountImage(join(folder, "image"), disk);
    const port = await freePort();
    const start = () => CommandServer.start(port, join(disk, "data"));
    server = await start();
    const { url } = server;
    const send = async (n: number) => {
      const answer = await call(`${url}/v1/messages`, { token: token("sender"), body: { to: { user: "bob" }, type: "t", data: { name: `${n}` } } });
      expect(answer.status).toBe(201);
      return String(field(answer.body, "id"));
    };
    const accepted = new Set(await Promise.all(Array.from({ length: 200 }, (_none, n) => send(n))));
    await server.kill();
    fill(join(disk, "rest"), Number.POSITIVE_INFINITY);

    for (const receives of [accepted.size, 0]) {
      server = await start();
      const bob = await LONG_POLLING.openReceiver({ url, token: token("bob"), receiver: "afterwards", window: 1_000 });
      const got = new Set<string>();
      while (got.size < receives) {
        const seen = bob.deliveries.length;
        await bob.until(() => bob.deliveries.length > seen || seen > got.size, `mail on a full disk, ${got.size} of ${receives}`);
        const fresh = bob.deliveries.slice(got.size);
        for (const { event } of fresh) got.add(event.id);
        expect(await bob.ack({ seqs: fresh.map(({ seq }) => seq) })).toBe(fresh.length);
      }
      if (receives > 0) expect(got).toEqual(accepted);
      else expect(bob.deliveries).toEqual([]);
      await bob.leave();
      await server.kill();
    }
  }, 60_000);

  async function fillAndFree() {
    makeImage(join(folder, "image"), "ext4", DISK_BYTES);
    const disk = join(folder, "disk");
    unmount = mountImage(join(folder, "image"), disk);
    const port = await freePort();
    const start = () => CommandServer.start(port, join(disk, "data"), ["--log-level", "trace"], {}, join(disk, "log"));
    server = await start();
    const { url, pid } = server;
    const accepted = new Map<string, string>();
    const gone = new Set<string>();
    let refused = 0;
    let sent = 0;
    /** @returns whether it was accepted */
    const send = async (user: string): Promise<boolean> => {
      sent += 1;
      const name = `${user} ${sent}`;
      const answer = await call(`${url}/v1/messages`, { token: token("sender"), body: { to: { user }, type: "t", data: { name, text: TEXT } } });
      if (answer.status === 201) {
        accepted.set(String(field(answer.body, "id")), name);
        return true;
      }
      expect([answer.status, field(answer.body, "code"), answer.headers.get("retry-after")]).toEqual([507, "store-full", "5"]);
      refused += 1;
      return false;
    };
    fill(join(disk, "ballast"), BALLAST_BYTES);
    const sender = async (each: number) => {
      while (refused < REFUSALS) await send(USERS[each % USERS.length] ?? "bob");
    };
    await Promise.all(Array.from({ length: SENDERS }, (_none, each) => sender(each)));
    // To the last byte: now nothing that the process logs finds room either.
    fill(join(disk, "rest"), Number.POSITIVE_INFINITY);
    for (let n = 0; n < 20; n += 1) expect(await send("bob")).toBe(false);
    expect((await call(`${url}/readyz`)).status).toBe(503);
    const backup = await call(`${url}/v1/backup`, { token: SERVICE_CREDENTIAL });
    expect([backup.status, field(backup.body, "code")], "no room for a backup").toEqual([507, "store-full"]);

    // Most of it, and each in a commit of its own: together they write more than the log had left.
    const bob = await LONG_POLLING.openReceiver({ url, token: token("bob"), receiver: "meanwhile", window: 1_000 });
    const most = Math.floor([...accepted.values()].filter((name) => name.startsWith("bob")).length * 0.9);
    for (let n = 0; n < most; n += 1) {
      await bob.until(() => bob.deliveries.length > n, "mail on a full disk");
      const { seq, event } = bob.deliveries[n] ?? unexpected();
      expect(await bob.ack({ seqs: [seq] }), "acknowledged on a full disk").toBe(1);
      gone.add(event.id);
    }
    await bob.leave();
    const [last] = [...accepted].filter(([, name]) => name.startsWith("carol")).at(-1) ?? [];
    const takenBack = await call(`${url}/v1/messages/${last}`, { method: "DELETE", token: token("sender") });
    expect([takenBack.status, takenBack.body], "taken back on a full disk").toEqual([200, { evicted: 1 }]);
    gone.add(String(last));

    for (const name of ["rest", "ballast"]) rmSync(join(disk, name));
    const freedMs = performance.now();
    await expect.poll(() => send("carol"), { timeout: 20_000, interval: 50 }).toBe(true);
    const againMs = performance.now() - freedMs;
    expect((await call(`${url}/readyz`)).status).toBe(200);
    expect([server.isRunning, server.pid], "the same process").toEqual([true, pid]);

    await server.kill();
    server = await start();
    const found = new Map<string, string>();
    for (const user of USERS) {
      const receiver = await LONG_POLLING.openReceiver({ url, token: token(user), receiver: "afterwards", window: 1_000 });
      const expected = [...accepted].filter(([id, name]) => name.startsWith(user) && !gone.has(id)).length;
      for (let seen = 0; seen < expected; ) {
        await receiver.until(() => receiver.deliveries.length > seen, `the mail of ${user}, ${seen} of ${expected}`);
        const fresh = receiver.deliveries.slice(seen);
        seen += fresh.length;
        for (const { event } of fresh) found.set(event.id, String(field(event.data, "name")));
        await receiver.ack({ seqs: fresh.map(({ seq }) => seq) });
      }
      await receiver.leave();
    }
    expect([...found.keys()].filter((id) => gone.has(id) || !accepted.has(id))).toEqual([]);
    await server.kill();
    unmount();
    unmount = () => {};
    return { sent, refused, againMs, lost: [...accepted].filter(([id, name]) => !gone.has(id) && found.get(id) !== name) };
  }
});

const part = (content: object) => Buffer.from(JSON.stringify(content)).toString("base64url");

/** Writes into a pipe until there is no room in it. */
function fillPipe(fd: number): void {
  for (let size = 4_096; size >= 1; ) {
    try {
      writeSync(fd, Buffer.alloc(size, "\n"));
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "EAGAIN") throw thrown;
      size = Math.floor(size / 2);
    }
  }
}

function unexpected(): never {
  throw new Error("nothing there");
}
