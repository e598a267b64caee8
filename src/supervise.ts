/**
 * `handover serve --supervise`: a small parent that holds the port, so that no connection is refused while the server itself is restarted.
 * systemd's socket activation does the same, and better; this is for where there is none.
 *
 * The parent opens the socket and never accepts from it: what connects while no server runs waits in the kernel's queue. The server gets the socket
 * as descriptor 3, and is started again whenever it ends without having been asked to.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import net from "node:net";
import { ConfigError } from "./config.ts";

/** The child's descriptor of the socket: the first after the standard ones, as systemd has it. */
const LISTEN_FD = 3;
const LEAST_PAUSE_MS = 100;
const MOST_PAUSE_MS = 5_000;
/** A server that ran for this long did start; the next pause is short again. */
const STARTED_MS = 10_000;

export interface Supervised {
  readonly host: string;
  readonly port: number;
  /** The command line of the server, from the program's name on; the descriptor is added to it. */
  readonly command: readonly string[];
  /** What happens, for people. */
  readonly say: (line: string) => void;
}

/**
 * Runs a server until this process is told to stop (SIGTERM, SIGINT), and again whenever it ends before. SIGHUP: a new one in place of the old.
 * @returns the exit code for this process
 * @throws ConfigError when the address cannot be had
 */
export function supervise({ host, port, command, say }: Supervised): Promise<number> {
  const socket = openSocket(host, port);
  let child: ChildProcess;
  let isStopping = false;
  let hasStarted = false;
  let pauseMs = LEAST_PAUSE_MS;
  let waiting: NodeJS.Timeout | undefined;
  return new Promise((resolve) => {
    const start = () => {
      waiting = undefined;
      const startedAtMs = performance.now();
      const [program = process.execPath, ...args] = command;
      child = spawn(program, [...args, "--listen-fd", String(LISTEN_FD)], {
        // The channel tells the server when this process has gone, and this process when the server listens.
        stdio: ["inherit", "inherit", "inherit", socket as unknown as "inherit", "ipc"],
      });
      child.once("message", () => {
        hasStarted = true;
      });
      child.once("error", (error) => say(`The server could not be started: ${error.message}`));
      child.once("close", (code, signal) => {
        // One that never listened has been told something wrong: it says what, and starting it again would not help.
        if (isStopping || !hasStarted) {
          resolve(code ?? 1);
          return;
        }
        pauseMs = performance.now() - startedAtMs > STARTED_MS ? LEAST_PAUSE_MS : Math.min(pauseMs * 2, MOST_PAUSE_MS);
        const isPlanned = code === 0;
        say(`The server ended (${signal ?? code}); starting it again${isPlanned ? "" : ` in ${pauseMs} ms`}. Connections wait.`);
        waiting = setTimeout(start, isPlanned ? 0 : pauseMs);
      });
    };
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        isStopping = true;
        // There will be no next server: better to be refused now than to wait for it, and be cut in the end.
        socket.close();
        if (waiting) {
          clearTimeout(waiting);
          resolve(0);
        } else child.kill(signal);
      });
    }
    process.on("SIGHUP", () => child.kill("SIGTERM"));
    start();
  });
}

/**
 * Binds the address; the first server makes it listen. Node has no public way to hold a socket without accepting from it; this function is what its
 * cluster module uses for the same purpose. test/x0/restart.test.ts would tell if it went away.
 */
function openSocket(host: string, port: number): { close(): void } {
  const { _createServerHandle: create } = net as unknown as {
    _createServerHandle?(address: string, port: number, family: 4 | 6): { getsockname(out: object): number; close(): void } | number;
  };
  if (!create) throw new ConfigError("This version of Node cannot hold a port for another process; use systemd's socket activation instead.");
  const address = host === "localhost" ? "127.0.0.1" : host;
  if (net.isIP(address) === 0) throw new ConfigError(`With --supervise, --host is an address such as 127.0.0.1 or 0.0.0.0, not ${host}.`);
  const socket = create(address, port, net.isIPv6(address) ? 6 : 4);
  // That an address is in use libuv says only when it is asked what the socket's own is.
  if (typeof socket === "number" || socket.getsockname({}) !== 0)
    throw new ConfigError(`Port ${port} on ${host} cannot be had (it is in use, needs rights, or is no address of this machine).`);
  return socket;
}

/**
 * The descriptor that a service manager has opened for this process, if it has.
 * @see sd_listen_fds(3): LISTEN_FDS sockets from descriptor 3 on, meant for the process LISTEN_PID
 * @throws ConfigError when there is more than one
 */
export function inheritedSocket(environment: NodeJS.ProcessEnv, pid: number): number | undefined {
  const { LISTEN_FDS: count, LISTEN_PID: meant } = environment;
  if (count === undefined || meant !== String(pid)) return undefined;
  if (count !== "1") throw new ConfigError(`The service manager passed ${count} sockets (LISTEN_FDS); Handover listens on one.`);
  return LISTEN_FD;
}
