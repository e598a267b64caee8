/**
 * WebSocket: `GET /v1/ws`, subprotocol `handover.v1.json`, JSON frames with `op`.
 *
 * Whatever becomes ready in one turn shares a frame where the protocol allows it, and one write to the socket in any case: what a
 * message costs here is frames and system calls.
 * @module
 */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocket, WebSocketServer } from "ws";
import { asHandoverError, HandoverError } from "../errors.ts";
import { whenExpired } from "../expiry.ts";
import { Heartbeat } from "../heartbeat.ts";
import {
  type AckFrame,
  type AnyFrame,
  type HelloFrame,
  type Identity,
  PROTOCOL,
  parse,
  parseJson,
  type ReceiverId,
  type Ref,
  SCHEMAS,
  type SendFrame,
  type ServerFrame,
  writeFrame,
} from "../protocol.ts";
import type { Channel, Gateway, Link } from "../transport.ts";

const HELLO_TIMEOUT_MS = 10_000;
/** How often a peer is looked at, whether it is silent; with every fourth look it is pinged, which is about every 20 s. */
const LOOK_MS = 5_000;
const PING_EVERY = 4;
/** Without any sign of life for this long a peer is gone; it is let go of at the next look, which is within 45 s. */
const SILENCE_MS = 39_000;
/** Deliveries stop while this much waits for the peer to read it; they stay in the mailbox. */
const MAX_BUFFERED_BYTES = 1_048_576;
/** A peer that reads nothing and goes on asking is let go. */
const MAX_UNREAD_BYTES = 4 * MAX_BUFFERED_BYTES;
/** While this many messages and acknowledgements of one connection wait for their commit, nothing more is read from it. */
const MAX_PENDING = 2_000;
/** How long a peer may take to answer a close frame, and when the server itself stops: one that sleeps never does. */
const CLOSE_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 1_000;

export interface WebSocketTransport {
  /** Takes over an HTTP upgrade that has passed the checks of the HTTP server (path, Host, Origin). */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Lets go of all connections (those that have a receiver were told by the hub), and cuts those that do not answer. */
  close(reason: HandoverError): void;
  /** How many connections there are. */
  readonly size: number;
}

/** Makes the WebSocket side of a gateway. @param onError  what went wrong inside, for the log */
export function webSocketTransport(gateway: Gateway, onError: (error: HandoverError) => void): WebSocketTransport {
  const connections = new Set<Connection>();
  // A variable of its own: the types do not know closeTimeout yet.
  const options = {
    noServer: true,
    clientTracking: false,
    maxPayload: PROTOCOL.maxFrameBytes,
    maxFragments: 64,
    maxBufferedChunks: 1_024,
    perMessageDeflate: false,
    closeTimeout: CLOSE_TIMEOUT_MS,
    WebSocket: ProtocolSocket,
    handleProtocols: (protocols: Set<string>): string | false => (protocols.has(PROTOCOL.subprotocol) ? PROTOCOL.subprotocol : false),
  };
  const server = new WebSocketServer(options);
  return {
    upgrade(request, socket, head) {
      server.handleUpgrade(request, socket, head, (webSocket) => {
        const connection = new Connection(webSocket, socket, gateway, onError, () => connections.delete(connection));
        connections.add(connection);
      });
    },
    close(reason) {
      for (const connection of connections) connection.close(reason);
      setTimeout(() => {
        for (const connection of connections) connection.cut();
      }, STOP_TIMEOUT_MS);
    },
    get size() {
      return connections.size;
    },
  };
}

/** What ws cannot take it ends with the codes of RFC 6455, section 7.4.1; the protocol's own say what the client shall do about it. */
class ProtocolSocket extends WebSocket {
  override close(code?: number, reason?: string | Buffer): void {
    // 1009 too big, 1008 too many fragments; 1002 not WebSocket, 1007 not UTF-8.
    if (code === 1009 || code === 1008) super.close(4413, "too-large");
    else if (code === 1002 || code === 1007) super.close(4400, "bad-request");
    else super.close(code, reason);
  }
}

