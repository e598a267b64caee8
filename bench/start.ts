/**
 * Programs that a benchmark starts for itself, on free ports and with folders of their own, and stops by their pid.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isListening } from "../test/support/port.ts";
import { pause } from "./measure.ts";

const START_MS = 60_000;

export interface Program {
  readonly pid: number;
  /** Ends it, and waits until it is gone. @param signal  SIGTERM unless said */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

export interface Start {
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** It is there when this port takes a connection. */
  readonly port?: number;
  /** Or when it has printed this; what the expression found is {@link Printed.found}. */
  readonly prints?: RegExp;
}

export interface Printed extends Program {
  readonly found: string;
}

const running = new Set<ChildProcess>();
/** What those have started, and would leave behind when they are killed. */
const offspring = new Set<number>();
const folders = new Set<string>();
// Whatever happens to the benchmark, nothing of it stays.
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const pid of offspring) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
  }
  for (const path of folders) rmSync(path, { recursive: true, force: true, maxRetries: 5 });
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(1));

/** Starts a program and waits until it is ready. @throws Error with what it said, when it ends or takes more than a minute */
export async function start({ command, args, env, port, prints }: Start): Promise<Printed> {
  const child = spawn(command, args, { env: env ?? process.env, stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  const ended = new Promise<void>((resolve) =>
    child.once("exit", () => {
      running.delete(child);
      resolve();
    }),
  );
  let said = "";
  let found: string | undefined;
  const hear = (part: Buffer) => {
    if (found !== undefined || said.length > 65_536) return;
    said += part.toString();
    found = prints?.exec(said)?.[0];
  };
  child.stdout.on("data", hear);
  child.stderr.on("data", hear);
  let failure: Error | undefined;
  child.once("error", (error) => {
    failure = error;
  });
  const deadline = performance.now() + START_MS;
  while (prints ? found === undefined : !(await isListening(port ?? 0))) {
    if (failure || child.exitCode !== null || child.signalCode !== null || performance.now() > deadline) {
      child.kill("SIGKILL");
      throw new Error(`${command} did not start: ${failure?.message ?? said}`);
    }
    await pause(prints ? 2 : 20);
  }
  return {
    pid: child.pid ?? 0,
    found: found ?? "",
    async stop(signal = "SIGTERM") {
      child.kill(signal);
      const patience = setTimeout(() => child.kill("SIGKILL"), 15_000);
      await ended;
      clearTimeout(patience);
    },
  };
}

/** Takes care of a process that a started program has made. @returns how to end it, and wait for nothing */
export function adopt(pid: number): () => void {
  offspring.add(pid);
  return () => {
    offspring.delete(pid);
    process.kill(pid, "SIGKILL");
  };
}

/** A folder of its own, and how to remove it. */
export function folder(name: string): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), `handover-bench-${name}-`));
  folders.add(path);
  return {
    path,
    remove() {
      folders.delete(path);
      rmSync(path, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
