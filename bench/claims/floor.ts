/** @module */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { Claim } from "../claim.ts";
import { drive, type Shape, type Timing } from "../drive.ts";
import { cpuMs, MAIN_THREAD, threadsMs } from "../measure.ts";
import { startHandover } from "../systems/handover.ts";

const PARTS = new URL("../parts.ts", import.meta.url).pathname;
const STORE_THREAD = "handover-store";
const COLUMN = "µs/message";

/** What parts.ts calls them, and the table. */
const ALONE = [
  ["json", "JSON: a frame of 64 read, its events written"],
  ["prepare", "the same as Handover does it: checked, with id, event and hash"],
  ["sqlite", "SQLite: a row of 450 bytes, deleted one commit later"],
  ["sqlite-day", "the same, and its state and key kept for a day"],
  ["store", "Handover's store, its two threads: appended by key, acknowledged one commit later"],
  ["spread-few", "SQLite: the last number of a mailbox, and an entry of an index; of 100 mailboxes"],
  ["spread-many", "the same, of 1,000,000 mailboxes"],
] as const;
/** … and of those that come one at a time. */
const PACED = [
  ["pace", "two timers of 1 ms, which are in each of the following"],
  ["threads-paced", "two questions to another thread, and their answers"],
  ["commits-paced", "SQLite: two commits with their syncs, a row of 450 bytes comes and goes"],
  ["store-paced", "Handover's store, its two threads: appended by key, then acknowledged"],
] as const;

/** @returns µs a message: of the process, and by thread */
async function byThread(load: Pick<Shape, "pairs" | "inFlight" | "perSecond">, timing: Timing): Promise<Readonly<Record<string, number>>> {
  const server = await startHandover();
  try {
    const looks: { readonly allMs: number; readonly threads: ReadonlyMap<string, number> }[] = [];
    const look = () => looks.push({ allMs: cpuMs(server.pids), threads: threadsMs(server.pid) });
    const { us } = await drive(server, "handover-websocket", { ...load, receives: true }, timing, look);
    const [before, after] = looks;
    if (!before || !after) throw new Error("The measured time has no two ends.");
    const usOf = (thread: string) => {
      const [from, to] = [before.threads.get(thread), after.threads.get(thread)];
      if (from === undefined || to === undefined)
        throw new Error(`The server has no thread ${thread}; it has ${[...after.threads.keys()].join(", ")}.`);
      return (us * (to - from)) / (after.allMs - before.allMs);
    };
    const [main, store] = [usOf(MAIN_THREAD), usOf(STORE_THREAD)];
    // The ticks of threads and those of their process are cut off each by themselves.
    return { "the whole process": us, "main thread": main, "the store's thread": store, "V8's helpers and the rest": Math.max(0, us - main - store) };
  } finally {
    await server.stop();
  }
}

async function alone(part: string, measuredMs: number): Promise<number> {
  const { stdout } = await promisify(execFile)(process.execPath, [PARTS, part, String(measuredMs)]);
  return Number(stdout);
}

export const floor: Claim = {
  name: "floor",
  title: "What the parts cost",
  text: "*Handover*: over WebSocket, the server's CPU in the measured time, by the share that each thread had of it then. *Alone*: one part in a process of its own (bench/parts.ts), all threads of it, with nothing beside it and no sockets; 64 messages a frame, 512 a commit, 300 bytes of data; *one at a time*: a message that shares nothing, with a millisecond before it comes and one before it goes. A part alone is what that work costs at least as it is written there, not a share of the lines above. The day's state is that of the few seconds that it runs: the trees of a whole day are larger.",
  async run(bench) {
    if (!bench.isChosen("handover")) return;
    // What comes one at a time is compiled late, too (`timingOfFew`).
    const parts = [
      ...ALONE.map(([part, title]) => ({ row: `alone | ${title}`, part, measuredMs: bench.count(1_500, 20) })),
      ...PACED.map(([part, title]) => ({ row: `alone, one at a time | ${title}`, part, measuredMs: bench.count(10_000, 20) })),
    ];
    const loads = {
      "Handover, 50 pairs × 64": { load: { pairs: bench.count(50, 3), inFlight: bench.count(64, 4) }, timing: bench.timing(800, 2_200) },
      "Handover, 1,000 a second": { load: { pairs: bench.count(50, 5), perSecond: 1_000 }, timing: bench.timingOfFew },
    };
    for (let round = 0; round < bench.chosen.rounds; round++) {
      for (const [row, { load, timing }] of Object.entries(loads)) {
        try {
          for (const [thread, us] of Object.entries(await byThread(load, timing))) bench.note(`${row} | ${thread}`, { [COLUMN]: us });
        } catch (thrown) {
          bench.failed(row, thrown);
        }
      }
      const measure = async ({ row, part, measuredMs }: (typeof parts)[number]) => {
        try {
          bench.note(row, { [COLUMN]: await alone(part, measuredMs) });
        } catch (thrown) {
          bench.failed(row, thrown);
        }
      };
      // Where nothing is measured, they need not be alone.
      if (bench.chosen.isSmoke) await Promise.all(parts.map(measure));
      else for (const each of parts) await measure(each);
    }
  },
};