class Connection implements Link {
  readonly kind = "websocket";
  readonly #webSocket: WebSocket;
  readonly #socket: Duplex;
  readonly #gateway: Gateway;
  readonly #onError: (error: HandoverError) => void;
  #identity: Identity | undefined;
  #channel: Channel | undefined;
  #unwatch: () => void = () => {};
  /** The `hello`, once it came; what follows it waits for it. */
  #greeting: Promise<void> | undefined;
  #isOpen = true;
  /** Until the `hello`, and then until what the token allows ends. */
  #endDeadline: () => void;
  readonly #heartbeat: Heartbeat;
  #looks = 0;
  /** By the clock that nobody sets: the time of day can jump. */
  #heardAtMs = performance.now();
  /** Frames of this turn, and the results of sends that share one. */
  #outgoing: string[] = [];
  #results: string[] = [];
  #outgoingBytes = 0;
  #isFlushing = false;
  #isBlocked = false;
  #pending = 0;
  #isPaused = false;
  #acknowledged: Promise<void> = Promise.resolve();

  constructor(webSocket: WebSocket, socket: Duplex, gateway: Gateway, onError: (error: HandoverError) => void, onClose: () => void) {
    this.#webSocket = webSocket;
    this.#socket = socket;
    this.#gateway = gateway;
    this.#onError = onError;
    const timer = setTimeout(() => this.close(new HandoverError("timeout", "No hello came within 10 seconds.")), HELLO_TIMEOUT_MS);
    this.#endDeadline = () => clearTimeout(timer);
    // Those that came together are not looked at together.
    this.#heartbeat = new Heartbeat(LOOK_MS, (nowMs) => this.#look(nowMs), LOOK_MS * Math.random());
    webSocket.on("message", (data: Buffer, isBinary: boolean) => this.#received(data, isBinary));
    webSocket.on("pong", () => {
      this.#heardAtMs = performance.now();
    });
    // A bad frame ends the connection (ws has closed it with the right code), not the process.
    webSocket.on("error", () => {});
    webSocket.on("close", () => {
      this.#isOpen = false;
      this.#endDeadline();
      this.#heartbeat.stop();
      this.#channel?.closed();
      this.#unwatch();
      onClose();
    });
  }

  send(frame: ServerFrame): boolean {
    this.#write(writeFrame(frame));
    // Blocked until it is drained, not merely until there is less: a hint must not free it unseen.
    if (this.#outgoingBytes + this.#webSocket.bufferedAmount > MAX_BUFFERED_BYTES) this.#isBlocked = true;
    return !this.#isBlocked;
  }

  close(reason: HandoverError): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#endDeadline();
    this.#flush();
    // The reason of a close frame has room for 123 bytes (RFC 6455, section 5.5).
    this.#webSocket.close(reason.closeCode, reason.code);
    // Paused, it would not see the peer's answer, and the peer would wait for the end until a timeout.
    this.#webSocket.resume();
    this.#channel?.closed();
  }

  /** Ends the connection without waiting for the peer. */
  cut(): void {
    this.#webSocket.terminate();
  }

  /** Gives up on a peer that was silent, else pings it when it is time. */
  #look(nowMs: number): void {
    this.#looks += 1;
    if (nowMs - this.#heardAtMs > SILENCE_MS) {
      this.close(new HandoverError("timeout", "The peer does not answer."));
      this.#webSocket.terminate();
    } else if (this.#looks % PING_EVERY === 0 && this.#webSocket.readyState === this.#webSocket.OPEN) {
      this.#webSocket.ping();
    }
  }

