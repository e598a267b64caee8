/**
 * What one client, or many, can ask too much of on x0's wire.
 * @module
 */
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CommandServer } from "../support/command.ts";
import { mountSmallDisk } from "../support/disk.ts";
import { describeWith, MOUNT } from "../support/needs.ts";
import { freePort } from "../support/port.ts";
import { type Started, start } from "../support/started.ts";
import { pollOf, Tab, valuesOf } from "./tab.ts";

const MIB = 1_048_576;
let started: Started;
beforeAll(async () => {
  started = await start("memory", { x0: "demo", mailboxMaxMessages: "3" });
});
afterAll(() => started.stop());

test("[X80] however many pages poll with one session value, none is answered at once without mail: those beyond a hundred are refused in words, and held", async () => {
  const answered: string[] = [];
  const open = async (page: Tab, session: string) => {
    const sent = await page.begin(pollOf(session));
    sent.answer.then(({ text }) => answered.push(text)).catch(() => {});
    return sent;
  };
  const held = await Promise.all(Array.from({ length: 100 }, () => open(new Tab(started.url), "many")));
  // The fifth poll of one browser is held for a second only, so that this need not take ten.
  const busy = { "User-Agent": "a browser with many tabs" };
  const others = await Promise.all(Array.from({ length: 4 }, (_, n) => open(new Tab(started.url, busy), `other-${n}`)));
  const { status, body, tookMs } = await (await open(new Tab(started.url, busy), "many")).answer;
  expect([status, body.error, body.exception_id, body.exception]).toEqual([200, true, "rate-limited", expect.stringMatching(/session value/)]);
  expect(tookMs).toBeGreaterThan(990);
  expect(answered).toHaveLength(1);
  await new Tab(started.url).send("sender", "many", { n: 1 });
  for (const { answer } of held) expect(valuesOf(await answer)).toEqual([{ n: 1 }]);
  // They are away now, so there is room again.
  expect(valuesOf(await new Tab(started.url).poll("many"))).toEqual([{ n: 1 }]);
  for (const each of others) each.cut();
});

test("[X81] a full mailbox and its end are told to x0's page in words, as any error: 200", async () => {
  const page = new Tab(started.url);
  for (let n = 0; n < 3; n++) expect((await page.send("a", "full", { n })).body).toEqual({ messages: null, status: "ok" });
  const refused = await page.send("a", "full", { n: 3 });
  expect([refused.status, refused.body.error, refused.body.exception_id]).toEqual([200, true, "mailbox-full"]);
  expect(String(refused.body.exception)).toMatch(/mailbox.* is full\. Nothing was stored/);
  expect(await page.take("full")).toEqual([{ n: 0 }]);
  expect((await page.send("a", "full", { n: 3 })).body).toEqual({ messages: null, status: "ok" });
});

describeWith(MOUNT, "a small disk under x0's wire", () => {
  test("[X81] so is a full disk; polls and acknowledgements go on", async () => {
    const data = await mkdtemp(join(tmpdir(), "handover-x0-disk-"));
    const unmount = mountSmallDisk(data);
    const server = await CommandServer.start(await freePort(), data, ["--x0", "demo"]);
    try {
      const page = new Tab(server.url);
      let accepted = 0;
      let last = await page.send("a", "disk", { n: 0, text: "x".repeat(200_000) });
      while (last.body.status === "ok") {
        accepted += 1;
        expect(accepted).toBeLessThan(100);
        last = await page.send("a", "disk", { n: accepted, text: "x".repeat(200_000) });
      }
      expect([last.status, last.body.error, last.body.exception_id]).toEqual([200, true, "store-full"]);
      expect(String(last.body.exception)).toMatch(/disk .* is full\. Nothing was stored/);
      for (let n = 0; n < accepted; n++) expect(await page.take("disk")).toMatchObject([{ n }]);
    } finally {
      await server.kill();
      unmount();
      await rm(data, { recursive: true, force: true });
    }
  });
});

test("[X82] what is remembered of preflights is small and limited, however long their addresses and headers are", {
  timeout: 60_000,
}, async () => {
  const server = await CommandServer.start(await freePort(), "unused", ["--engine", "memory:", "--x0", "demo"]);
  try {
    const { port } = new URL(server.url);
    const flood = async (first: number, count: number) => {
      const socket = connect(Number(port), "127.0.0.1");
      await once(socket, "connect");
      let answers = 0;
      socket.setEncoding("latin1").on("data", (part: string) => {
        answers += part.split("HTTP/1.1 200").length - 1;
      });
      for (let sent = 0; sent < count; sent += 50) {
        let text = "";
        for (let n = 0; n < 50; n++) {
          text += `OPTIONS /python/MsgHandler.py?a__=${1e12 + first + sent + n}&more=${"x".repeat(4_000)} HTTP/1.1\r\nHost: x\r\nUser-Agent: ${"y".repeat(3_500)}\r\n\r\n`;
        }
        socket.write(text);
        while (answers < sent + 40) await once(socket, "data");
      }
      socket.destroy();
    };
    await flood(0, 1_000);
    const before = server.residentBytes;
    await Promise.all([1, 2, 3, 4].map((part) => flood(part * 100_000, 5_000)));
    // 20,000 of them came with 150 MB.
    expect((server.residentBytes - before) / MIB).toBeLessThan(75);
    expect((await new Tab(server.url).send("a", "b", { n: 1 })).body).toEqual({ messages: null, status: "ok" });
  } finally {
    await server.kill();
  }
});
