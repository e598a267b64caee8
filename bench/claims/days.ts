/** @module */
import type { Claim } from "../claim.ts";
import { drive } from "../drive.ts";
import { fill } from "../fill.ts";
import { folderBytes, pause } from "../measure.ts";
import { folder } from "../start.ts";
import { type RunningHandover, startHandover } from "../systems/handover.ts";
import { token } from "../wires/handover.ts";
import { HttpConnection } from "../wires/http.ts";

const LATER = new URL("../later.ts", import.meta.url).pathname;
const DAY_MS = 25 * 3600_000;
const USERS = 20;

/** Bytes of the event of one waiting message. */
async function eventBytes(address: string): Promise<number> {
  const connection = await HttpConnection.open(address, await token("keeper-0"));
  const { text } = await connection.post("/v1/poll", '{"receiver":"look","wait":0,"max":1}');
  connection.close();
  const [delivery] = (JSON.parse(text) as { deliveries: { event: object }[] }).deliveries;
  return JSON.stringify(delivery?.event).length;
}

export const days: Claim = {
  name: "days",
  title: "Days of traffic in one file",
  text: "20,000 messages wait all the time. Each day, 50 pairs × 64 hand over as much as they can in 10 s; then the server is started again with a clock that is 25 hours ahead. At the end nothing comes any more for 30 s: what the data folder has then, beside the bytes of the events that wait. One run.",
  async run(bench) {
    if (!bench.isChosen("handover")) return;
    const waiting = bench.count(20_000, 100);
    const own = folder("days");
    const begin = (day: number): Promise<RunningHandover> =>
      startHandover({ data: own.path, node: ["--import", LATER], env: { BENCH_AHEAD_MS: String(day * DAY_MS) } });
    const shape = { pairs: bench.count(50, 3), inFlight: bench.count(64, 4), receives: true };
    const file = () => ({ "data folder, MB": folderBytes(own.path) / 1e6 });
    let liveMb = Number.NaN;
    try {
      const days = bench.count(3, 1);
      for (let day = 0; day < days; day++) {
        const server = await begin(day);
        if (day === 0) {
          await fill(server.address, waiting, (n) => `keeper-${n % USERS}`);
          liveMb = (waiting * (await eventBytes(server.address))) / 1e6;
          bench.note("before", { ...file(), "times the live bytes": folderBytes(own.path) / 1e6 / liveMb });
        }
        const run = await drive(server, "handover-websocket", shape, bench.timing(2_000, 8_000));
        bench.note(`day ${day + 1}`, {
          "messages/s": run.perSecond,
          "µs/message": run.us,
          ...file(),
          "times the live bytes": folderBytes(own.path) / 1e6 / liveMb,
        });
        await server.stop();
      }
      const server = await begin(days);
      await pause(bench.count(30_000, 200));
      bench.note("a day later", { ...file(), "times the live bytes": folderBytes(own.path) / 1e6 / liveMb });
      await server.stop();
    } finally {
      own.remove();
    }
  },
};
