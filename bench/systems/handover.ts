/**
 * The built command, as its users start it, on a free port and a new data folder.
 * @module
 */
import { readFileSync } from "node:fs";
import { howToHave, isThere } from "../debian.ts";
import { folder, start } from "../start.ts";
import type { Running, System } from "../system.ts";
import { SECRET } from "../wires/handover.ts";
import { RABBITMQ, startRabbitMq } from "./brokers.ts";

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

export interface RunningHandover extends Running {
  readonly pid: number;
  readonly folder: string;
  /** As a crash would. */
  kill(): Promise<void>;
}

export async function startHandover({ args = [], env = {}, node = [], data }: StartOptions = {}): Promise<RunningHandover> {
  const own = data === undefined ? folder("data") : undefined;
  const path = data ?? own?.path ?? "";
  const program = await start({
    command: process.execPath,
    args: [...node, CLI, "serve", "--port", "0", "--data", path, ...args],
    // What is set for whoever runs this is no setting of the server's.
    env: {
      ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HANDOVER_"))),
      HANDOVER_TOKEN_SECRET: SECRET,
      ...env,
    },
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

/** For what fills mailboxes beyond the cap that a server has by itself. */
export const UNCAPPED = { HANDOVER_MAILBOX_MAX_MESSAGES: "10000000", HANDOVER_MAILBOX_MAX_BYTES: "100000000000" };

/** Sends only: nobody takes the mail out. */
export const handoverUncapped: System = {
  ...handover,
  wires: [
    { wire: "handover-websocket", label: "WebSocket" },
    { wire: "handover-post", label: "one POST a message" },
  ],
  start: () => startHandover({ env: UNCAPPED }),
};

/** Idle receivers. */
export const handoverIdle: System = {
  ...handover,
  wires: [...handover.wires, { wire: "handover-poll-60", label: "long polling, 60 s" }],
};

/** On RabbitMQ; both processes count. */
export const handoverOnRabbitMq: System = {
  name: "handover-on-rabbitmq",
  title: "Handover on RabbitMQ (experimental)",
  version,
  guarantee: "accept: confirmed by a quorum queue (synced) and in the index on disk; acknowledgement: confirmed; the CPU of node and broker together",
  missing: isThere(RABBITMQ) ? undefined : howToHave("rabbitmq-server"),
  wires: [{ wire: "handover-websocket", label: "WebSocket" }],
  async start() {
    const broker = await startRabbitMq();
    const server = await startHandover({ env: { HANDOVER_ENGINE: broker.address } });
    return {
      pids: [...server.pids, ...broker.pids],
      address: server.address,
      async stop() {
        await server.stop();
        await broker.stop();
      },
    };
  },
};
