/** @module */
import type { Claim } from "../claim.ts";
import { STORES } from "../systems.ts";

export const sends: Claim = {
  name: "sends",
  title: "Accepted, with nobody there to receive",
  text: "Closed by the answer: so many messages are under way, over 1, 1 and 16 connections (by POST one each). The times are from the send to the answer.",
  async run(bench) {
    const shapes = [
      { name: "1 in flight", pairs: 1, inFlight: 1 },
      { name: "64 in flight", pairs: 1, inFlight: bench.count(64, 4) },
      { name: "1,024 in flight", pairs: bench.count(16, 2), inFlight: bench.count(64, 4) },
    ].map((shape) => ({ ...shape, receives: false, acceptLatency: true }));
    await bench.drives(bench.wiresOf(STORES), shapes, bench.timing(500, 2_000), (row, run) => {
      const [p50 = Number.NaN, p99 = Number.NaN] = run.latencies;
      bench.noteRun(row, run, { "p50 ms": p50, "p99 ms": p99 });
    });
  },
};
