/**
 * The clients in `examples/`, as processes: how each is called, and what a test sees of it.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { signToken } from "../../src/testing/wire.ts";
import { SERVICE_CREDENTIAL, TOKEN_SECRET } from "../support/started.ts";

const fileOf = (name: string) => fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));

export type Over = "poll" | "events";

export interface ForeignClient {
  readonly name: "curl" | "python";
  /** Its command line for one message to one user. */
  send(to: string, data: unknown, how?: { readonly key?: string; readonly ttl?: number; readonly topic?: string }): Invocation;
  session(user: string): Invocation;
  state(id: string): Invocation;
  takeBack(id: string): Invocation;
  /** Receives until it is ended. @param process  a shell command that gets each message; none: it prints them */
  listen(over: Over, process?: string, receiver?: string): Invocation;
}

export interface Invocation {
  readonly command: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

const shell = (process: string | undefined) => (process === undefined ? [] : ["sh", "-c", process]);

const CURL: ForeignClient = (() => {
  const command = (...args: string[]) => [fileOf("curl/handover.sh"), ...args];
  return {
    name: "curl",
    send: (to, data, { key, ttl, topic } = {}) => ({
      command: command("send", to, "form.data", JSON.stringify(data), ...(key ? [key] : [])),
      environment: { ...(ttl === undefined ? {} : { TTL: String(ttl) }), ...(topic ? { TOPIC: topic } : {}) },
    }),
    session: (user) => ({ command: command("session", user) }),
    state: (id) => ({ command: command("state", id) }),
    takeBack: (id) => ({ command: command("take-back", id) }),
    listen: (over, process, receiver) => ({
      command: command(over, ...shell(process)),
      ...(receiver ? { environment: { RECEIVER: receiver } } : {}),
    }),
  };
})();

const PYTHON: ForeignClient = (() => {
  const command = (...args: string[]) => ["python3", fileOf("python/handover.py"), ...args];
  return {
    name: "python",
    send: (to, data, { key, ttl, topic } = {}) => ({
      command: command(
        ...["send", to, "--data", JSON.stringify(data)],
        ...(key ? ["--key", key] : []),
        ...(ttl === undefined ? [] : ["--ttl", String(ttl)]),
        ...(topic ? ["--topic", topic] : []),
      ),
    }),
    session: (user) => ({ command: command("session", user) }),
    state: (id) => ({ command: command("state", id) }),
    takeBack: (id) => ({ command: command("take-back", id) }),
    listen: (over, process, receiver) => ({
      command: command("listen", "--over", over, ...(receiver ? ["--receiver", receiver] : []), ...shell(process)),
    }),
  };
})();

/** Every client, and the ways in which it receives. */
export const CLIENTS = [CURL, PYTHON] as const;
export const WAYS = CLIENTS.flatMap((client) => (["poll", "events"] as const).map((over) => ({ client, over, way: `${client.name} ${over}` })));

/** A token as a backend would sign it. @param seconds  its life */
export const tokenOf = (user: string, seconds = 600) =>
  signToken(TOKEN_SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: Math.floor(Date.now() / 1000) + seconds });

const atWork = new Set<Running>();
// None is left behind when the test run itself is ended.
process.once("exit", () => {
  for (const each of atWork) each.signalGroup();
});

/** A client at work. */
export class Running {
  readonly #process: ChildProcess;
  #out = "";
  #err = "";

  /** @param token  who it is; none: it has the service key */
  constructor(url: string, { command, environment }: Invocation, token?: string) {
    const [file = "", ...args] = command;
    this.#process = spawn(file, args, {
      env: {
        PATH: process.env.PATH,
        HANDOVER_URL: url,
        HANDOVER_SERVICE_KEY: SERVICE_CREDENTIAL,
        PYTHONDONTWRITEBYTECODE: "1",
        ...(token === undefined ? {} : { HANDOVER_TOKEN: token }),
        ...environment,
      },
      cwd: fileURLToPath(new URL("../..", import.meta.url)),
      stdio: ["ignore", "pipe", "pipe"],
      // A group of its own, so that what it has started ends with it.
      detached: true,
    });
    atWork.add(this);
    this.#process.once("exit", () => atWork.delete(this));
    this.#process.stdout?.on("data", (chunk: Buffer) => {
      this.#out += chunk.toString();
    });
    this.#process.stderr?.on("data", (chunk: Buffer) => {
      this.#err += chunk.toString();
    });
  }

  /** What it printed so far. */
  get out(): string {
    return this.#out;
  }

  /** What it said to the person at the terminal. */
  get err(): string {
    return this.#err;
  }

  /** The messages that it printed, each a line of JSON. */
  get messages(): PrintedMessage[] {
    return this.#out
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line) as PrintedMessage);
  }

  get isRunning(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Resolves with its exit status and all that it printed. */
  async ended(): Promise<number | null> {
    if (this.isRunning) await once(this.#process, "close");
    return this.#process.exitCode;
  }

  /** Asks it to stop. */
  async terminate(): Promise<number | null> {
    this.#process.kill("SIGTERM");
    return this.ended();
  }

  /** Ends it, and what it has started, as the kernel does. */
  async kill(): Promise<void> {
    if (!this.isRunning) return;
    const gone = once(this.#process, "exit");
    this.signalGroup();
    await gone;
  }

  /** Ends its whole group at once. */
  signalGroup(): void {
    try {
      if (this.#process.pid) process.kill(-this.#process.pid, "SIGKILL");
    } catch {
      // It has gone by itself.
    }
  }
}

export interface PrintedMessage {
  readonly id: string;
  readonly source: string;
  readonly type: string;
  readonly deliverycount: number;
  readonly data: unknown;
  readonly topic?: string;
}

/** Runs one command to its end. @throws Error with what it said, when its status is not 0 */
export async function run(url: string, invocation: Invocation, token?: string): Promise<string> {
  const running = new Running(url, invocation, token);
  const status = await running.ended();
  if (status !== 0) throw new Error(`${invocation.command.join(" ")} ended with ${status}: ${running.err}`);
  return running.out;
}
