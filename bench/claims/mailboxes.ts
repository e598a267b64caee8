/** @module */
import type { Claim } from "../claim.ts";
import { drive, type Shape } from "../drive.ts";
import { crowdFolder, fill } from "../fill.ts";
import type { Running } from "../system.ts";
import { startHandover, UNCAPPED } from "../systems/handover.ts";
import type { WireName } from "../wires.ts";

export const mailboxes: Claim = {
  name: "mailboxes",
  title: "Full mailboxes and many mailboxes",
  text: "Over WebSocket, the caps raised. *Beside*: messages are delivered and acknowledged while others wait in the same mailbox, or in 1,000,000 others. *Spread*: accepted for mailboxes chosen at random, nobody receives.",
  async run(bench) {
    if (!bench.isChosen("handover")) return;
    const waiting = bench.count(100_000, 200);
    const many = bench.count(1_000_000, 500);
    const timing = bench.timing(1_000, 3_000);
    const data = await crowdFolder(many);
    const pairs = { pairs: bench.count(50, 3), inFlight: bench.count(64, 4), receives: true };
    const one = { pairs: 1, inFlight: bench.count(64, 4), receives: true };
    const stores = { pairs: bench.count(16, 2), inFlight: bench.count(64, 4), receives: false };
    const measure = async (row: string, running: Running, wire: WireName, shape: Shape) => {
      try {
        bench.noteRun(row, await drive(running, wire, shape, timing));
      } catch (thrown) {
        bench.failed(row, thrown);
      }
    };
    for (let round = 0; round < bench.chosen.rounds; round++) {
      const small = await startHandover({ env: UNCAPPED });
      await measure("one mailbox × 64, beside | nothing waiting", small, "handover-from-head", one);
      await fill(small.address, waiting, () => "receiver-0");
      await measure("one mailbox × 64, beside | 100,000 waiting", small, "handover-from-head", one);
      await small.stop();
      if (!bench.chosen.isSmoke) {
        const fresh = await startHandover({ env: UNCAPPED });
        await measure("50 pairs × 64, beside | no other mailboxes", fresh, "handover-websocket", pairs);
        await measure("1,024 in flight, spread | over 100 mailboxes", fresh, "handover-to-100", stores);
        await fresh.stop();
      }
      const crowded = await startHandover({ data, env: UNCAPPED });
      if (!bench.chosen.isSmoke) await measure("50 pairs × 64, beside | 1,000,000 other mailboxes", crowded, "handover-websocket", pairs);
      await measure("1,024 in flight, spread | over 1,000,000 mailboxes", crowded, "handover-to-1000000", stores);
      await crowded.kill();
    }
  },
};
