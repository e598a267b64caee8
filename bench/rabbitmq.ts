/**
 * The RabbitMQ engine by itself: accepted, delivered and acknowledged a second, and what node and broker spend on it.
 * node bench/rabbitmq.ts amqp://guest:guest@127.0.0.1:5672 <pid of the broker | 0: SQLite alone> [pairs] [in flight] [seconds]
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Engine } from "../src/engine.ts";
import { rabbitmqEngine } from "../src/engines/rabbitmq.ts";
import { sqliteEngine } from "../src/engines/sqlite.ts";
import type { MessageId, SessionId, UserId } from "../src/protocol.ts";

const [url = "", broker = "0", pairs = "50", inFlight = "64", seconds = "4"] = process.argv.slice(2);
const dir = mkdtempSync(join(tmpdir(), "handover-bench-"));
const index = sqliteEngine({ dir });
const engine: Engine = broker === "0" ? index : rabbitmqEngine({ url, index, journal: `bench-${process.pid}` });
await engine.open((cause) => {
  throw cause;
});

/** CPU time of a process, in microseconds; the kernel counts in ticks of 10 ms. */
function cpuUs(pid: string | number): number {
  if (pid === "0") return 0;
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

let acknowledged = 0;
let isOver = false;
let serial = 0;
const waits: number[] = [];
const session = "s" as SessionId;
const users = Array.from({ length: Number(pairs) }, (_none, n) => `user-${n}` as UserId);
/** Per user, senders whose message is not acknowledged yet: the loop is closed by the acknowledgement. */
const unacknowledged = new Map<UserId, (() => void)[]>();
for (const user of users) {
  const senders: (() => void)[] = [];
  unacknowledged.set(user, senders);
  let waiting: number[] = [];
  let isBusy = false;
  const settle = async () => {
    isBusy = true;
    while (waiting.length > 0) {
      const seqs = waiting;
      waiting = [];
      const { length } = await attachment.settle([{ kind: "acked", seqs }], session);
      acknowledged += length;
      for (const next of senders.splice(0, length)) next();
    }
    isBusy = false;
  };
  const attachment = await engine.attach(user, {
    deliver: (entries) => {
      waiting.push(...entries.map(({ seq }) => seq));
      if (!isBusy) settle().catch((thrown: unknown) => console.error(String(thrown)));
    },
    ended: () => {},
    lost: (cause) => console.error(cause.message),
  });
}

async function send(user: UserId): Promise<void> {
  while (!isOver) {
    serial += 1;
    const id = `0190b3a5-0000-7000-8000-${String(serial).padStart(12, "0")}` as MessageId;
    const acceptedAtMs = Date.now();
    const event = JSON.stringify({
      specversion: "1.0",
      id,
      source: "/users/alice",
      type: "test",
      time: "2026-11-23T00:00:00Z",
      data: "x".repeat(180),
    });
    const begun = performance.now();
    const isAcknowledged = new Promise<void>((resolve) => unacknowledged.get(user)?.push(resolve));
    const [result] = await engine.append([
      { id, source: "/users/alice", event, acceptedAtMs, expiresAtMs: acceptedAtMs + 3600_000, ttlSeconds: 3600, recipients: [{ user }] },
    ]);
    if (result?.outcome !== "stored") throw new Error(`${result?.outcome}`);
    waits.push(performance.now() - begun);
    await isAcknowledged;
  }
}
const senders = users.flatMap((user) => Array.from({ length: Number(inFlight) }, () => send(user)));
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
await pause(1_500);
const before = { acknowledged, broker: cpuUs(broker), node: cpuUs(process.pid), atMs: performance.now() };
waits.length = 0;
await pause(Number(seconds) * 1_000);
const count = acknowledged - before.acknowledged;
waits.sort((one, other) => one - other);
console.log(
  JSON.stringify({
    engine: engine.name,
    pairs: Number(pairs),
    inFlight: Number(inFlight),
    perSecond: Math.round((count / (performance.now() - before.atMs)) * 1_000),
    brokerUs: Number(((cpuUs(broker) - before.broker) / count).toFixed(1)),
    nodeUs: Number(((cpuUs(process.pid) - before.node) / count).toFixed(1)),
    acceptedP50Ms: Number((waits[waits.length >> 1] ?? 0).toFixed(2)),
    acceptedP99Ms: Number((waits[Math.floor(waits.length * 0.99)] ?? 0).toFixed(2)),
  }),
);
isOver = true;
await Promise.all(senders);
await engine.close();
rmSync(dir, { recursive: true });
