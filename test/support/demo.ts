/**
 * The server as `npm start` runs it, as a process of its own that a test can kill.
 * @module
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";
import { fileURLToPath } from "node:url";
import { randomName, removeJournal } from "./broker.ts";

const COMMAND = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const START_MS = 20_000;

export class DemoServer {
  readonly url: string;
  readonly #process: ChildProcess;
  readonly #data: string;
  readonly #port: string;
  readonly #engine: string;

  constructor(process: ChildProcess, data: string, url: string, engine: string) {
    this.#process = process;
    this.#data = data;
    this.#engine = engine;
    this.#port = new URL(url).port;
    this.url = url;
  }

  /** Ends the process as a power cut would: nothing of it runs again. Resolves when it is gone. */
  async kill(): Promise<void> {
    const gone = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await gone;
  }

  /** The same server again after {@link kill}: same data, same port. */
  async restart(): Promise<DemoServer> {
    return run(this.#data, this.#port, this.#engine);
  }

  /** Ends it for good, with its data. */
  async remove(): Promise<void> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) await this.kill();
    await rm(this.#data, { recursive: true, force: true });
    const journal = this.#engine.startsWith("amqp") ? new URL(this.#engine).searchParams.get("journal") : null;
    if (journal !== null) await removeJournal(journal, this.#engine);
  }
}

/**
 * Starts a server with a new data folder on a free port of 127.0.0.1, in development mode.
 * @param engine  as `HANDOVER_ENGINE`; RabbitMQ with a journal of the server's own. TEST_ENGINE=amqp://… runs all browser tests on RabbitMQ
 */
export async function startServer(engine = process.env.TEST_ENGINE ?? "sqlite:"): Promise<DemoServer> {
  const data = await mkdtemp(join(tmpdir(), "handover-browser-"));
  return run(data, "0", engine.startsWith("amqp") ? `${engine}?journal=${randomName()}` : engine);
}

async function run(data: string, port: string, engine: string): Promise<DemoServer> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HANDOVER_")));
  const child = spawn(process.execPath, [COMMAND, "serve", "--dev", "--host", "127.0.0.1", "--port", port, "--data", data, "--engine", engine], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  // Not left behind when the test run itself is ended.
  const end = () => child.kill("SIGKILL");
  process.once("exit", end);
  child.once("exit", () => process.off("exit", end));
  let output = "";
  const url = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new Error(`The server did not say its address within ${START_MS} ms:\n${output}`));
    }, START_MS);
    const read = (chunk: Buffer) => {
      output += chunk.toString();
      const found = /http:\/\/127\.0\.0\.1:[1-9]\d*/.exec(output);
      if (found === null) return;
      clearTimeout(timer);
      resolve(found[0]);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      clearTimeout(timer);
      reject(new Error(`The server ended with ${code ?? signal} before it said its address:\n${output}`));
    });
  });
  return new DemoServer(child, data, url, engine);
}

/** A stretch of network between a browser and the server that can be cut. */
export interface Relay {
  /** The server as seen through it. */
  readonly url: string;
  /** Breaks what is open and refuses what is new. */
  cut(): void;
  mend(): void;
  /**
   * What is open now falls silent, as when a peer's power or its network is gone: nothing that one side says gets to the other, nor that it has
   * left. What is new passes.
   */
  silence(): void;
  /** Bytes from the server that a silent line has swallowed. */
  readonly swallowed: number;
  close(): Promise<void>;
}

/** @param tls  it takes connections under this certificate, and passes them on without it, as a proxy in front of the server does */
export async function openRelay(url: string, tls?: { readonly key: string; readonly cert: string }): Promise<Relay> {
  const port = Number(new URL(url).port);
  const sockets = new Set<Socket>();
  const silent = new WeakSet<Socket>();
  const hush = new WeakMap<Socket, () => void>();
  let isCut = false;
  let swallowed = 0;
  const pass = (near: Socket) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = connect(port, "127.0.0.1");
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.pipe(other);
      // An error is followed by `close`.
      one.on("error", () => {});
      one.on("close", () => {
        sockets.delete(one);
        if (!silent.has(one) || isCut) other.destroy();
      });
      hush.set(one, () => {
        silent.add(one);
        one.unpipe(other);
        one.on("data", (part: Buffer) => {
          if (one === far) swallowed += part.length;
        });
        one.resume();
      });
    }
  };
  const relay = tls ? createTlsServer(tls, pass) : createServer(pass);
  relay.listen(0, "127.0.0.1");
  await once(relay, "listening");
  const result: Relay = {
    url: `${tls ? "https" : "http"}://127.0.0.1:${(relay.address() as AddressInfo).port}`,
    cut() {
      isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    mend() {
      isCut = false;
    },
    silence() {
      for (const socket of sockets) hush.get(socket)?.();
    },
    get swallowed() {
      return swallowed;
    },
    async close() {
      const closed = once(relay, "close");
      result.cut();
      relay.close();
      await closed;
    },
  };
  return result;
}

/** One user's way past the page: the demonstration's session and the HTTP interface. */
export interface Caller {
  /** Sends one message and gives its id. @throws Error when the server does not answer with 201 */
  send(to: string, data: unknown, type?: string): Promise<string>;
  /** State of a message for its one recipient. */
  state(id: string): Promise<string>;
}

export async function openCaller(url: string, user: string): Promise<Caller> {
  const { token } = await call<{ token: string }>(`${url}/demo/session`, { user });
  return {
    async send(to, data, type = "form.data") {
      return (await call<{ id: string }>(`${url}/v1/messages`, { to: { user: to }, type, data }, token)).id;
    },
    async state(id) {
      const { recipients } = await call<{ recipients: { state: string }[] }>(`${url}/v1/messages/${id}`, undefined, token);
      return recipients[0]?.state ?? "unknown";
    },
  };
}

async function call<T>(url: string, body: unknown, token?: string): Promise<T> {
  const response = await fetch(url, {
    method: body === undefined ? "GET" : "POST",
    headers: { "content-type": "application/json", ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${url} answered ${response.status}: ${text}`);
  return JSON.parse(text) as T;
}
