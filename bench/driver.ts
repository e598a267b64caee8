/**
 * One of the two driving processes: `sender` or `receiver`. The parent (drive.ts) tells it what to do by IPC; the receiver tells the sender over a
 * local socket how many messages of which pair are acknowledged.
 * @module
 */
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { nowUs, percentile } from "./measure.ts";
import { type Command, type Counts, LATENCIES, type Plan, type Reply } from "./plan.ts";
import { type Body, bodyOf, type Sender } from "./wire.ts";
import { wireOf } from "./wires.ts";

/** Ends open so many at a time. */
const OPENING = 50;
/** How long what is under way may take when the load ends. */
const REST_MS = 60_000;

const latencies = new Float64Array(2_000_000);
let latencyCount = 0;
const counts = { sent: 0, accepted: 0, delivered: 0, acknowledged: 0, twice: 0, missed: 0 };

function note(us: number): void {
  if (latencyCount < latencies.length) latencies[latencyCount++] = us / 1_000;
}

async function openAll<T>(pairs: number, open: (pair: number) => Promise<T>): Promise<T[]> {
  const opened: T[] = [];
  for (let from = 0; from < pairs; from += OPENING) {
    const some = Array.from({ length: Math.min(OPENING, pairs - from) }, (_none, n) => open(from + n));
    opened.push(...(await Promise.all(some)));
  }
  return opened;
}

interface End {
  go(): void;
  /** No new messages; resolves when all that were sent have had their answers, or the time is over. */
  finish(): Promise<void>;
}

/** Keeps so many messages of each pair under way, or sends so many a second over all of them. */
async function runSender(plan: Plan): Promise<End> {
  const wire = wireOf(plan.wire);
  const pairs = Array.from({ length: plan.pairs }, () => ({ n: 0, accepted: 0, acknowledged: 0, isDirty: false }));
  const senders: Sender[] = [];
  const sentAt: number[][] = pairs.map(() => []);
  let isGoing = false;
  let dirty: number[] = [];
  const copies = plan.fanOut ?? 1;
  const send = (pair: number, count: number) => {
    const state = pairs[pair];
    if (!state) return;
    const bodies: string[] = [];
    const at = nowUs();
    for (let k = 0; k < count; k++) {
      bodies.push(bodyOf(pair, state.n++));
      if (plan.acceptLatency) sentAt[pair]?.push(at);
    }
    counts.sent += count;
    senders[pair]?.send(bodies);
  };
  const refill = () => {
    const those = dirty;
    dirty = [];
    for (const pair of those) {
      const state = pairs[pair];
      if (!state) continue;
      state.isDirty = false;
      if (!isGoing || plan.inFlight === undefined) continue;
      const done = plan.receives ? Math.min(state.accepted, Math.floor(state.acknowledged / copies)) : state.accepted;
      const room = plan.inFlight - (state.n - done);
      if (room > 0) send(pair, room);
    }
  };
  const touch = (pair: number) => {
    const state = pairs[pair];
    if (!state || state.isDirty) return;
    state.isDirty = true;
    if (dirty.length === 0) setImmediate(refill);
    dirty.push(pair);
  };
  const accepted = (pair: number) => (count: number) => {
    counts.accepted += count;
    const state = pairs[pair];
    if (state) state.accepted += count;
    if (plan.acceptLatency) for (const at of sentAt[pair]?.splice(0, count) ?? []) note(nowUs() - at);
    touch(pair);
  };
  if (plan.progress) {
    const server = createServer((socket) => {
      let rest: Buffer = Buffer.alloc(0);
      socket.on("data", (part: Buffer) => {
        const data = rest.length === 0 ? part : Buffer.concat([rest, part]);
        let at = 0;
        for (; at + 8 <= data.length; at += 8) {
          const pair = data.readUInt32LE(at);
          const state = pairs[pair];
          if (state) state.acknowledged += data.readUInt32LE(at + 4);
          counts.acknowledged += data.readUInt32LE(at + 4);
          touch(pair);
        }
        rest = data.subarray(at);
      });
    }).listen(plan.progress);
    await once(server, "listening");
  }
  const { fanOut, sender: one } = wire;
  if (!one) throw new Error(`${plan.wire} has no sending end.`);
  const { absent } = wire;
  if (!plan.receives && absent) await openAll(plan.pairs, (pair) => absent(plan.address, pair));
  const open =
    plan.fanOut && fanOut ? () => fanOut(plan.address, plan.fanOut ?? 1, accepted(0)) : (pair: number) => one(plan.address, pair, accepted(pair));
  senders.push(...(await openAll(plan.pairs, open)));
  let ticker: NodeJS.Timeout | undefined;
  return {
    go() {
      isGoing = true;
      if (plan.inFlight !== undefined) for (const pair of pairs.keys()) touch(pair);
      const { perSecond } = plan;
      if (perSecond === undefined) return;
      const begun = nowUs();
      let total = 0;
      ticker = setInterval(() => {
        // What was due while the timer was late goes now; each message's time begins when it really goes.
        const due = Math.floor(((nowUs() - begun) * perSecond) / 1_000_000);
        for (; total < due; total++) send(total % plan.pairs, 1);
      }, 1);
    },
    async finish() {
      isGoing = false;
      clearInterval(ticker);
      await rest(() => counts.accepted >= counts.sent && (!plan.receives || counts.acknowledged >= counts.sent * copies));
    },
  };
}

