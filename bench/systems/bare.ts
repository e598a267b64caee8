/**
 * The servers of bare.ts, each a process of its own.
 * @module
 */
import { readFileSync } from "node:fs";
import { folder, start } from "../start.ts";
import type { Running, System } from "../system.ts";
import { versionOf } from "../wires/packages.ts";

const BARE = new URL("../bare.ts", import.meta.url).pathname;
const own = (name: string) =>
  (JSON.parse(readFileSync(new URL(`../../node_modules/${name}/package.json`, import.meta.url), "utf8")) as { version: string }).version;

/** @param stores  the folder in which it stores what it is given; only `relay` and `fastify` can */
export async function startBare(kind: "relay" | "socketio" | "fastify" | "poll" | "sse" | "x0", stores?: string): Promise<Running> {
  const program = await start({
    command: process.execPath,
    args: stores === undefined ? [BARE, kind] : [BARE, kind, stores],
    prints: /http:\/\/[\w.:]+\d/,
  });
  return { pids: [program.pid], address: program.found, stop: () => program.stop("SIGKILL") };
}

/** One that stores what it is given, in a folder of its own. */
async function startStoring(kind: "relay" | "fastify"): Promise<Running> {
  const own = folder(kind);
  const running = await startBare(kind, own.path);
  return {
    ...running,
    async stop() {
      await running.stop();
      own.remove();
    },
  };
}

export const relay: System = {
  name: "ws",
  title: "raw ws relay",
  version: own("ws"),
  guarantee: "nothing is stored: a relay between two sockets, the limit of one frame a message in Node; the receiver's acknowledgement is the accept",
  wires: [{ wire: "relay", label: "" }],
  start: () => startBare("relay"),
};

export const relaySynced: System = {
  ...relay,
  name: "ws-synced",
  title: "raw ws relay, synced",
  guarantee:
    "each frame is a row that is synced (SQLite WAL, synchronous=FULL, those of one turn in one commit) before it is handed on, the message and the acknowledgement that is the accept: two syncs, one after the other; nothing is ever taken out",
  start: () => startStoring("relay"),
};

export const socketIo: System = {
  name: "socketio",
  title: "Socket.IO",
  get version() {
    return versionOf("socket.io") ?? "";
  },
  guarantee: "nothing is stored; the accept is the receiver's acknowledgement callback, passed on by the server",
  get missing() {
    return versionOf("socket.io") === undefined ? "its package is not installed" : undefined;
  },
  wires: [{ wire: "socketio", label: "" }],
  start: () => startBare("socketio"),
};

export const fastify: System = {
  name: "fastify",
  title: "bare fastify POST",
  version: own("fastify"),
  guarantee: "nothing is stored or delivered: what one request with one message costs in any case",
  wires: [{ wire: "plain-post", label: "" }],
  start: () => startBare("fastify"),
};

export const fastifySynced: System = {
  ...fastify,
  name: "fastify-synced",
  title: "bare fastify POST, synced",
  guarantee: "each body is a row that is synced (as with the relay) before it is answered; nothing is delivered",
  start: () => startStoring("fastify"),
};

export const barePoll: System = {
  name: "node-poll",
  title: "bare Node, held poll",
  version: process.version,
  guarantee: "nothing",
  wires: [
    { wire: "bare-poll", label: "10 s" },
    { wire: "bare-poll-60", label: "60 s" },
  ],
  start: () => startBare("poll"),
};

export const bareSse: System = {
  ...barePoll,
  name: "node-sse",
  title: "bare Node, SSE",
  wires: [{ wire: "bare-sse", label: "" }],
  start: () => startBare("sse"),
};
