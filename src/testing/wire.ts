/**
 * A small client per transport, for the suite: it speaks PROTOCOL.md and nothing else, so it can be pointed at any implementation.
 * @module
 */
import { createHmac } from "node:crypto";
import { WebSocket } from "ws";

/** A CloudEvent as it arrived. */
export type ReceivedEvent = { readonly id: string; readonly source: string; readonly type: string } & Readonly<Record<string, unknown>>;

export interface Delivered {
  readonly seq: number;
  readonly deliveryCount: number;
  readonly event: ReceivedEvent;
}

export interface ToldGap {
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

/** The forms of acknowledgement, as on the wire. */
export interface Forms {
  readonly upto?: number;
  readonly seqs?: readonly number[];
  readonly nack?: readonly { readonly seq: number; readonly retryAfter?: number }[];
  readonly reject?: readonly { readonly seq: number; readonly reason?: string }[];
  readonly hold?: readonly number[];
}

export interface ReceiverOptions {
  readonly url: string;
  readonly token: string;
  readonly receiver: string;
  readonly epoch?: string | undefined;
  readonly cursor?: number | undefined;
  readonly window?: number | undefined;
}

/** One receiver, the same on every transport. */
export interface WireReceiver {
  readonly receiver: string;
  /** As the server last said it; on long polling undefined until there was something. */
  readonly epoch: string | undefined;
  readonly head: number;
  /** What has been received: where to resume from. */
  readonly cursor: number;
  readonly deliveries: readonly Delivered[];
  readonly settled: readonly number[];
  readonly gaps: readonly ToldGap[];
  /** Why it ended, as a WebSocket close code (SSE says the error that stands beside it); on long polling 4409 is a poll that was answered 204 too early, others are 4000 + status. */
  readonly end: number | undefined;
  /** Waits until the condition holds; looks again whenever something came. @throws Error after `withinMs`, saying what was there instead */
  until(condition: () => boolean, what: string, withinMs?: number): Promise<void>;
  /** Acknowledges, under the current epoch unless another is named. @returns how many the server newly settled */
  ack(forms: Forms, epoch?: string | null): Promise<number>;
  /** Goes away as a closed tab does: without a word. */
  leave(): Promise<void>;
}

/** The answer to one message: a 201 or a problem document. */
export type SendResult = { readonly status: number } & Readonly<Record<string, unknown>>;

export interface WireSender {
  send(message: object): Promise<SendResult>;
  close(): Promise<void>;
}

/** One transport as a client sees it. */
export interface Wire {
  readonly kind: "websocket" | "sse" | "poll";
  openReceiver(options: ReceiverOptions): Promise<WireReceiver>;
  openSender(url: string, token: string): Promise<WireSender>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** The body as JSON; undefined when there is none, the text when it is not JSON. */
  readonly body: unknown;
}

const DEADLINE_MS = 8_000;

/** One HTTP request with a JSON body. */
export async function call(
  url: string,
  request: {
    readonly method?: string;
    readonly token?: string;
    readonly headers?: Record<string, string>;
    readonly body?: unknown;
    readonly signal?: AbortSignal;
  } = {},
): Promise<Answer> {
  const { token, body, signal } = request;
  const response = await fetch(url, {
    method: request.method ?? (body === undefined ? "GET" : "POST"),
    headers: {
      ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
      ...request.headers,
    },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    ...(signal ? { signal } : {}),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text === "" ? undefined : parseOr(text) };
}

function parseOr(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** The field of a JSON object, or undefined. */
export function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** Signs a token by hand, right or wrong as asked. @see RFC 7515, appendix A.1 */
export function signToken(secret: string, claims: object, header: object = { alg: "HS256", typ: "JWT" }): string {
  const base64url = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const content = `${base64url(header)}.${base64url(claims)}`;
  const algorithm = field(header, "alg") === "HS512" ? "sha512" : "sha256";
  return `${content}.${createHmac(algorithm, secret).update(content).digest("base64url")}`;
}

/** What came, and those who wait for it. */
export class Inbox {
  readonly deliveries: Delivered[] = [];
  readonly settled: number[] = [];
  readonly gaps: ToldGap[] = [];
  epoch: string | undefined;
  head = 0;
  cursor = 0;
  end: number | undefined;
  readonly #waiting = new Set<() => void>();

  /** Takes the content of a frame or a poll answer. */
  take(content: { deliveries?: readonly Delivered[]; settled?: readonly number[]; gaps?: readonly ToldGap[] }): void {
    for (const delivery of content.deliveries ?? []) {
      this.deliveries.push(delivery);
      this.cursor = Math.max(this.cursor, delivery.seq);
    }
    for (const gap of content.gaps ?? []) {
      this.gaps.push(gap);
      this.cursor = Math.max(this.cursor, gap.to);
    }
    this.settled.push(...(content.settled ?? []));
  }

  changed(): void {
    for (const look of [...this.#waiting]) look();
  }

  until(condition: () => boolean, what: string, withinMs = DEADLINE_MS): Promise<void> {
    if (condition()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const look = () => {
        if (!condition()) return;
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(look);
        reject(new Error(`Not within ${withinMs} ms: ${what}. There is: ${this.#describe()}`));
      }, withinMs);
      this.#waiting.add(look);
    });
  }

  #describe(): string {
    const deliveries = this.deliveries.map(({ seq, deliveryCount, event }) => `${seq}/${deliveryCount} ${JSON.stringify(event.data)?.slice(0, 40)}`);
    const { settled, gaps, epoch, cursor, end } = this;
    return JSON.stringify({ deliveries: deliveries.slice(-20), count: deliveries.length, settled, gaps, epoch, cursor, end });
  }
}

/** A WebSocket to the server, frame by frame. */
export class FrameSocket {
  readonly frames: Record<string, unknown>[] = [];
  readonly inbox = new Inbox();
  readonly #socket: WebSocket;
  #refs = 0;

  constructor(url: string, headers: Record<string, string> = {}) {
    this.#socket = new WebSocket(`${url.replace(/^http/, "ws")}/v1/ws`, "handover.v1.json", { headers, perMessageDeflate: false });
    this.#socket.on("message", (data: Buffer) => this.#take(JSON.parse(data.toString()) as Record<string, unknown>));
    this.#socket.on("close", (code) => {
      this.inbox.end = code;
      this.inbox.changed();
    });
    // The close event follows and says what there is to say.
    this.#socket.on("error", () => {});
  }

