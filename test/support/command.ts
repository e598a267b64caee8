/**
 * The real command as a process of its own: what an operator starts, and what a test can kill.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { SERVICE_KEY, TOKEN_SECRET } from "./started.ts";

const COMMAND = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const START_MS = 20_000;

/** What the server and its tools are told by their environment. */
const SECRETS = { HANDOVER_SERVICE_KEY: SERVICE_KEY, HANDOVER_TOKEN_SECRET: TOKEN_SECRET };

/** Runs `handover` with these words to its end. */
export async function runCommand(...words: readonly string[]): Promise<{ readonly code: number | null; readonly output: string }> {
  const child = spawn(process.execPath, [COMMAND, ...words], { env: { PATH: process.env.PATH, ...SECRETS }, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const [code] = await once(child, "close");
  return { code, output };
}

export class CommandServer {
  readonly url: string;
  readonly #process: ChildProcess;
  readonly #read: () => string;

  private constructor(process: ChildProcess, url: string, read: () => string) {
    this.#process = process;
    this.url = url;
    this.#read = read;
  }

  /** Starts `handover serve` and waits until it says that it listens. @throws Error with its output when it does not */
  static async start(
    port: number,
    data: string,
    flags: readonly string[] = [],
    environment: NodeJS.ProcessEnv = {},
    /** Where what it says goes, instead of {@link output}. */
    logFile?: string,
  ): Promise<CommandServer> {
    if (!existsSync(COMMAND)) throw new Error(`${COMMAND} is not there: run \`npm run build\``);
    const log = logFile === undefined ? "pipe" : openSync(logFile, "a");
    const child = spawn(process.execPath, [COMMAND, "serve", "--host", "127.0.0.1", "--port", String(port), "--data", data, ...flags], {
      env: { PATH: process.env.PATH, ...SECRETS, ...environment },
      stdio: ["ignore", log, log],
    });
    if (typeof log === "number") closeSync(log);
    // Not left behind when the test run itself is ended.
    const end = () => child.kill("SIGKILL");
    process.once("exit", end);
    child.once("exit", () => process.off("exit", end));
    let output = "";
    const listens = new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => {
        child.kill("SIGKILL");
        reject(new Error(`It did not listen within ${START_MS} ms:\n${output}`));
      }, START_MS);
      const read = (chunk: Buffer) => {
        output += chunk.toString();
        for (const line of output.split("\n")) {
          const url = /"pid":(\d+).*listens on (http:\/\/[^"]+)"/.exec(line);
          if (!url?.[2]) continue;
          clearTimeout(timer);
          // The very process that listens, not a wrapper's.
          if (Number(url[1]) !== child.pid) reject(new Error(`pid ${url[1]} listens, ${child.pid} was started`));
          resolve(url[2]);
        }
      };
      child.stdout?.on("data", read);
      child.stderr?.on("data", read);
      // What it says cannot be read here, or not at all.
      const url = `http://127.0.0.1:${port}`;
      const ask = () =>
        fetch(`${url}/livez`).then(
          () => resolve(url),
          () => setTimeout(ask, 20),
        );
      if (logFile !== undefined) void ask().finally(() => clearTimeout(timer));
      child.once("exit", (code, signal) => {
        clearTimeout(timer);
        reject(new Error(`It ended with ${code ?? signal}:\n${output}`));
      });
    });
    return new CommandServer(child, await listens, () => output);
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** What it has said, on both outputs. */
  get output(): string {
    return this.#read();
  }

  /** Asks it to stop, as an operator does. Resolves with its exit code when it is gone. */
  async terminate(): Promise<number | null> {
    this.#process.kill("SIGTERM");
    return this.ended();
  }

  /** Resolves when it is gone by itself, with its exit code; null after a signal. */
  async ended(): Promise<number | null> {
    if (this.isRunning) await once(this.#process, "exit");
    return this.#process.exitCode;
  }

  get isRunning(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Resident memory in bytes, as Linux counts it. */
  get residentBytes(): number {
    const [, kib] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${this.#process.pid}/status`, "utf8")) ?? [];
    return Number(kib) * 1024;
  }

  /** Ends the process as the kernel does when it must: nothing of it runs again. Resolves when it is gone. */
  async kill(): Promise<void> {
    if (!this.isRunning) return;
    const gone = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await gone;
  }
}
