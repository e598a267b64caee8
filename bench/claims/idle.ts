/** @module */
import type { Claim } from "../claim.ts";
import { idle } from "../drive.ts";
import { HOLDERS } from "../systems.ts";

const BESIDE = 6;
/** Until every stream has begun anew once, and what that leaves is part of what is measured. */
const SETTLE_MS = 30_000;
/** In it each is asked three times whether it is there, polls six times; streams have four comments and begin anew twice and a third. */
const MEASURED_MS = 60_000;

export const idleReceivers: Claim = {
  name: "idle",
  title: "5,000 idle receivers",
  text: "By how much the server's memory grew for each, and what holding them costs: over a minute, half a minute after the last of them came, when every stream has begun anew at least once. The SDK's polls wait 10 s; a client may ask for 60. The bare servers do with an idle receiver what Handover does, and nothing else: the same polls, streams that have comments and begin anew as often, a ping every 20 s by `ws`.",
  async run(bench) {
    const all = bench
      .wiresOf(HOLDERS)
      .filter(({ missing }) => missing === undefined)
      .flatMap((system) =>
        system.wires.filter(({ wire, label }) => bench.isChosen(system.name, `${system.name}-${label}`, wire)).map((each) => ({ system, ...each })),
      );
    for (let round = 0; round < bench.chosen.rounds; round++) {
      // Five servers side by side: what each grows by and spends is its own.
      for (let from = 0; from < all.length; from += BESIDE) {
        const measure = async ({ system, wire, label }: (typeof all)[number]) => {
          const row = `${system.title}${label === "" ? "" : `, ${label}`}`;
          const server = await system.start();
          try {
            const { kb, cpu } = await idle(server, wire, bench.count(5_000, 20), bench.count(SETTLE_MS, 100), bench.count(MEASURED_MS, 100));
            bench.note(row, { "kB a receiver": kb, "% of a core": cpu });
          } catch (thrown) {
            bench.failed(row, thrown);
          }
          await server.stop();
        };
        await Promise.all(all.slice(from, from + BESIDE).map(measure));
      }
    }
  },
};
