/**
 * A disk that cannot be trusted any more, as a client and an operator see it: the real command under load, on a disk whose syncs fail or hang, or
 * whose writes fail.
 * @module
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, test } from "vitest";
import { call, field } from "../src/testing/wire.ts";
import { count, patience, randomOf, report, SEED } from "./faults/report.ts";
import { CommandServer } from "./support/command.ts";
import { type FaultyDisk, makeFaultyDisk } from "./support/disk.ts";
import { COMPILER, describeWith } from "./support/needs.ts";
import { freePort } from "./support/port.ts";
import { SERVICE_CREDENTIAL } from "./support/started.ts";

const ROUNDS = count(1, 10);
const SENDERS = 16;
/** A commit that hangs counts as failed after four seconds. From the fault on: the last answer, and the end of the process, ms. The short form runs beside other tests. */
const [ANSWER_MS, END_MS] = [count(7_000, 5_000), count(8_000, 5_000)] as const;

describeWith(COMPILER, "a disk that fails under a running server", () => {
  const folders: string[] = [];
  const servers: CommandServer[] = [];
  const start = async (...options: Parameters<typeof CommandServer.start>) => {
    const server = await CommandServer.start(...options);
    servers.push(server);
    return server;
  };
  afterEach(() => Promise.all(servers.splice(0).map((server) => server.kill())));
  afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));

  test.each(["eio", "write", "hang"])(
    "[K9] a sync or write that fails (%s): 503, a clear line, the end of the process; nothing that was accepted is lost",
    {
      timeout: patience(ROUNDS, 20_000),
    },
    async (fault) => {
      const figures = { rounds: ROUNDS, accepted: 0, refused: 0, "last answer after ms": 0, "ended after ms": 0, lost: 0, back: 0 };
      for (let round = 1; round <= ROUNDS; round += 1) {
        const folder = await mkdtemp(join(tmpdir(), "handover-failstop-"));
        folders.push(folder);
        const found = await failUnderLoad(folder, fault, randomOf(SEED + round));
        figures.accepted += found.accepted;
        figures.refused += found.refused;
        figures.lost += found.lost.length;
        figures.back += found.back.length;
        figures["last answer after ms"] = Math.max(figures["last answer after ms"], Math.round(found.answeredMs));
        figures["ended after ms"] = Math.max(figures["ended after ms"], Math.round(found.endedMs));
        expect([found.lost, found.back], `lost; acknowledged and there again (seed ${SEED}, round ${round})`).toEqual([[], []]);
      }
      report("R6", `failing disk: ${fault}`, figures);
      expect(figures.refused).toBeGreaterThan(0);
      expect(figures["last answer after ms"]).toBeLessThan(ANSWER_MS);
      expect(figures["ended after ms"]).toBeLessThan(END_MS);
    },
  );

  async function failUnderLoad(folder: string, fault: string, random: () => number) {
    const disk: FaultyDisk = makeFaultyDisk(folder);
    const port = await freePort();
    const data = join(folder, "data");
    const server = await start(port, data, [], { LD_PRELOAD: disk.library });
    const { url } = server;
    const session = await call(`${url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user: "bob" } });
    const token = String(field(session.body, "token"));
    const accepted = new Set<number>();
    const ackAsked = new Set<number>();
    const acked = new Set<number>();
    let sent = 0;
    let refused = 0;
    let answeredAtMs = 0;
    let doneAfter = 0;
    /** Undefined when the process is gone. */
    const ask = async (path: string, as: string, body: object) => {
      const isAfter = refused > 0;
      try {
        const answer = await call(`${url}${path}`, { token: as, body });
        if (answer.status === 503) {
          expect(answer.body).toMatchObject({ code: "store-unavailable", retryable: true });
          refused += 1;
          answeredAtMs = performance.now();
        } else if (isAfter && path !== "/v1/poll") doneAfter += 1;
        return answer;
      } catch {
        return undefined;
      }
    };
    const sender = async () => {
      for (;;) {
        sent += 1;
        const n = sent;
        const answer = await ask("/v1/messages", SERVICE_CREDENTIAL, { to: { user: "bob" }, type: "t", data: { n } });
        if (!answer) return;
        if (answer.status === 201) accepted.add(n);
        else expect(answer.status).toBe(503);
      }
    };
    const receiver = async () => {
      let [epoch, cursor] = [undefined as unknown, 0];
      for (;;) {
        const poll = await ask("/v1/poll", token, { receiver: "r", wait: 1, max: 50, ...(epoch === undefined ? {} : { epoch, cursor }) });
        if (!poll) return;
        if (poll.status !== 200) continue;
        epoch = field(poll.body, "epoch");
        cursor = Number(field(poll.body, "cursor"));
        // Every other one.
        const some = (field(poll.body, "deliveries") as { seq: number; event: { data: { n: number } } }[]).filter(({ seq }) => seq % 2 === 0);
        if (some.length === 0) continue;
        for (const { event } of some) ackAsked.add(event.data.n);
        const answer = await ask("/v1/ack", token, { receiver: "r", epoch, cursor, seqs: some.map(({ seq }) => seq) });
        if (answer?.status === 200) for (const { event } of some) acked.add(event.data.n);
      }
    };
    const load = Promise.all([...Array.from({ length: SENDERS }, sender), receiver()]);
    await expect.poll(() => acked.size, { timeout: 20_000, interval: 5 }).toBeGreaterThan(20);
    await new Promise((resolve) => setTimeout(resolve, random() * 200));
    await writeFile(disk.control, fault);
    const failedAtMs = performance.now();
    expect(await server.ended(), "killed, or ended with an error").not.toBe(0);
    const endedMs = performance.now() - failedAtMs;
    await load;
    expect(doneAfter, "asked for after the first 503, and done").toBe(0);
    expect(server.output).toMatch(/FATAL.*must stop.*nothing that was accepted is lost/);

    const again = await start(port, data);
    const there = new Set<number>();
    for (let [epoch, cursor] = [undefined as unknown, 0]; ; ) {
      const poll = await call(`${again.url}/v1/poll`, { token, body: { receiver: "s", wait: 0, ...(epoch === undefined ? {} : { epoch, cursor }) } });
      if (poll.status !== 200) break;
      epoch = field(poll.body, "epoch");
      cursor = Number(field(poll.body, "cursor"));
      for (const { event } of field(poll.body, "deliveries") as { event: { data: { n: number } } }[]) there.add(event.data.n);
    }
    expect(await again.terminate(), "SIGTERM is a clean end").toBe(0);
    return {
      accepted: accepted.size,
      refused,
      answeredMs: answeredAtMs - failedAtMs,
      endedMs,
      // What was refused may be there, if only its sync failed; what was accepted must be.
      lost: [...accepted].filter((n) => !ackAsked.has(n) && !there.has(n)),
      back: [...acked].filter((n) => there.has(n)),
    };
  }
});
