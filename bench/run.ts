/**
 * `npm run bench`: all claims, three rounds, written to bench/results.md.
 * `npm run bench -- delivered latency --systems handover,mosquitto --rounds 1`: some of it, printed only.
 * @module
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Bench } from "./claim.ts";
import { CLAIMS } from "./claims.ts";
import { aboutGoals } from "./goals.ts";
import { aboutMachine, aboutSystems } from "./report.ts";
import { installPeers } from "./wires/packages.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "3" },
    systems: { type: "string", default: "" },
    /** Also writes the report of a part, into this file. */
    out: { type: "string" },
    smoke: { type: "boolean", default: false },
  },
});
const chosen = {
  rounds: Number(values.rounds),
  systems: values.systems.toLowerCase().split(",").filter(Boolean),
  isSmoke: values.smoke,
};
for (const name of positionals) {
  if (!CLAIMS.some((claim) => claim.name === name))
    throw new Error(`There is no claim ${name}; there are ${CLAIMS.map((claim) => claim.name).join(", ")}.`);
}
installPeers();
const isWhole = positionals.length === 0 && chosen.systems.length === 0 && !chosen.isSmoke;
const out = values.out ?? (isWhole ? new URL("results.md", import.meta.url).pathname : undefined);
const above = [aboutMachine(chosen.rounds), aboutSystems(chosen.systems)];
const parts: string[] = [];
const benches = new Map<string, Bench>();
for (const claim of CLAIMS) {
  if (positionals.length > 0 && !positionals.includes(claim.name)) continue;
  console.log(`${claim.name}: ${claim.title}`);
  const bench = new Bench(chosen, (line) => console.log(line));
  benches.set(claim.name, bench);
  const begunAtMs = Date.now();
  try {
    await claim.run(bench);
  } catch (thrown) {
    bench.failed(claim.name, thrown);
  }
  const seconds = Math.round((Date.now() - begunAtMs) / 1000);
  const part = `## ${claim.title}\n\n\`npm run bench -- ${claim.name}\`. ${claim.text}\n\n${bench.table}\n\n${aboutMachine.load()}; it took ${seconds} s.\n`;
  console.log(`\n${part}`);
  parts.push(part);
  // What is measured is kept, also when the run is broken off.
  if (out) writeFileSync(out, [...above, aboutGoals(benches), ...parts].join("\n"));
}
console.log(aboutGoals(benches));
process.exit(0);
