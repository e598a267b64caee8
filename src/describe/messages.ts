/**
 * What goes over a connection, an entry per message: the text of /asyncapi.json that is not in the schemas.
 * @module
 */
import { type Name, problemExample } from "./document.ts";
import { EXAMPLES } from "./example.ts";

export interface Message {
  readonly from: "client" | "server";
  readonly schema: Name;
  readonly summary: string;
  readonly example: unknown;
  /** Of a client's: what answers it, beside `error`. */
  readonly answer?: string;
}

/** Events of a stream by their name; `message` is the default event, which is not named. */
export const EVENTS: Readonly<Record<string, Message>> = {
  ready: {
    from: "server",
    schema: "ReadyEvent",
    summary: "The first event. Sets `retry`.",
    example: withoutOp(EXAMPLES.ready),
  },
  message: { from: "server", schema: "Delivery", summary: "A delivery: the default event, with the `id` epoch:seq.", example: EXAMPLES.delivery },
  settled: { from: "server", schema: "SettledEvent", summary: "Ended, but not by this receiver: a hint.", example: withoutOp(EXAMPLES.settled) },
  gap: {
    from: "server",
    schema: "GapEvent",
    summary: "Numbers whose messages ended and cannot come any more; with the `id` epoch:to.",
    example: withoutOp(EXAMPLES.gap),
  },
  drain: { from: "server", schema: "DrainEvent", summary: "The server is about to stop, and the stream ends.", example: withoutOp(EXAMPLES.drain) },
  problem: {
    from: "server",
    schema: "MessageProblem",
    summary: "The last event: why the server ends the stream.",
    example: problemExample("token-expired"),
  },
};

/** Frames by their `op`. */
export const FRAMES: Readonly<Record<string, Message>> = {
  hello: {
    from: "client",
    schema: "HelloFrame",
    summary: "First, once, within 10 seconds. A service key, or a token without `receive`, may only send.",
    example: EXAMPLES.hello,
    answer: "ready",
  },
  send: {
    from: "client",
    schema: "SendFrame",
    summary: "Messages, independent of one another: they may share a commit, never a fate.",
    example: EXAMPLES.send,
    answer: "sent",
  },
  ack: {
    from: "client",
    schema: "AckFrame",
    summary: "Acknowledges; receiver and cursor are the connection's.",
    example: EXAMPLES.ackFrame,
    answer: "acked",
  },
  auth: { from: "client", schema: "AuthFrame", summary: "A newer token of the same user and session.", example: EXAMPLES.auth, answer: "ready" },
  ready: {
    from: "server",
    schema: "ReadyFrame",
    summary: "The answer to hello and auth; only `op` where the connection may only send.",
    example: EXAMPLES.ready,
  },
  deliver: { from: "server", schema: "DeliverFrame", summary: "Mail, in the order of its numbers.", example: EXAMPLES.deliver },
  sent: {
    from: "server",
    schema: "SentFrame",
    summary: "What became of messages that were sent, in any order, in one frame or several.",
    example: EXAMPLES.sent,
  },
  acked: { from: "server", schema: "AckedFrame", summary: "In the order of the `ack` frames, each after its commit.", example: EXAMPLES.ackedFrame },
  settled: { from: "server", schema: "SettledFrame", summary: "Ended, but not by this receiver: a hint.", example: EXAMPLES.settled },
  gap: {
    from: "server",
    schema: "GapFrame",
    summary: "Numbers whose messages ended and cannot come any more; moves the cursor to `to`.",
    example: EXAMPLES.gap,
  },
  drain: { from: "server", schema: "DrainFrame", summary: "The server is about to stop; come back, spread over `delay`.", example: EXAMPLES.drain },
  error: { from: "server", schema: "ErrorFrame", summary: "A problem; with `ref`, of that frame.", example: EXAMPLES.error },
};

function withoutOp<F extends { readonly op: string }>({ op: _op, ...event }: F): Omit<F, "op"> {
  return event;
}
