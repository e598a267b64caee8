/**
 * Handover's three transports, and sending by HTTP; from PROTOCOL.md. Each message has an idempotency key, as the SDK gives one.
 * @module
 */
import { once } from "node:events";
import { SignJWT } from "jose";
import { WebSocket } from "ws";
import { type Body, type Hearing, type Receiver, RUN, type Sender, type Wire } from "../wire.ts";
import { follow, HttpConnection, pollOn } from "./http.ts";

export const SECRET = "a secret for benchmarks, of more than 32 bytes";
const MOST = 100;

export function token(user: string): Promise<string> {
  return new SignJWT({ sid: `bench-${user}` })
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(user)
    .setAudience("handover")
    .setExpirationTime("5y")
    .sign(new TextEncoder().encode(SECRET));
}

const receiverName = (pair: number) => `receiver-${pair}`;
let serial = 0;

/** The fields of a message to one pair's receiver. */
function fieldsTo(pair: number, body: string): string {
  return `"to":{"user":"${receiverName(pair)}"},"type":"bench","idempotencyKey":"${RUN}-${pair}-${serial++}","data":${body}}`;
}

async function open(address: string, user: string, more: object): Promise<WebSocket> {
  const socket = new WebSocket(`${address.replace("http", "ws")}/v1/ws`, "handover.v1.json", { perMessageDeflate: false });
  await once(socket, "open");
  socket.send(JSON.stringify({ op: "hello", token: await token(user), ...more }));
  return socket;
}

interface SentResult {
  readonly status: number;
}
interface Delivery {
  readonly seq: number;
  readonly event: { readonly data: Body };
}
type Frame =
  | { readonly op: "ready"; readonly epoch: string; readonly head: number }
  | { readonly op: "sent"; readonly results: readonly SentResult[] }
  | { readonly op: "deliver"; readonly deliveries: readonly Delivery[] }
  | { readonly op: "acked"; readonly acked: number }
  | { readonly op: "gap" | "settled" | "drain" }
  | { readonly op: "error" };

const read = (data: unknown) => JSON.parse(String(data)) as Frame;

async function webSocketSender(
  address: string,
  pair: number,
  accepted: (count: number) => void,
  fields: (pair: number, body: string) => string = fieldsTo,
): Promise<Sender> {
  const socket = await open(address, `sender-${pair}`, {});
  socket.on("message", (data) => {
    const frame = read(data);
    if (frame.op === "error") throw new Error(String(data));
    if (frame.op !== "sent") return;
    for (const result of frame.results) if (result.status !== 201) throw new Error(JSON.stringify(result));
    accepted(frame.results.length);
  });
  await once(socket, "message");
  return {
    send(bodies) {
      for (let from = 0; from < bodies.length; from += MOST) {
        const messages = bodies.slice(from, from + MOST).map((body, n) => `{"ref":${n},${fields(pair, body)}`);
        socket.send(`{"op":"send","messages":[${messages.join(",")}]}`);
      }
    },
    close: () => socket.terminate(),
  };
}

/** @param fromHead  leaves what waits in the mailbox where it is, and acknowledges only what comes */
async function webSocketReceiver(address: string, pair: number, hearing: Hearing, fromHead = false): Promise<Receiver> {
  const user = receiverName(pair);
  let more: object = { receiver: "bench", window: 1_000 };
  if (fromHead) {
    const look = await open(address, user, { receiver: "look", window: 1 });
    const [data] = await once(look, "message");
    const ready = read(data);
    if (ready.op !== "ready") throw new Error(String(data));
    look.terminate();
    more = { ...more, epoch: ready.epoch, cursor: ready.head };
  }
  const socket = await open(address, user, more);
  const isReady = once(socket, "message");
  let epoch = "";
  let seqs: number[] = [];
  const acknowledge = () => {
    const form = fromHead ? { seqs } : { upto: seqs.at(-1) };
    socket.send(JSON.stringify({ op: "ack", epoch, ...form }));
    seqs = [];
  };
  socket.on("message", (data) => {
    const frame = read(data);
    if (frame.op === "ready") epoch = frame.epoch;
    else if (frame.op === "acked") hearing.acknowledged(frame.acked);
    else if (frame.op === "error") throw new Error(String(data));
    else if (frame.op === "deliver") {
      // Frames that came together are acknowledged together.
      if (seqs.length === 0) queueMicrotask(acknowledge);
      for (const { seq } of frame.deliveries) seqs.push(seq);
      hearing.delivered(frame.deliveries.map(({ event }) => event.data));
    }
  });
  await isReady;
  return { close: () => socket.terminate() };
}

/** One message to all of so many pairs' receivers. */
function fanOut(address: string, pairs: number, accepted: (count: number) => void): Promise<Sender> {
  const users = JSON.stringify(Array.from({ length: pairs }, (_none, pair) => receiverName(pair)));
  return webSocketSender(address, 0, accepted, (_pair, body) => {
    return `"to":{"users":${users}},"type":"bench","idempotencyKey":"${RUN}-all-${serial++}","data":${body}}`;
  });
}

