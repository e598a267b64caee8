/** @module */
import type { Claim } from "../claim.ts";
import { idle } from "../drive.ts";
import { HOLDERS } from "../systems.ts";

export const idleReceivers: Claim = {
  name: "idle",
  title: "5,000 idle receivers",
  text: "By how much the server's memory grew for each, and what holding them costs, over 20 s, in which each is asked once whether it is there. The SDK's polls wait 10 s; a client may ask for 60.",
  async run(bench) {
    await bench.rounds(HOLDERS, async (running, system, isWire) => {
      for (const { wire, label } of system.wires) {
        if (!isWire(wire, label)) continue;
        // Each wire its own process: memory that one has freed would be found by the next.
        const own = system.wires.length > 1 ? await system.start() : running;
        const { kb, cpu } = await idle(own, wire, bench.count(5_000, 20), bench.count(20_000, 100));
        bench.note(`${system.title}${label === "" ? "" : `, ${label}`}`, { "kB a receiver": kb, "% of a core": cpu });
        if (own !== running) await own.stop();
      }
    });
  },
};
