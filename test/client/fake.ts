/**
 * A server that does what a test tells it: enough of the protocol to be right, and every way of being wrong that a network has.
 * It keeps one mailbox, and a log of everything that the client said.
 * @module
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";

export type Json = Record<string, unknown>;
export interface Hello extends Json {
  readonly token: string;
  readonly receiver: string;
  readonly epoch?: string;
  readonly cursor: number;
  readonly window: number;
}
export interface Ack extends Json {
  /** `http`: beside a stream or a poll. */
  readonly via: "websocket" | "http";
  readonly epoch: string;
  readonly receiver?: string;
  readonly seqs?: number[];
  readonly hold?: number[];
  readonly nack?: { seq: number; retryAfter: number }[];
}
export interface Sending extends Json {
  readonly via: "websocket" | "http";
  readonly idempotencyKey: string;
  readonly type: string;
}
interface Entry {
  readonly seq: number;
  readonly deliveryCount: number;
  readonly event: Json;
}
/** What becomes of a request: `lose` works it and loses the answer with the connection; `mute` never answers. */
export type Fate = "answer" | "lose" | "mute" | Problem;
export interface Problem {
  readonly status: number;
  readonly code: string;
  readonly retryable: boolean;
  readonly retryAfter?: number;
  readonly detail?: string;
}

/** What a server gives as the reason of a close: the error's code. */
const NAMES: Readonly<Record<number, string>> = {
  4400: "bad-request",
  4401: "token-invalid",
  4403: "forbidden",
  4409: "replaced",
  4410: "session-ended",
  4413: "too-large",
  4503: "draining",
};

const problem = ({ retryAfter: _, ...rest }: Problem) => ({ type: `urn:handover:error:${rest.code}`, title: rest.code, detail: rest.code, ...rest });

export class FakeServer {
  epoch = "e1";
  head = 0;
  entries: Entry[] = [];
  readonly hellos: Hello[] = [];
  readonly acks: Ack[] = [];
  readonly sends: Sending[] = [];
  readonly polls: Json[] = [];
  /** What streams were asked for: the query. */
  readonly streams: Json[] = [];
  /** Whoever wanted to receive, by whatever transport, in their order. */
  readonly asked: Json[] = [];
  /** Tokens of `auth` frames. */
  readonly renewals: string[] = [];
  /** Frames with sends, as counted on the wire. */
  sendFrames = 0;
  upgrades = 0;
  heldPolls = 0;
  mostHeldPolls = 0;
  /** Messages by idempotency key: what is stored. */
  readonly stored = new Map<string, Json>();
  /** `refuse`: 503 to the upgrade; `mute`: opens and never says anything. */
  webSocket: "open" | "refuse" | "mute" = "open";
  /** `refuse`: 403, as a proxy says it; `mute`: begins and never says anything; `stall`: says `ready`, and then nothing any more. */
  eventStream: "open" | "refuse" | "mute" | "stall" = "open";
  /** Polls and streams are refused by cutting them. */
  cutsPolls = false;
  /** Whether what is stored comes back as mail, from `ann`. */
  delivers = false;
  /** Requests with acknowledgements and sends get lost on their way to the server. */
  swallows = false;
  /** A close code for the next hellos, one each. */
  readonly refusals: number[] = [];
  readonly refusedTokens = new Set<string>();
  fateOfSend: (message: Sending) => Fate = () => "answer";
  fateOfAck: (ack: Ack) => Fate = () => "answer";
  /** What an acknowledgement, or a send, over HTTP waits for before its answer. */
  ackGate: Promise<void> = Promise.resolve();
  sendGate: Promise<void> = Promise.resolve();
  fateOfPoll: (poll: Json) => Fate | "empty" = () => "answer";
  readonly #pollAnswers: Json[] = [];
  readonly #http: Server;
  readonly #webSockets = new WebSocketServer({ noServer: true });
  readonly #sockets = new Map<WebSocket, Hello>();
  readonly #held = new Map<ServerResponse, Json>();
  readonly #open = new Map<ServerResponse, string>();
  readonly #stalled = new WeakSet<WebSocket>();
  readonly #connections = new Set<Duplex>();