async function runReceiver(plan: Plan): Promise<End> {
  const wire = wireOf(plan.wire);
  const { receiver } = wire;
  if (!receiver) throw new Error(`${plan.wire} has no receiving end.`);
  let progress: Socket | undefined;
  if (plan.progress) {
    progress = connect(plan.progress);
    await once(progress, "connect");
  }
  const news = new Map<number, number>();
  const tell = () => {
    const buffer = Buffer.allocUnsafe(news.size * 8);
    let at = 0;
    for (const [pair, count] of news) {
      buffer.writeUInt32LE(plan.fanOut ? 0 : pair, at);
      buffer.writeUInt32LE(count, at + 4);
      at += 8;
    }
    news.clear();
    progress?.write(buffer);
  };
  const open = (pair: number) => {
    let expected = 0;
    return receiver(plan.address, pair, {
      delivered(bodies: readonly Body[]) {
        const now = nowUs();
        counts.delivered += bodies.length;
        for (const { pair: from, n, at } of bodies) {
          if (from !== pair && !plan.fanOut) throw new Error(`Pair ${pair} was given a message of pair ${from}.`);
          // In order and once each; what comes below was had before, what was jumped over is missing unless it comes.
          if (n === expected) expected += 1;
          else if (n < expected) counts.twice += 1;
          else {
            counts.missed += n - expected;
            expected = n + 1;
          }
          note(now - at);
        }
      },
      acknowledged(count: number) {
        counts.acknowledged += count;
        if (count === 0) return;
        if (news.size === 0) setImmediate(tell);
        news.set(pair, (news.get(pair) ?? 0) + count);
      },
    });
  };
  await openAll(plan.fanOut ?? plan.pairs, open);
  return { go() {}, finish: () => Promise.resolve() };
}

async function rest(isDone: () => boolean): Promise<void> {
  const deadline = performance.now() + REST_MS;
  while (!isDone() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
}

function snapshot(): Counts {
  const { user, system } = process.cpuUsage();
  return { ...counts, atUs: nowUs(), cpuUs: user + system };
}

/** The latencies since the last time, in ms. */
function takeLatencies(): number[] {
  const sorted = latencies.subarray(0, latencyCount).sort();
  latencyCount = 0;
  return LATENCIES.map((share) => percentile(sorted, share));
}

const reply = (message: Reply) => process.send?.(message);
let end: End | undefined;
process.on("message", (command: Command) => {
  obey(command).catch((thrown: unknown) => {
    console.error(thrown);
    process.exit(1);
  });
});

async function obey(command: Command): Promise<void> {
  switch (command.op) {
    case "plan":
      end = await (command.plan.role === "sender" ? runSender(command.plan) : runReceiver(command.plan));
      break;
    case "go":
      end?.go();
      break;
    case "mark":
      break;
    case "finish":
      await end?.finish();
      break;
  }
  reply({ op: command.op, counts: snapshot(), latencies: takeLatencies() });
}
process.on("disconnect", () => process.exit(0));
