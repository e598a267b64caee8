/**
 * A RabbitMQ of a test's own, on free ports, that may be killed and filled. The one that runs on the machine is everybody's: there a test
 * makes journals of random names and removes them.
 * @module
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Connection } from "rabbitmq-client";
import { until } from "../../src/testing/engine-bench.ts";
import { AMQP_URL, type Need } from "./needs.ts";
import { freePort, isListening } from "./port.ts";

const BIN = "/usr/lib/rabbitmq/bin";
const START_MS = 60_000;

export const OWN_RABBITMQ: Need = {
  isThere: existsSync(join(BIN, "rabbitmq-server")),
  reason: "there is no RabbitMQ to start",
  how: "apt-get install rabbitmq-server",
};

export class Broker {
  readonly url: string;
  readonly #dir: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #port: number;
  #process: ChildProcess | undefined;

  constructor(dir: string, port: number, distPort: number) {
    this.#dir = dir;
    this.#port = port;
    this.url = `amqp://guest:guest@127.0.0.1:${port}`;
    this.#env = {
      PATH: process.env.PATH,
      HOME: dir,
      RABBITMQ_NODENAME: `handover-${port}@localhost`,
      RABBITMQ_NODE_IP_ADDRESS: "127.0.0.1",
      RABBITMQ_NODE_PORT: String(port),
      RABBITMQ_DIST_PORT: String(distPort),
      RABBITMQ_MNESIA_BASE: join(dir, "mnesia"),
      RABBITMQ_LOG_BASE: join(dir, "log"),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(dir, "plugins"),
      RABBITMQ_CONFIG_FILE: join(dir, "rabbitmq"),
      RABBITMQ_PID_FILE: join(dir, "pid"),
    };
  }

  static async start(): Promise<Broker> {
    const dir = mkdtempSync(join(tmpdir(), "handover-rabbitmq-"));
    mkdirSync(join(dir, "log"));
    writeFileSync(join(dir, "plugins"), "[].");
    writeFileSync(join(dir, "rabbitmq.conf"), "loopback_users = none\n");
    const broker = new Broker(dir, await freePort(), await freePort());
    await broker.start();
    return broker;
  }

  /** Starts it again with the same data. */
  async start(): Promise<void> {
    this.#process = spawn(join(BIN, "rabbitmq-server"), [], { env: this.#env, stdio: "ignore" });
    const process = this.#process;
    const deadline = performance.now() + START_MS;
    while (!(await isListening(this.#port))) {
      if (process.exitCode !== null || performance.now() > deadline) throw new Error(`RabbitMQ did not start; its log is in ${this.#dir}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Stops it from doing anything, though its connections stay; until {@link resume}. Resolves when its last thread has stopped. */
  async pause(): Promise<void> {
    const pid = this.#pid;
    process.kill(pid, "SIGSTOP");
    const isStopped = (thread: string) => /\) [Tt] /.test(readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8"));
    await until(
      () => readdirSync(`/proc/${pid}/task`).every(isStopped),
      () => "the broker to stand still",
    );
  }

  resume(): void {
    process.kill(this.#pid, "SIGCONT");
  }

  get #pid(): number {
    return Number(readFileSync(join(this.#dir, "pid"), "utf8"));
  }

  /** As a crash would: nothing of it runs again. */
  async kill(): Promise<void> {
    const pid = this.#pid;
    const started = this.#process;
    const gone = started && started.exitCode === null && started.signalCode === null ? once(started, "exit") : undefined;
    process.kill(pid, "SIGKILL");
    await gone;
    await until(
      async () => !(await isListening(this.#port)),
      () => "the broker to be gone",
    );
  }

  /** Runs rabbitmqctl, while this process goes on. */
  async control(...args: readonly string[]): Promise<void> {
    const child = spawn(join(BIN, "rabbitmqctl"), this.#controlArgs(args), { env: this.#env, stdio: ["ignore", "ignore", "pipe"] });
    let errors = "";
    child.stderr.on("data", (chunk: Buffer) => {
      errors += chunk.toString();
    });
    const [status] = await once(child, "close");
    if (status !== 0) throw new Error(`rabbitmqctl ${args.join(" ")}: ${errors}`);
  }

  /** Runs rabbitmqctl while this process stands still: it has noticed nothing of it yet when this returns. */
  controlUnnoticed(...args: readonly string[]): void {
    const { status, stderr } = spawnSync(join(BIN, "rabbitmqctl"), this.#controlArgs(args), { env: this.#env, encoding: "utf8" });
    if (status !== 0) throw new Error(`rabbitmqctl ${args.join(" ")}: ${stderr}`);
  }

  #controlArgs(args: readonly string[]): string[] {
    return ["-n", String(this.#env.RABBITMQ_NODENAME), ...args];
  }

  async remove(): Promise<void> {
    if (await isListening(this.#port)) await this.kill();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** For a journal of a test's own. */
export const randomName = () => `test-${randomBytes(6).toString("hex")}`;

/** Removes a journal's queues from a broker. */
export async function removeJournal(journal: string, url = AMQP_URL): Promise<void> {
  const connection = new Connection(url);
  for (const queue of ["journal", "owner"]) await connection.queueDelete({ queue: `handover.${journal}.${queue}` });
  await connection.close();
}