  private constructor() {
    this.#http = createServer((request, response) => {
      this.#request(request, response).catch(() => response.destroy());
    });
    this.#http.on("connection", (socket: Duplex) => {
      this.#connections.add(socket);
      socket.on("close", () => this.#connections.delete(socket));
      socket.on("error", () => {});
    });
    this.#http.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => this.#upgrade(request, socket, head));
  }

  static async start(): Promise<FakeServer> {
    const server = new FakeServer();
    await new Promise<void>((resolve) => server.#http.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  get openSockets(): number {
    return this.#sockets.size;
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#http.close(resolve));
  }

  /** Breaks every connection without a word. */
  cut(): void {
    for (const socket of this.#connections) socket.destroy();
    this.#sockets.clear();
    this.#held.clear();
    this.#open.clear();
    this.heldPolls = 0;
  }

  get openStreams(): number {
    return this.#open.size;
  }

  /** An event to every stream, and its end if asked for. */
  tell(event: string, data: Json, ends = false): void {
    for (const response of this.#open.keys()) {
      response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
      if (ends) response.end();
    }
    if (ends) this.#open.clear();
  }

  /** Ends every stream without a word. */
  endStreams(): void {
    for (const response of this.#open.keys()) response.end();
    this.#open.clear();
  }

  /** As it is, to every stream. */
  write(text: string): void {
    this.writeBytes(Buffer.from(text));
  }

  writeBytes(bytes: Buffer): void {
    for (const response of this.#open.keys()) response.write(bytes);
  }

  /** From now on nothing passes on the WebSockets that are open, in either direction. */
  stallSockets(): void {
    for (const socket of this.#sockets.keys()) this.#stalled.add(socket);
    this.#sockets.clear();
  }

  closeSockets(code: number, frame?: Json): void {
    for (const socket of this.#sockets.keys()) {
      if (frame) socket.send(JSON.stringify(frame));
      socket.close(code, NAMES[code]);
    }
    this.#sockets.clear();
  }

  /** To every WebSocket, as it is. */
  say(text: string | Json): void {
    for (const socket of this.#sockets.keys()) socket.send(typeof text === "string" ? text : JSON.stringify(text));
  }

  /** A new message in the mailbox, handed out at once. @returns its number */
  put(type: string, data: unknown, event: Json = {}, deliveryCount = 1): number {
    const seq = ++this.head;
    const full = { specversion: "1.0", id: `m${seq}`, source: "/users/ann", type, time: new Date().toISOString(), data, ...event };
    this.entries.push({ seq, deliveryCount, event: full });
    this.#handOut([seq]);
    return seq;
  }

  /** Several new messages in one frame. */
  putAll(type: string, list: readonly unknown[]): void {
    const seqs = list.map((data) => {
      const seq = ++this.head;
      const event = { specversion: "1.0", id: `m${seq}`, source: "/users/ann", type, time: new Date().toISOString(), data };
      this.entries.push({ seq, deliveryCount: 1, event });
      return seq;
    });
    this.#handOut(seqs);
  }

  /** The numbers cannot be continued, as after restoring a backup: what is unsettled gets new ones, and everybody is cut off. */
  renumber(epoch: string): void {
    this.epoch = epoch;
    this.head = 0;
    this.entries = this.entries.map((entry) => ({ ...entry, seq: ++this.head }));
    this.cut();
  }

  /** Answers the next polls with these bodies, one each. */
  answerPolls(bodies: readonly Json[]): void {
    this.#pollAnswers.push(...bodies);
  }

  settle(seq: number): void {
    this.entries = this.entries.filter((entry) => entry.seq !== seq);
    this.say({ op: "settled", seqs: [seq] });
    this.tell("settled", { seqs: [seq] });
  }

  #handOut(seqs: readonly number[]): void {
    const deliveries = this.entries.filter((entry) => seqs.includes(entry.seq));
    if (deliveries.length > 0) this.say({ op: "deliver", deliveries });
    for (const response of this.#open.keys()) this.#stream(response, deliveries);
    for (const [response, poll] of this.#held) this.#answerPoll(response, poll);
  }

  #stream(response: ServerResponse, deliveries: readonly Entry[]): void {
    if (this.eventStream !== "stall")
      response.write(deliveries.map((delivery) => `id: ${this.epoch}:${delivery.seq}\ndata: ${JSON.stringify(delivery)}\n\n`).join(""));
  }

  #events(query: URLSearchParams, response: ServerResponse): void {
    const receiver = query.get("receiver") ?? "";
    const epoch = query.get("epoch");
    const asked = { receiver, ...(epoch !== null && { epoch }), cursor: Number(query.get("cursor")), window: Number(query.get("window")) };
    this.streams.push(asked);
    this.asked.push(asked);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    if (this.eventStream === "mute") return;
    for (const [other, its] of this.#open) {
      if (its !== receiver) continue;
      this.#open.delete(other);
      other.end(`event: problem\ndata: ${JSON.stringify(problem({ status: 409, code: "replaced", retryable: false }))}\n\n`);
    }
    this.#open.set(response, receiver);
    response.on("close", () => this.#open.delete(response));
    response.write(`event: ready\nretry: 300\ndata: ${JSON.stringify({ receiver, epoch: this.epoch, head: this.head })}\n\n`);
    const cursor = epoch === this.epoch ? asked.cursor : 0;
    this.#stream(
      response,
      this.entries.filter((entry) => entry.seq > cursor),
    );
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.upgrades++;
    if (this.webSocket === "refuse") return void socket.end("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n");
    this.#webSockets.handleUpgrade(request, socket, head, (webSocket) => {
      webSocket.on("error", () => {});
      webSocket.on("close", () => this.#sockets.delete(webSocket));
      webSocket.on("message", (data: Buffer) => this.#frame(webSocket, JSON.parse(data.toString()) as Json));
    });
  }

  #frame(socket: WebSocket, frame: Json): void {
    if (this.#stalled.has(socket)) return;
    if (frame.op === "hello") {
      const hello = frame as Hello;
      this.hellos.push(hello);
      this.asked.push(hello);
      if (this.webSocket === "mute") return;
      const refusal = this.refusedTokens.has(hello.token) ? 4401 : this.refusals.shift();
      if (refusal) {
        socket.close(refusal, NAMES[refusal]);
        return;
      }
      for (const [other, its] of this.#sockets) if (its.receiver === hello.receiver) other.close(4409, NAMES[4409]);
      for (const [response, poll] of this.#held) if (poll.receiver === hello.receiver) this.#finishPoll(response, 204);
      this.#sockets.set(socket, hello);
      socket.send(JSON.stringify({ op: "ready", receiver: hello.receiver, epoch: this.epoch, head: this.head }));
      const cursor = hello.epoch === this.epoch ? hello.cursor : 0;
      const deliveries = this.entries.filter((entry) => entry.seq > cursor);
      if (deliveries.length > 0) socket.send(JSON.stringify({ op: "deliver", deliveries }));
    } else if (frame.op === "auth") {
      this.renewals.push(frame.token as string);
      socket.send(JSON.stringify({ op: "ready", epoch: this.epoch, head: this.head }));
    } else if (frame.op === "ack") {
      const { op: _, ref, ...forms } = frame;
      const ack = { via: "websocket", ...forms } as Ack;
      const isCheck = Object.keys(forms).length === 1;
      if (!isCheck) this.acks.push(ack);
      const fate = this.fateOfAck(ack);
      if (fate === "lose") {
        this.#settle(ack);
        socket.terminate();
      }
      if (fate === "lose" || fate === "mute") return;
      if (fate === "answer") this.#settle(ack);
      socket.send(JSON.stringify(fate === "answer" ? { op: "acked", ref, acked: 1 } : { op: "error", ref, ...problem(fate) }));
    } else if (frame.op === "send") {
      this.sendFrames++;
      const results = [];
      for (const { ref, ...message } of frame.messages as Json[]) {
        const sending = { via: "websocket", ...message } as Sending;
        const [fate, result] = this.#store(sending);
        if (fate === "lose") socket.terminate();
        if (fate === "lose" || fate === "mute") return;
        results.push({ ref, ...result });
      }
      socket.send(JSON.stringify({ op: "sent", results }));
    }
  }

  /** All that it was asked to store, and what it says. */
  #store(sending: Sending): readonly [Fate, Json] {
    this.sends.push(sending);
    const fate = this.fateOfSend(sending);
    if (typeof fate === "object") return [fate, { ...problem(fate), ...(fate.retryAfter !== undefined && { retryAfter: fate.retryAfter }) }];
    const { via: _, ...message } = sending;
    if (this.delivers && !this.stored.has(sending.idempotencyKey)) {
      const { to: _to, idempotencyKey: _key, type, data, ...event } = message as Json;
      this.put(type as string, data, event);
    }
    this.stored.set(sending.idempotencyKey, message);
    const id = `s${[...this.stored.keys()].indexOf(sending.idempotencyKey) + 1}`;
    return [fate, { status: 201, id, time: "2030-01-01T00:00:00Z", ttl: 60, recipients: ["bob"] }];
  }

  #settle(ack: Ack): void {
    if (ack.epoch !== this.epoch) return;
    this.entries = this.entries.filter((entry) => !ack.seqs?.includes(entry.seq));
    for (const { seq } of ack.nack ?? []) {
      const entry = this.entries.find((each) => each.seq === seq);
      if (!entry) continue;
      this.entries = this.entries.filter((each) => each !== entry);
      this.put(entry.event.type as string, entry.event.data, entry.event, entry.deliveryCount + 1);
    }
  }

  async #request(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = chunks.length > 0 ? (JSON.parse(Buffer.concat(chunks).toString()) as Json) : {};
    const token = request.headers.authorization?.slice("Bearer ".length) ?? "";
    const answer = (status: number, value: Json, headers: Record<string, string> = {}) => {
      response.writeHead(status, { "content-type": status < 400 ? "application/json" : "application/problem+json", ...headers });
      response.end(JSON.stringify(value));
    };
    const refuse = (fate: Problem) =>
      answer(fate.status, problem(fate), fate.retryAfter === undefined ? {} : { "retry-after": String(fate.retryAfter) });
    if (this.refusedTokens.has(token)) return refuse({ status: 401, code: "token-invalid", retryable: false });
    const { pathname, searchParams } = new URL(request.url ?? "/", this.url);
    if (this.swallows && ["/v1/ack", "/v1/messages"].includes(pathname)) return;
    switch (pathname) {
      case "/v1/messages": {
        const [fate, result] = this.#store({ via: "http", ...body } as Sending);
        if (fate === "lose") return void request.socket.destroy();
        if (fate === "mute") return;
        await this.sendGate;
        if (fate === "answer") return answer(201, result);
        return refuse(fate);
      }
      case "/v1/ack": {
        const ack = { via: "http", ...body } as Ack;
        const isCheck = !("seqs" in body || "hold" in body || "nack" in body);
        if (!isCheck) this.acks.push(ack);
        const fate = isCheck ? "answer" : this.fateOfAck(ack);
        if (fate === "mute") return;
        if (typeof fate === "object") return refuse(fate);
        this.#settle(ack);
        if (fate === "lose") return void request.socket.destroy();
        await this.ackGate;
        return answer(200, { acked: 1 });
      }
      case "/v1/events":
        if (this.cutsPolls) return void request.socket.destroy();
        if (this.eventStream === "refuse") return void response.writeHead(403).end("This proxy has its rules.");
        return this.#events(searchParams, response);
      case "/v1/poll":
        return this.#poll(body, request, response, refuse);
      default:
        if (request.url === "/v1/messages/known") return answer(200, { id: "known", recipients: [{ user: "bob", state: "waiting" }] });
        return refuse({ status: 404, code: "unknown", retryable: false, detail: "There is no such message." });
    }
  }

  #poll(poll: Json, request: IncomingMessage, response: ServerResponse, refuse: (fate: Problem) => void): void {
    this.polls.push(poll);
    this.asked.push(poll);
    if (this.cutsPolls) return void request.socket.destroy();
    const fate = this.fateOfPoll(poll);
    if (fate === "empty") return void response.writeHead(204).end();
    if (typeof fate === "object") {
      refuse(fate);
      return;
    }
    for (const [older, its] of this.#held) if (its.receiver === poll.receiver) this.#finishPoll(older, 204);
    for (const [socket, its] of this.#sockets) if (its.receiver === poll.receiver) socket.close(4409, NAMES[4409]);
    if (fate === "lose") return void request.socket.destroy();
    this.#held.set(response, poll);
    this.heldPolls++;
    this.mostHeldPolls = Math.max(this.mostHeldPolls, this.heldPolls);
    response.on("close", () => this.#finishPoll(response, 204));
    const timer = setTimeout(() => this.#finishPoll(response, 204), (poll.wait as number) * 1000);
    response.on("close", () => clearTimeout(timer));
    const scripted = this.#pollAnswers.shift();
    if (scripted) this.#finishPoll(response, 200, { epoch: this.epoch, head: 99, deliveries: [], settled: [], gaps: [], ...scripted });
    else this.#answerPoll(response, poll);
  }

  #answerPoll(response: ServerResponse, poll: Json): void {
    const cursor = poll.epoch === this.epoch ? (poll.cursor as number) : 0;
    const deliveries = this.entries.filter((entry) => entry.seq > cursor).slice(0, poll.max as number);
    const isUnknown = typeof poll.epoch === "string" && poll.epoch !== this.epoch;
    if (deliveries.length === 0 && !isUnknown) return;
    const last = deliveries.at(-1)?.seq ?? 0;
    this.#finishPoll(response, 200, { epoch: this.epoch, cursor: last, head: this.head, deliveries, settled: [], gaps: [] });
  }

  #finishPoll(response: ServerResponse, status: number, body?: Json): void {
    if (!this.#held.delete(response)) return;
    this.heldPolls--;
    response.writeHead(status, { "content-type": "application/json" });
    response.end(body && JSON.stringify(body));
  }
}
