/** @module */
import type { Claim } from "../claim.ts";
import { SYSTEMS } from "../systems.ts";

export const latency: Claim = {
  name: "latency",
  title: "At 1,000 messages a second",
  text: "Open loop over 50 pairs. The times are from the send to the receiver's hand, on one clock.",
  async run(bench) {
    const shapes = [{ name: "1,000 a second", pairs: bench.count(50, 5), perSecond: 1_000, receives: true }];
    await bench.drives(bench.wiresOf(SYSTEMS.filter(({ name }) => name !== "handover-on-rabbitmq")), shapes, bench.timingOfFew, (row, run) => {
      const [p50 = Number.NaN, p99 = Number.NaN, p999 = Number.NaN] = run.latencies;
      bench.note(row, { "p50 ms": p50, "p99 ms": p99, "p99.9 ms": p999, "µs/message": run.us, "messages/s": run.perSecond });
    });
  },
};
