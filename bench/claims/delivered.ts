/** @module */
import type { Claim } from "../claim.ts";
import { SYSTEMS } from "../systems.ts";

export const delivered: Claim = {
  name: "delivered",
  title: "Delivered and acknowledged, as fast as it goes",
  text: "Closed loop: each pair keeps so many messages under way, each until it is accepted and acknowledged.",
  async run(bench) {
    const shapes = [
      { name: "1 pair × 64", pairs: 1, inFlight: 64, receives: true },
      { name: "50 pairs × 64", pairs: bench.count(50, 3), inFlight: bench.count(64, 4), receives: true },
      { name: "500 pairs × 8", pairs: bench.count(500, 5), inFlight: bench.count(8, 2), receives: true },
    ];
    await bench.drives(SYSTEMS, shapes, bench.timing(800, 2_200), (row, run) => bench.noteRun(row, run));
  },
};
