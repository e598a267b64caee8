// A server of its own for a benchmark: the built command, as its users start it, on a free port and a new data folder.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SignJWT } from "jose";

const SECRET = "a secret for benchmarks, of more than 32 bytes";

export interface BenchServer {
  readonly url: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/** Starts `dist/cli.js serve`. @param more  further options of the command */
export async function startServer(...more: string[]): Promise<BenchServer> {
  const data = mkdtempSync(join(tmpdir(), "handover-bench-"));
  const child = spawn(process.execPath, [new URL("../dist/cli.js", import.meta.url).pathname, "serve", "--port", "0", "--data", data, ...more], {
    env: { ...process.env, HANDOVER_TOKEN_SECRET: SECRET },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const url = await new Promise<string>((resolve, reject) => {
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (part: string) => {
      text += part;
      const found = /http:\/\/[\w.:[\]]+\d/.exec(text)?.[0];
      if (found) resolve(found);
    });
    child.once("exit", (code) => reject(new Error(`The server ended with ${code}.`)));
  });
  return {
    url,
    pid: child.pid ?? 0,
    async stop() {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await ended;
      rmSync(data, { recursive: true });
    },
  };
}

export function token(user: string): Promise<string> {
  return new SignJWT({ sid: `bench-${user}` })
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(user)
    .setAudience("handover")
    .setExpirationTime("1h")
    .sign(new TextEncoder().encode(SECRET));
}

/** CPU time of a process with all its threads, ms (proc(5): fields 14 and 15 of stat, in ticks of 10 ms). */
export function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
