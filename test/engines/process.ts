import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { until } from "../../src/testing/engine-bench.ts";

/** A child process that says lines. */
export class Child {
  readonly lines: string[] = [];
  readonly #process: ChildProcess;
  #rest = "";
  /** Resolves with the exit code, null after a signal, when it is gone and all it said has been read. */
  readonly closed: Promise<number | null>;

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    const file = fileURLToPath(new URL("./child.ts", import.meta.url));
    this.#process = spawn(process.execPath, [file, ...args], {
      env: { ...process.env, NODE_OPTIONS: "", ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.closed = once(this.#process, "close").then(([code]) => code as number | null);
    this.#process.stdout?.on("data", (chunk: Buffer) => {
      const lines = (this.#rest + chunk.toString()).split("\n");
      this.#rest = lines.pop() ?? "";
      this.lines.push(...lines);
    });
    this.#process.stderr?.on("data", (chunk: Buffer) => this.lines.push(`stderr ${chunk.toString()}`));
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  /** Waits for a line. */
  async said(line: string): Promise<void> {
    await until(
      () => this.lines.includes(line) || this.#process.exitCode !== null,
      () => `the child to say "${line}"; it said: ${this.lines.slice(-5).join(" | ")}`,
    );
    if (!this.lines.includes(line)) throw new Error(`the child ended without saying "${line}"; it said: ${this.lines.join(" | ")}`);
  }

  /** `kill -9`; resolves when it is gone and all it said has been read. */
  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.closed;
  }
}
