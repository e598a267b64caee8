/**
 * HTTP/1.1 on one kept connection, one request at a time, and event streams: no more than the driver needs, so that it costs little.
 * @module
 */
import { once } from "node:events";
import { Agent, type ClientRequest, get } from "node:http";
import { connect, type Socket } from "node:net";

export interface Answer {
  readonly status: number;
  readonly text: string;
}

/** An EventSource that a stream has ended for comes back within half a second. */
const RETURN_MS = 500;

/**
 * Reads an event stream, and the next one when it ends, on the same connection, as browsers do. Resolves when the first has begun.
 * @param next  asked before each stream
 * @param read  takes the text as it comes
 */
export async function follow(
  next: () => { readonly url: string; readonly headers: Readonly<Record<string, string>> },
  read: (part: string) => void,
): Promise<{ close(): void }> {
  let isOpen = true;
  let request: ClientRequest | undefined;
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const connect = async (): Promise<void> => {
    const { url, headers } = next();
    request = get(url, { agent, headers });
    request.on("error", () => {});
    const [response] = await once(request, "response");
    response.setEncoding("utf8").on("data", read);
    response.on("error", () => {});
    response.on("end", () => {
      if (isOpen) setTimeout(() => isOpen && connect().catch(() => {}), Math.random() * RETURN_MS);
    });
  };
  await connect();
  return {
    close() {
      isOpen = false;
      request?.destroy();
      agent.destroy();
    },
  };
}

/** Polls on a connection, one after the other, until it is closed. @param poll  one of them; what it throws before that ends the process */
export function pollOn(connection: HttpConnection, poll: () => Promise<void>): { close(): void } {
  let isOpen = true;
  const go = async () => {
    while (isOpen) await poll();
  };
  go().catch((thrown: unknown) => {
    if (isOpen) throw thrown;
  });
  return {
    close() {
      isOpen = false;
      connection.close();
    },
  };
}

export class HttpConnection {
  readonly #socket: Socket;
  readonly #head: string;
  #buffer: Buffer = Buffer.alloc(0);
  #waiting: { resolve(answer: Answer): void; reject(error: Error): void } | undefined;

  private constructor(socket: Socket, head: string) {
    this.#socket = socket;
    this.#head = head;
    socket.on("data", (part) => this.#received(part));
    const fail = (error?: Error) => this.#waiting?.reject(error ?? new Error("The connection was closed."));
    socket.on("error", fail);
    socket.on("close", () => fail());
  }

  static async open(url: string, token?: string): Promise<HttpConnection> {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    await once(socket, "connect");
    socket.setNoDelay(true);
    const authorization = token === undefined ? "" : `Authorization: Bearer ${token}\r\n`;
    return new HttpConnection(socket, `Host: ${hostname}:${port}\r\n${authorization}Content-Type: application/json\r\n`);
  }

  /** The one before must have been answered. */
  post(path: string, body: string): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#waiting = { resolve, reject };
    this.#socket.write(`POST ${path} HTTP/1.1\r\n${this.#head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
    return promise;
  }

  close(): void {
    this.#waiting = undefined;
    this.#socket.destroy();
  }

  #received(part: Buffer): void {
    this.#buffer = this.#buffer.length === 0 ? part : Buffer.concat([this.#buffer, part]);
    const end = this.#buffer.indexOf("\r\n\r\n");
    if (end < 0) return;
    const head = this.#buffer.toString("latin1", 0, end);
    const status = Number(head.slice(9, 12));
    const length = status === 204 ? 0 : Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1]);
    if (Number.isNaN(length)) throw new Error(`An answer without a length: ${head}`);
    if (this.#buffer.length < end + 4 + length) return;
    const text = this.#buffer.toString("utf8", end + 4, end + 4 + length);
    this.#buffer = this.#buffer.subarray(end + 4 + length);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve({ status, text });
  }
}