  get isOpen(): boolean {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  /** @throws Error when the upgrade was refused */
  opened(): Promise<void> {
    if (this.isOpen) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#socket.once("open", resolve);
      this.#socket.once("error", reject);
    });
  }

  write(frame: object | string): void {
    this.#socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** Writes a frame and waits until it, and all before it, have left this process. */
  writeThrough(frame: object): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.send(JSON.stringify(frame), (error) => (error ? reject(error) : resolve()));
    });
  }

  writeBinary(bytes: Uint8Array): void {
    this.#socket.send(bytes);
  }

  /** A ref that no other frame of this connection has. */
  ref(): number {
    this.#refs += 1;
    return this.#refs;
  }

  /** Waits for the first frame, from `start` on, that fits. */
  async frame(fits: (frame: Record<string, unknown>) => boolean, what: string, start = 0): Promise<Record<string, unknown>> {
    let found: Record<string, unknown> | undefined;
    await this.inbox.until(
      () => {
        found = this.frames.slice(start).find(fits);
        return found !== undefined || this.inbox.end !== undefined;
      },
      `${what} (frames: ${this.frames.map(({ op }) => op).join(" ")})`,
    );
    if (!found) throw new Error(`The connection ended with ${this.inbox.end} before ${what}`);
    return found;
  }

  /** Sends messages in one frame. @returns their results, in the order of the messages */
  async send(messages: readonly object[]): Promise<readonly SendResult[]> {
    const refs = messages.map(() => this.ref());
    this.write({ op: "send", messages: messages.map((message, place) => ({ ref: refs[place], ...message })) });
    const found = new Map<unknown, SendResult>();
    let seen = 0;
    await this.inbox.until(() => {
      for (const frame of this.frames.slice(seen)) {
        if (frame.op === "sent") for (const result of frame.results as SendResult[]) found.set(result.ref, result);
      }
      seen = this.frames.length;
      return refs.every((ref) => found.has(ref)) || this.inbox.end !== undefined;
    }, "the results of a send frame");
    return refs.map((ref) => found.get(ref) ?? { status: 0 });
  }

  /** Stops reading, as a stuck peer does. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  async terminate(): Promise<void> {
    this.#socket.terminate();
    await this.inbox.until(() => this.inbox.end !== undefined, "the end of the connection");
  }

  #take(frame: Record<string, unknown>): void {
    this.frames.push(frame);
    const { inbox } = this;
    switch (frame.op) {
      case "ready":
        if (typeof frame.epoch === "string" && frame.epoch !== inbox.epoch) {
          // Other numbers begin here.
          if (inbox.epoch !== undefined) inbox.cursor = 0;
          inbox.epoch = frame.epoch;
        }
        if (typeof frame.head === "number") inbox.head = frame.head;
        break;
      case "deliver":
        inbox.take({ deliveries: frame.deliveries as Delivered[] });
        break;
      case "settled":
        inbox.take({ settled: frame.seqs as number[] });
        break;
      case "gap":
        inbox.take({ gaps: [frame as unknown as ToldGap] });
        break;
    }
    inbox.changed();
  }
}

class SocketReceiver implements WireReceiver {
  readonly receiver: string;
  readonly socket: FrameSocket;

  constructor(receiver: string, socket: FrameSocket) {
    this.receiver = receiver;
    this.socket = socket;
  }

  get epoch(): string | undefined {
    return this.socket.inbox.epoch;
  }
  get head(): number {
    return this.socket.inbox.head;
  }
  get cursor(): number {
    return this.socket.inbox.cursor;
  }
  get deliveries(): readonly Delivered[] {
    return this.socket.inbox.deliveries;
  }
  get settled(): readonly number[] {
    return this.socket.inbox.settled;
  }
  get gaps(): readonly ToldGap[] {
    return this.socket.inbox.gaps;
  }
  get end(): number | undefined {
    return this.socket.inbox.end;
  }

  until(condition: () => boolean, what: string, withinMs?: number): Promise<void> {
    return this.socket.inbox.until(condition, what, withinMs);
  }

  async ack(forms: Forms, epoch: string | null = this.epoch ?? null): Promise<number> {
    const ref = this.socket.ref();
    this.socket.write({ op: "ack", ref, epoch, ...forms });
    const answer = await this.socket.frame((frame) => frame.ref === ref, "the answer to an ack");
    if (answer.op !== "acked") throw new Error(`The acknowledgement was refused: ${JSON.stringify(answer)}`);
    return answer.acked as number;
  }

  leave(): Promise<void> {
    return this.socket.terminate();
  }
}

/** Opens a WebSocket and says hello; resolves at `ready`. */
export async function openSocket(url: string, hello: { readonly token: string } & Record<string, unknown>): Promise<FrameSocket> {
  const socket = new FrameSocket(url);
  if (typeof hello.cursor === "number") socket.inbox.cursor = hello.cursor;
  if (typeof hello.epoch === "string") socket.inbox.epoch = hello.epoch;
  await socket.opened();
  socket.write({ op: "hello", ...hello });
  const first = await socket.frame(({ op }) => op === "ready" || op === "error", "ready");
  if (first.op !== "ready") throw new Error(`hello was refused: ${JSON.stringify(first)}`);
  return socket;
}

export const WEBSOCKET: Wire = {
  kind: "websocket",
  async openReceiver({ url, token, receiver, epoch, cursor, window }) {
    const socket = await openSocket(url, { token, receiver, epoch, cursor, window });
    return new SocketReceiver(receiver, socket);
  },
  async openSender(url, token) {
    const socket = await openSocket(url, { token, receiver: `sender-${Math.random().toString(36).slice(2)}` });
    return {
      async send(message) {
        const [result] = await socket.send([message]);
        return result ?? { status: 0 };
      },
      close: () => socket.terminate(),
    };
  },
};
