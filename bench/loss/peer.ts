/**
 * What the loss table needs of each messaging server: how it is started, what a page of it does, and what a sender.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** One message; padded so that a message can be told from a heartbeat by its size. */
interface Payload {
  readonly n: number;
  readonly text: string;
}

interface PageOptions {
  /** The server as the page sees it, through its own line. */
  readonly url: string;
  readonly user: string;
  /** Which tab; what a page can keep over a reload in its sessionStorage. */
  readonly tab: string;
  /** The application's handler: resolves when its work is done, never when the page is left in the middle of it. */
  readonly handle: (n: number) => Promise<void>;
  /** The server's time of day, ms. */
  readonly nowMs: () => number;
}

/** A page with the peer's own client in it. */
export interface Page {
  /** The page is gone; its line is cut already. */
  drop(): unknown;
}

interface Sender {
  /** Resolves when the sender was told that the message is accepted. */
  send(user: string, message: Payload): Promise<unknown>;
  close(): unknown;
}

interface Program {
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** It is ready when it listens here. */
  readonly port: number;
  /** Its clocks are left alone: nothing that it does here depends on them. */
  readonly keepsTime?: boolean;
}

export interface Peer {
  readonly title: string;
  /** npm packages of bench/peers whose versions the table names. */
  readonly packages: readonly string[];
  /** Programs, and how each says its version. */
  readonly programs?: readonly (readonly [string, string])[];
  /** Most users that one server of it can have at the same time without being late by its slowness alone; a divisor of 60. */
  readonly usersAtOnce?: number;
  /** In the order in which they are started. */
  processes(port: number, dir: string, anotherPort: number): readonly Program[];
  openPage(options: PageOptions): Promise<Page>;
  openSender(url: string, nowMs: () => number): Promise<Sender>;
}

/** Debian's libfaketime: moves the clocks of a process, the monotonic one too, by what a file says. */
export const FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/** Those that are there; not left behind when the command itself is ended. */
const servers = new Set<PeerServer>();
process.once("exit", () => {
  for (const server of servers) server.abandon();
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

/** A peer's processes, with a folder of their own; they can be killed, started again, and their clocks moved on. */
export class PeerServer {
  readonly url: string;
  readonly #programs: readonly Program[];
  readonly #dir: string;
  readonly #clock: string | undefined;
  #aheadMs = 0;
  #running: ChildProcess[] = [];
  #ended: string | undefined;

  private constructor(url: string, programs: readonly Program[], dir: string, clock: string | undefined) {
    this.url = url;
    this.#programs = programs;
    this.#dir = dir;
    this.#clock = clock;
    servers.add(this);
  }

  /** @param movesClock  whether its clocks will be moved on */
  static async start(peer: Peer, movesClock: boolean): Promise<PeerServer> {
    const dir = mkdtempSync(join(tmpdir(), "handover-loss-"));
    const [port, another] = [await takePort(), await takePort()];
    const server = new PeerServer(`http://127.0.0.1:${port}`, peer.processes(port, dir, another), dir, movesClock ? join(dir, "clock") : undefined);
    server.moveOn(0);
    await server.restart();
    return server;
  }

  readonly nowMs = (): number => Date.now() + this.#aheadMs;

  moveOn(ms: number): void {
    this.#aheadMs += ms;
    if (this.#clock === undefined) return;
    // In one step: a process that reads an empty file would end.
    writeFileSync(`${this.#clock}.new`, `+${this.#aheadMs / 1_000}\n`);
    renameSync(`${this.#clock}.new`, this.#clock);
  }

  async restart(): Promise<void> {
    for (const { command, args, env, port, keepsTime } of this.#programs) {
      const clock =
        this.#clock === undefined || keepsTime ? {} : { LD_PRELOAD: FAKETIME, FAKETIME_TIMESTAMP_FILE: this.#clock, FAKETIME_NO_CACHE: "1" };
      const child = spawn(command, args, { env: { PATH: process.env.PATH, ...env, ...clock }, stdio: ["ignore", "pipe", "pipe"] });
      let said = "";
      for (const stream of [child.stdout, child.stderr])
        stream.on("data", (part) => {
          said += String(part);
        });
      this.#running.push(child);
      child.once("exit", (code, signal) => {
        if (this.#running.includes(child)) this.#ended = `${command} ${args.join(" ")} ended by itself, with ${code ?? signal}:\n${said}`;
      });
      for (let tries = 0; !(await listens(port)); tries++) {
        this.check();
        if (tries > 400) throw new Error(`${command} ${args.join(" ")} does not listen:\n${said}`);
        await sleep(50);
      }
    }
  }

  /** @throws Error when a program of it ended and was not killed here: what was counted then is not a fault's doing */
  check(): void {
    if (this.#ended !== undefined) throw new Error(this.#ended);
  }

  /** For the end of the command itself: what is left of it is killed, and not waited for. */
  abandon(): void {
    for (const child of this.#running) child.kill("SIGKILL");
    rmSync(this.#dir, { recursive: true, force: true });
  }

  /** `kill -9`, all of it. */
  async kill(): Promise<void> {
    for (const child of this.#running.splice(0).reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const gone = once(child, "exit");
      child.kill("SIGKILL");
      await gone;
    }
  }

  async remove(): Promise<void> {
    await this.kill();
    servers.delete(this);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

let lastPort = 20_000 + Math.floor(Math.random() * 8_000);

/** @returns a port that is free, given to nobody else here, and below those that the system gives out by itself: it stays free while a server is killed */
async function takePort(): Promise<number> {
  for (;;) {
    const port = ++lastPort;
    if (!(await listens(port))) return port;
  }
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const say = (answer: boolean) => () => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", say(true));
    socket.once("error", say(false));
  });
}
