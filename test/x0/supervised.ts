/**
 * `handover serve --supervise` as a process of its own, whose server can be stopped and killed.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { vi } from "vitest";
import { SERVICE_KEY, TOKEN_SECRET } from "../support/started.ts";

export const COMMAND = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const START_MS = 20_000;

export class Supervised {
  readonly #process: ChildProcess;
  #output = "";

  private constructor(process: ChildProcess) {
    this.#process = process;
    for (const stream of [process.stdout, process.stderr]) stream?.on("data", (part) => (this.#output += part));
  }

  /** Starts it, on a free port unless one is given, and waits until the server listens. */
  static async start(data: string, flags: readonly string[], port = 0): Promise<Supervised> {
    const child = spawn(
      process.execPath,
      [COMMAND, "serve", "--supervise", "--host", "127.0.0.1", "--port", String(port), "--data", data, ...flags],
      {
        env: { PATH: process.env.PATH, HANDOVER_SERVICE_KEY: SERVICE_KEY, HANDOVER_TOKEN_SECRET: TOKEN_SECRET },
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    const end = () => child.kill("SIGKILL");
    process.once("exit", end);
    child.once("exit", () => process.off("exit", end));
    const supervised = new Supervised(child);
    await supervised.servers(1);
    return supervised;
  }

  get output(): string {
    return this.#output;
  }

  get url(): string {
    return /listens on (http:[^"]+)"/.exec(this.#output)?.[1] ?? "";
  }

  /** The process ids of the servers that have listened so far. */
  get #pids(): number[] {
    return [...this.#output.matchAll(/"pid":(\d+),"msg":"Handover [^"]* listens on/g)].map(([, pid]) => Number(pid));
  }

  /** Waits until so many servers have listened, one after the other. */
  async servers(count: number): Promise<void> {
    await vi.waitFor(
      () => {
        if (this.#pids.length < count) throw new Error(`${this.#pids.length} of ${count} servers have listened:\n${this.#output}`);
      },
      { timeout: START_MS, interval: 20 },
    );
  }

  /** Sends a signal to the server of now. @returns how many will have listened when the next one does */
  signalServer(signal: NodeJS.Signals): number {
    const pid = this.#pids.at(-1);
    if (pid !== undefined) process.kill(pid, signal);
    return this.#pids.length + 1;
  }

  /** Sends a signal to the supervisor. @returns likewise */
  signal(signal: NodeJS.Signals): number {
    this.#process.kill(signal);
    return this.#pids.length + 1;
  }

  /** Whether the last server still runs. */
  get hasServer(): boolean {
    try {
      process.kill(this.#pids.at(-1) ?? 0, 0);
      return true;
    } catch {
      return false;
    }
  }

  /** Tells it to stop, and waits. @returns its exit code */
  async stop(): Promise<number | null> {
    this.#process.kill("SIGTERM");
    return this.ended();
  }

  async ended(): Promise<number | null> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) await once(this.#process, "exit");
    return this.#process.exitCode;
  }
}
