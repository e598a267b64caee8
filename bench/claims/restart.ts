/** @module */
import type { Claim } from "../claim.ts";
import { crowdFolder } from "../fill.ts";
import { folderBytes, pause } from "../measure.ts";
import { startHandover, UNCAPPED } from "../systems/handover.ts";
import { token } from "../wires/handover.ts";
import { HttpConnection } from "../wires/http.ts";

export const restart: Claim = {
  name: "restart",
  title: "Start after `kill -9` with 1,000,000 messages waiting",
  text: "One in each of 1,000,000 mailboxes. From the start of the process until `/readyz` says 200, and until the first waiting message is in a receiver's hand; then killed again.",
  async run(bench) {
    if (!bench.isChosen("handover")) return;
    const mailboxes = bench.count(1_000_000, 500);
    const data = await crowdFolder(mailboxes);
    for (let round = 0; round < bench.chosen.rounds; round++) {
      const begunAtMs = performance.now();
      const server = await startHandover({ data, env: UNCAPPED });
      while ((await fetch(`${server.address}/readyz`)).status !== 200) await pause(2);
      const readyMs = performance.now() - begunAtMs;
      const user = `crowd-${Math.floor(Math.random() * mailboxes)}`;
      const connection = await HttpConnection.open(server.address, await token(user));
      const { text } = await connection.post("/v1/poll", '{"receiver":"bench","wait":10}');
      if ((JSON.parse(text) as { deliveries: unknown[] }).deliveries.length === 0) throw new Error(`${user} had nothing waiting: ${text}`);
      const deliveredMs = performance.now() - begunAtMs;
      connection.close();
      bench.note("Handover", { "ready, ms": readyMs, "first message, ms": deliveredMs, "data folder, MB": folderBytes(data) / 1e6 });
      await server.kill();
    }
  },
};
