/**
 * One measured run: starts the two driving processes, warms up, measures, checks that every serial number came once.
 * @module
 */
import { fork } from "node:child_process";
import { join } from "node:path";
import { cpuMs, pause, rssKb } from "./measure.ts";
import type { Command, Plan, Reply } from "./plan.ts";
import { folder } from "./start.ts";
import type { Running } from "./system.ts";
import type { WireName } from "./wires.ts";

const DRIVER = new URL("./driver.ts", import.meta.url).pathname;

/** What a run is to do. */
export interface Shape extends Pick<Plan, "pairs" | "inFlight" | "perSecond" | "fanOut" | "acceptLatency"> {
  readonly receives: boolean;
}

export interface Timing {
  readonly warmUpMs: number;
  readonly measuredMs: number;
}

export interface Run {
  /** Messages a second that were accepted and, with receivers, acknowledged; of a fan-out, each copy counts. */
  readonly perSecond: number;
  /** Server CPU, µs a message of those. */
  readonly us: number;
  /** Cores that the server, the sender and the receiver had. */
  readonly cores: number;
  readonly senderCores: number;
  readonly receiverCores: number;
  /** From the send to the delivery (or to the answer, without receivers), ms: p50, p99, p99.9. */
  readonly latencies: readonly number[];
}

class Driving {
  readonly #child;
  constructor() {
    this.#child = fork(DRIVER, { serialization: "advanced" });
  }

  ask(command: Command): Promise<Reply> {
    const child = this.#child;
    return new Promise((resolve, reject) => {
      const ended = (code: number | null) => reject(new Error(`A driver ended with ${code}.`));
      child.once("exit", ended);
      child.once("message", (reply: Reply) => {
        child.off("exit", ended);
        resolve(reply);
      });
      child.send(command);
    });
  }

  end(): void {
    this.#child.kill("SIGKILL");
  }
}

/**
 * @param marked  told when the measured time begins and when it ends, for what else is to be read then
 * @throws Error when a message was lost, came twice or out of order, or did not come in time
 */
export async function drive(running: Running, wire: WireName, shape: Shape, timing: Timing, marked: () => void = () => {}): Promise<Run> {
  const sockets = folder("progress");
  const sender = new Driving();
  const receiver = shape.receives ? new Driving() : undefined;
  const { receives, ...rest } = shape;
  const plan = { ...rest, receives, wire, address: running.address, progress: receives ? join(sockets.path, "s") : undefined };
  try {
    // The sender listens for the receiver; the receivers are there before the first message.
    await sender.ask({ op: "plan", plan: { ...plan, role: "sender" } });
    await receiver?.ask({ op: "plan", plan: { ...plan, role: "receiver" } });
    await sender.ask({ op: "go" });
    await pause(timing.warmUpMs);
    const mark = async () => {
      const cpu = cpuMs(running.pids);
      marked();
      const [of, to] = await Promise.all([sender.ask({ op: "mark" }), receiver?.ask({ op: "mark" })]);
      return { cpu, of, to };
    };
    const before = await mark();
    await pause(timing.measuredMs);
    const after = await mark();
    const { counts } = await sender.ask({ op: "finish" });
    const last = await receiver?.ask({ op: "mark" });
    check(counts, last?.counts, shape);
    const seconds = (after.of.counts.atUs - before.of.counts.atUs) / 1_000_000;
    const of = (receives ? after.to : after.of)?.counts;
    const was = (receives ? before.to : before.of)?.counts;
    const done = receives ? (of?.acknowledged ?? 0) - (was?.acknowledged ?? 0) : (of?.accepted ?? 0) - (was?.accepted ?? 0);
    const cores = (from?: Reply, to?: Reply) => (from && to ? (to.counts.cpuUs - from.counts.cpuUs) / 1_000_000 / seconds : 0);
    return {
      perSecond: done / seconds,
      us: ((after.cpu - before.cpu) * 1_000) / done,
      cores: (after.cpu - before.cpu) / 1_000 / seconds,
      senderCores: cores(before.of, after.of),
      receiverCores: cores(before.to, after.to),
      latencies: (receives && !shape.acceptLatency ? after.to : after.of)?.latencies ?? [],
    };
  } finally {
    sender.end();
    receiver?.end();
    sockets.remove();
  }
}

function check(sent: Reply["counts"], got: Reply["counts"] | undefined, { fanOut }: Shape): void {
  const said = `${JSON.stringify(sent)} ${JSON.stringify(got)}`;
  if (sent.accepted !== sent.sent) throw new Error(`Not every message was answered: ${said}`);
  if (!got) return;
  if (got.delivered !== sent.sent * (fanOut ?? 1) || got.twice + got.missed > 0) throw new Error(`Lost, given twice or out of order: ${said}`);
}

export interface Idle {
  /** kB a receiver: how much the server's memory grew. */
  readonly kb: number;
  /** Of one core, percent. */
  readonly cpu: number;
}

/** So many receivers that get nothing. @param settleMs  how long after the last of them came it is measured */
export async function idle(running: Running, wire: WireName, receivers: number, settleMs: number, measuredMs: number): Promise<Idle> {
  const plan = { role: "receiver", wire, address: running.address, receives: true } as const;
  // The first few make the server load what it needs.
  const first = new Driving();
  await first.ask({ op: "plan", plan: { ...plan, pairs: Math.min(receivers, 50) } });
  first.end();
  await pause(Math.min(settleMs, 1_000));
  const before = rssKb(running.pids);
  const driving = new Driving();
  try {
    await driving.ask({ op: "plan", plan: { ...plan, pairs: receivers } });
    await pause(settleMs);
    const [cpu, atMs] = [cpuMs(running.pids), performance.now()];
    await pause(measuredMs);
    return { cpu: ((cpuMs(running.pids) - cpu) / (performance.now() - atMs)) * 100, kb: (rssKb(running.pids) - before) / receivers };
  } finally {
    driving.end();
  }
}
