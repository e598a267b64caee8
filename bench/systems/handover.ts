/**
 * The built command, as its users start it, on a free port and a new data folder.
 * @module
 */
import { readFileSync } from "node:fs";
import { folder, start } from "../start.ts";
import type { Running, System } from "../system.ts";
import { SECRET } from "../wires/handover.ts";

const CLI = new URL("../../dist/cli.js", import.meta.url).pathname;
const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };

interface StartOptions {
  /** Further options of the command. */
  readonly args?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Options of Node itself. */
  readonly node?: readonly string[];
  /** A data folder that there is already, and stays. */
  readonly data?: string;
}

interface RunningHandover extends Running {
  readonly pid: number;
  readonly folder: string;
  /** As a crash would. */
  kill(): Promise<void>;
}

async function startHandover({ args = [], env = {}, node = [], data }: StartOptions = {}): Promise<RunningHandover> {
  const own = data === undefined ? folder("data") : undefined;
  const path = data ?? own?.path ?? "";
  const program = await start({
    command: process.execPath,
    args: [...node, CLI, "serve", "--port", "0", "--data", path, ...args],
    env: { ...process.env, HANDOVER_TOKEN_SECRET: SECRET, ...env },
    prints: /http:\/\/[\w.:[\]]+\d/,
  });
  const end = async (signal: NodeJS.Signals) => {
    await program.stop(signal);
    own?.remove();
  };
  return {
    pid: program.pid,
    pids: [program.pid],
    address: program.found,
    folder: path,
    stop: () => end("SIGTERM"),
    kill: () => end("SIGKILL"),
  };
}

export const handover: System = {
  name: "handover",
  title: "Handover",
  version,
  guarantee:
    "accept: synced to disk (SQLite WAL, synchronous=FULL, group commit), with an idempotency key; acknowledgement: confirmed, synced as well",
  wires: [
    { wire: "handover-websocket", label: "WebSocket" },
    { wire: "handover-sse", label: "SSE" },
    { wire: "handover-poll", label: "long polling" },
  ],
  start: () => startHandover(),
};
