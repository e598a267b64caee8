/** @module */
import type { Claim } from "../claim.ts";
import { SYSTEMS } from "../systems.ts";

export const fanOut: Claim = {
  name: "fan-out",
  title: "One message to 100 users",
  text: "4 messages under way, each to 100 receivers; each delivered and acknowledged copy counts. Handover: `to.users`; MQTT: one topic; RabbitMQ: a fanout exchange with 100 quorum queues.",
  async run(bench) {
    const shapes = [{ name: "to 100", pairs: 1, inFlight: bench.count(4, 1), fanOut: bench.count(100, 4), receives: true }];
    const systems = SYSTEMS.filter(({ name }) => ["handover", "rabbitmq", "mosquitto"].includes(name)).map((system) => ({
      ...system,
      wires: system.wires.slice(0, 1),
    }));
    await bench.drives(systems, shapes, bench.timing(500, 3_000), (row, run) => {
      const [p50 = Number.NaN, p99 = Number.NaN] = run.latencies;
      bench.note(row, { "copies/s": run.perSecond, "µs/copy": run.us, "p50 ms": p50, "p99 ms": p99 });
    });
  },
};