  #received(data: Buffer, isBinary: boolean): void {
    if (!this.#isOpen) return;
    this.#heardAtMs = performance.now();
    try {
      if (isBinary) throw new HandoverError("bad-request", "Frames are JSON text; this one was binary.");
      const frame = parse(SCHEMAS.frame, parseJson(data.toString(), "The frame"), "The frame");
      if (!this.#greeting) {
        if (frame.op !== "hello") throw new HandoverError("bad-request", "The first frame is hello.");
        // Nothing more is read until we know who this is.
        this.#webSocket.pause();
        this.#greeting = this.#greet(parse(SCHEMAS.hello, frame, "The hello frame")).then(
          () => this.#webSocket.resume(),
          (thrown: unknown) => this.#fail(thrown),
        );
      } else {
        if (frame.op === "hello") throw new HandoverError("bad-request", "hello comes once, as the first frame.");
        void this.#greeting.then(() => this.#dispatch(frame)).catch((thrown: unknown) => this.#refuse(thrown, frame.ref));
      }
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  async #greet(hello: HelloFrame): Promise<void> {
    const identity = await this.#gateway.authenticate(hello.token);
    if (!this.#isOpen) return;
    this.#identity = identity;
    this.#expireWith(identity);
    if (identity.kind === "service" || !identity.scopes.includes("receive")) {
      if (identity.kind === "user") this.#unwatch = await this.#gateway.watch(identity, (reason) => this.close(reason));
      if (!this.#isOpen) this.#unwatch();
      this.#write(JSON.stringify({ op: "ready" }));
      return;
    }
    const channel = await this.#gateway.open(identity, this, {
      receiver: hello.receiver as ReceiverId | undefined,
      epoch: hello.epoch ?? undefined,
      cursor: hello.cursor ?? 0,
      window: hello.window ?? PROTOCOL.defaultWindow,
    });
    this.#channel = channel;
    if (!this.#isOpen) channel.closed();
  }

  #dispatch(frame: AnyFrame): void | Promise<void> {
    if (!this.#isOpen || !this.#identity) return;
    switch (frame.op) {
      case "send":
        return this.#sendMessages(this.#identity, parse(SCHEMAS.sendFrame, frame, "The send frame"));
      case "ack":
        return this.#acknowledge(this.#identity, parse(SCHEMAS.ackFrame, frame, "The ack frame"));
      case "auth":
        return this.#renew(this.#identity, parse(SCHEMAS.authFrame, frame, "The auth frame").token);
      default:
        throw new HandoverError("bad-request", `There is no op ${JSON.stringify(frame.op).slice(0, 40)} for clients; send, ack and auth are.`);
    }
  }

  #sendMessages(identity: Identity, { messages }: SendFrame): void {
    this.#begin(messages.length);
    void this.#gateway.sendEach(identity, messages).then((results) => {
      for (const [place, result] of results.entries()) {
        const status = result instanceof HandoverError ? "" : '"status":201,';
        const outcome = JSON.stringify(result instanceof HandoverError ? result.problem() : result);
        this.#results.push(`{"ref":${JSON.stringify(messages[place]?.ref)},${status}${outcome.slice(1)}`);
      }
      this.#scheduleFlush();
      this.#done(messages.length);
    });
  }

  #acknowledge(identity: Identity, { op: _, ref, epoch, ...forms }: AckFrame): void {
    if (!this.#channel) throw new HandoverError("forbidden", "This connection has no mailbox: its token may only send.");
    const receiver = this.#channel.receiver;
    const settled = this.#gateway.acknowledge(this.#gateway.requireReceiver(identity), {
      ...forms,
      receiver,
      epoch: epoch ?? undefined,
      cursor: undefined,
    });
    // A long list of numbers weighs more than a message.
    const weight = 1 + Math.floor((forms.seqs?.length ?? 0) / 100);
    this.#begin(weight);
    // The answers go out in the order of the frames, each after its commit.
    this.#acknowledged = Promise.allSettled([settled, this.#acknowledged]).then(([result]) => {
      this.#done(weight);
      if (result.status === "fulfilled") this.#write(JSON.stringify({ op: "acked", ref, acked: result.value }));
      else this.#refuse(result.reason, ref);
    });
  }

  #begin(weight: number): void {
    this.#pending += weight;
    if (this.#pending <= MAX_PENDING) return;
    this.#isPaused = true;
    this.#webSocket.pause();
  }

  #done(weight: number): void {
    this.#pending -= weight;
    if (!this.#isPaused || this.#pending > MAX_PENDING / 2) return;
    this.#isPaused = false;
    this.#webSocket.resume();
  }

  async #renew(current: Identity, token: string): Promise<void> {
    const identity = await this.#gateway.authenticate(token);
    const isSame = current.kind === "user" && identity.kind === "user" && identity.user === current.user && identity.session === current.session;
    if (!isSame) throw new HandoverError("forbidden", "A token can be renewed on a connection only for the same user and session.");
    // What comes here must be acknowledged here: a token that may do only the one is not taken.
    if (this.#channel) this.#gateway.requireReceiver(identity);
    this.#identity = identity;
    this.#expireWith(identity);
    const channel = this.#channel;
    this.#write(JSON.stringify(channel ? { op: "ready", receiver: channel.receiver, epoch: channel.epoch, head: channel.head() } : { op: "ready" }));
  }

  /** The connection ends with what the token allows. */
  #expireWith(identity: Identity): void {
    this.#endDeadline();
    if (identity.kind === "user") this.#endDeadline = whenExpired(identity, () => this.close(expired()));
  }

  /** What breaks the protocol ends the connection; the error frame says why. */
  #fail(thrown: unknown): void {
    this.close(this.#refuse(thrown, undefined));
  }

  #refuse(thrown: unknown, ref: Ref | undefined): HandoverError {
    const error = asHandoverError(thrown);
    if (error.code === "internal") this.#onError(error);
    this.#write(JSON.stringify({ op: "error", ref, ...error.problem() }));
    return error;
  }

  #write(text: string): void {
    if (!this.#isOpen) return;
    this.#outgoing.push(text);
    this.#outgoingBytes += text.length;
    this.#scheduleFlush();
  }

  #scheduleFlush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    // After the promises of this turn: all that a commit answered is there by then.
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    this.#isFlushing = false;
    if (this.#webSocket.readyState !== this.#webSocket.OPEN) return;
    this.#socket.cork();
    const texts = [...inFrames(this.#results).map((results) => `{"op":"sent","results":[${results.join(",")}]}`), ...this.#outgoing];
    const last = texts.pop();
    for (const text of texts) this.#webSocket.send(text);
    if (last !== undefined) this.#webSocket.send(last, () => this.#drained());
    this.#outgoing = [];
    this.#results = [];
    this.#outgoingBytes = 0;
    this.#socket.uncork();
    if (this.#webSocket.bufferedAmount > MAX_UNREAD_BYTES) {
      this.#isOpen = false;
      this.#webSocket.close(new HandoverError("slow-consumer", "").closeCode, "slow-consumer");
      // It has had its say: until it is gone nothing more is read from it.
      this.#webSocket.pause();
      this.#channel?.closed();
    }
  }

  #drained(): void {
    if (!this.#isBlocked || this.#webSocket.bufferedAmount > MAX_BUFFERED_BYTES / 2) return;
    this.#isBlocked = false;
    this.#channel?.drained();
  }
}

function expired(): HandoverError {
  return new HandoverError("token-expired", "The token has expired. Ask the backend for a new one, and send it with auth before it does next time.");
}

/** Splits texts into groups that fit a frame of 1 MiB. */
function inFrames(texts: readonly string[]): readonly (readonly string[])[] {
  const groups: string[][] = [];
  let group: string[] = [];
  let length = 0;
  for (const text of texts) {
    // A result is ASCII but for its detail; three times its length is the most that UTF-8 can take.
    length += text.length * 3;
    if (group.length > 0 && length > PROTOCOL.maxFrameBytes - 64) {
      groups.push(group);
      group = [];
      length = text.length * 3;
    }
    group.push(text);
  }
  if (group.length > 0) groups.push(group);
  return groups;
}