/** @param most  messages in one request: 1 as plain objects, more as arrays */
async function httpSender(address: string, pair: number, accepted: (count: number) => void, most: number): Promise<Sender> {
  const credential = await token(`sender-${pair}`);
  const idle: HttpConnection[] = [];
  const waiting: string[] = [];
  let isClosed = false;
  const pump = async (connection: HttpConnection) => {
    while (waiting.length > 0) {
      const bodies = waiting.splice(0, most).map((body) => `{${fieldsTo(pair, body)}`);
      const { status, text } = await connection.post("/v1/messages", most === 1 ? (bodies[0] ?? "") : `[${bodies.join(",")}]`);
      if (status !== 201) throw new Error(`${status} ${text}`);
      JSON.parse(text);
      accepted(bodies.length);
    }
    idle.push(connection);
  };
  idle.push(await HttpConnection.open(address, credential));
  return {
    send(bodies) {
      waiting.push(...bodies);
      // Arrays go one after the other on one connection, as the SDK's do; single messages beside one another.
      for (let n = most === 1 ? bodies.length : 1; n > 0; n--) {
        const connection = idle.pop();
        if (connection) void pump(connection);
        else if (most === 1) void HttpConnection.open(address, credential).then((opened) => (isClosed ? opened.close() : pump(opened)));
      }
    },
    close() {
      isClosed = true;
      for (const connection of idle) connection.close();
    },
  };
}

interface PollAnswer {
  readonly epoch: string;
  readonly cursor: number;
  readonly deliveries: readonly Delivery[];
}

/** Acknowledges with the next poll. It counts when it is sent: its answer comes with the next mail only. */
async function pollReceiver(address: string, pair: number, hearing: Hearing, waitSeconds = 10): Promise<Receiver> {
  const connection = await HttpConnection.open(address, await token(receiverName(pair)));
  let position: { epoch?: string; cursor?: number; ack?: { upto: number } } = {};
  const poll = async (wait: number): Promise<void> => {
    const { status, text } = await connection.post("/v1/poll", JSON.stringify({ receiver: "bench", ...position, max: 1_000, wait }));
    if (status === 204) return;
    if (status !== 200) throw new Error(`${status} ${text}`);
    const answer = JSON.parse(text) as PollAnswer;
    position = { epoch: answer.epoch, cursor: answer.cursor };
    if (answer.deliveries.length === 0) return;
    position.ack = { upto: answer.cursor };
    hearing.delivered(answer.deliveries.map(({ event }) => event.data));
    queueMicrotask(() => hearing.acknowledged(answer.deliveries.length));
  };
  await poll(0);
  return pollOn(connection, () => poll(waitSeconds));
}

async function sseReceiver(address: string, pair: number, hearing: Hearing): Promise<Receiver> {
  const credential = await token(receiverName(pair));
  // For the acknowledgements: a browser, too, opens it with the first.
  let connection: HttpConnection | undefined;
  let epoch = "";
  let upto = 0;
  let acked = 0;
  let isAcknowledging = false;
  const acknowledge = async () => {
    isAcknowledging = true;
    while (acked < upto) {
      acked = upto;
      connection ??= await HttpConnection.open(address, credential);
      const { status, text } = await connection.post("/v1/ack", JSON.stringify({ receiver: "bench", epoch, cursor: upto, upto }));
      if (status !== 200) throw new Error(`${status} ${text}`);
      hearing.acknowledged((JSON.parse(text) as { acked: number }).acked);
    }
    isAcknowledging = false;
  };
  const isReady = Promise.withResolvers<void>();
  let rest = "";
  const read = (part: string) => {
    const blocks = (rest + part).split("\n\n");
    rest = blocks.pop() ?? "";
    const bodies: Body[] = [];
    for (const block of blocks) {
      const data = /^data: ?(.*)$/m.exec(block)?.[1];
      const event = /^event: ?(.*)$/m.exec(block)?.[1];
      if (data === undefined) continue;
      if (event === "ready") {
        epoch = (JSON.parse(data) as { epoch: string }).epoch;
        isReady.resolve();
      } else if (event === undefined || event === "message") {
        const delivery = JSON.parse(data) as Delivery;
        upto = delivery.seq;
        bodies.push(delivery.event.data);
      } else if (event === "problem") throw new Error(data);
    }
    if (bodies.length === 0) return;
    hearing.delivered(bodies);
    if (!isAcknowledging) void acknowledge();
  };
  // A stream lasts 23 to 28 s.
  const stream = await follow(() => {
    const from = epoch === "" ? "" : `&epoch=${epoch}&cursor=${upto}`;
    rest = "";
    return {
      url: `${address}/v1/events?receiver=bench&window=1000${from}`,
      headers: { Authorization: `Bearer ${credential}`, Accept: "text/event-stream" },
    };
  }, read);
  await isReady.promise;
  return {
    close() {
      stream.close();
      connection?.close();
    },
  };
}

const arrays = (address: string, pair: number, accepted: (count: number) => void) => httpSender(address, pair, accepted, MOST);

export const webSocket: Wire = { sender: webSocketSender, receiver: webSocketReceiver, fanOut };
/** Only what comes is received and acknowledged, one by one; what waits stays. */
export const fromHead: Wire = {
  sender: webSocketSender,
  receiver: (address, pair, hearing) => webSocketReceiver(address, pair, hearing, true),
};
export const sse: Wire = { sender: arrays, receiver: sseReceiver };
export const poll: Wire = { sender: arrays, receiver: pollReceiver };
/** With the longest wait that a server grants; 10 seconds is what the SDK asks for. */
export const longestPoll: Wire = { receiver: (address, pair, hearing) => pollReceiver(address, pair, hearing, 60) };
/** Each message to another of so many mailboxes, at random. */
export const spread = (mailboxes: number): Wire => ({
  sender: (address, pair, accepted) =>
    webSocketSender(address, pair, accepted, (_pair, body) => {
      return `"to":{"user":"crowd-${Math.floor(Math.random() * mailboxes)}"},"type":"bench","idempotencyKey":"${RUN}-${pair}-${serial++}","data":${body}}`;
    }),
});
/** One message a request, by plain POST. */
export const post: Wire = { sender: (address, pair, accepted) => httpSender(address, pair, accepted, 1) };
