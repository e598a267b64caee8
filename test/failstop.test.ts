/**
 * A disk that cannot be trusted any more, as a client and an operator see it: the real command on a disk whose syncs fail or hang.
 * @module
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, test } from "vitest";
import { call } from "../src/testing/wire.ts";
import { CommandServer, freePort } from "./support/command.ts";
import { type FaultyDisk, makeFaultyDisk } from "./support/disk.ts";
import { COMPILER, describeWith } from "./support/needs.ts";
import { SERVICE_CREDENTIAL } from "./support/started.ts";

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

  test.each(["eio", "hang"])(
    "[K9] a sync that fails (%s): 503, a clear line, the end of the process; nothing that was accepted is lost",
    {
      timeout: 60_000,
    },
    async (fault) => {
      const folder = await mkdtemp(join(tmpdir(), "handover-failstop-"));
      folders.push(folder);
      const disk: FaultyDisk = makeFaultyDisk(folder);
      const port = await freePort();
      const data = join(folder, "data");
      const send = (url: string, n: number) =>
        call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user: "bob" }, type: "t", data: { n } } });

      const server = await start(port, data, [], { LD_PRELOAD: disk.library });
      expect((await send(server.url, 1)).status).toBe(201);
      await writeFile(disk.control, fault);
      const failedAtMs = performance.now();
      const answers = await Promise.all([2, 3, 4].map((n) => send(server.url, n)));
      for (const answer of answers) {
        expect(answer.status).toBe(503);
        expect(answer.body).toMatchObject({ code: "store-unavailable", retryable: true });
      }
      expect(await server.ended(), "killed, or ended with an error").not.toBe(0);
      expect(performance.now() - failedAtMs, "from the fault to the end of the process, ms").toBeLessThan(8_000);
      expect(server.output).toMatch(/FATAL.*must stop.*nothing that was accepted is lost/);

      const again = await start(port, data);
      const session = await call(`${again.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user: "bob" } });
      const { token } = session.body as { token: string };
      const poll = await call(`${again.url}/v1/poll`, { token, body: { receiver: "r" } });
      const delivered = (poll.body as { deliveries: { event: { data: { n: number } } }[] }).deliveries.map(({ event }) => event.data.n);
      // What was refused may be there, if only its sync failed; what was accepted must be.
      expect(delivered).toContain(1);
      expect(await again.terminate(), "SIGTERM is a clean end").toBe(0);
    },
  );
});
