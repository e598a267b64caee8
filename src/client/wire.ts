/**
 * One live way to the server. A transport opens a {@link Wire}; the connection chooses which; mail goes from the wire straight to the inbox.
 * @module
 */
import type { AckForms } from "../protocol.ts";
import { onAbort, within } from "./backoff.ts";
import { HandoverError, silent } from "./error.ts";
import type { Http } from "./http.ts";
import { isSeq } from "./json.ts";
import type { Sent } from "./message.ts";
import type { Token } from "./token.ts";

export type Transport = "websocket" | "sse" | "poll";

/** How the connection is. `connecting`: trying; `offline`: waiting to try again; `closed`: for good. */
export interface Status {
  readonly state: "connecting" | "online" | "offline" | "closed";
  /** The one in use, while online. */
  readonly transport?: Transport;
  /** Why it is not online, or why it was not until now. */
  readonly error?: HandoverError;
}

export interface Sender {
  /**
   * Sends one message, calls of one turn together where the transport can. Resolves when the server has it on its disk.
   * @param text  the request as JSON text, an object
   * @throws HandoverError the server's problem, or connection-lost
   */
  send(text: string): Promise<Sent>;
}

export interface Wire extends Sender {
  readonly transport: Transport;
  /** Most {@link ack} calls under way at once; while that many are, what becomes ready is collected. */
  readonly maxAcks: number;
  /** Resolves, once, with the reason, when the wire can no longer be used; never rejects. */
  readonly ended: Promise<HandoverError>;
  /**
   * Passes acknowledgements on. Resolves when the server has them on its disk.
   * @throws HandoverError the server's problem, or connection-lost
   */
  ack(epoch: string, forms: AckForms): Promise<void>;
  /** Makes sure, as far as the transport can, that the server is still there; ends the wire if not. */
  check(): void;
  /** Goes on with a newer token. @returns false when it cannot: another wire has to take its place */
  renew(token: string): boolean;
  close(): void;
}

/** Where to go on. */
export interface Position {
  /** None: nothing was ever received. */
  readonly epoch: string | undefined;
  /** Everything up to here was received. */
  readonly cursor: number;
  /** Most messages in hand at once. */
  readonly window: number;
}

/** Where a wire brings what it receives; the inbox. Nothing here throws, whatever it is given. */
export interface Mail {
  position(): Position;
  /** How many more messages may be in hand; resolves when it is at least one. */
  room(): Promise<number>;
  /** The server's numbers; to be told before what comes under them. */
  begin(epoch: string, head: number): void;
  deliver(deliveries: unknown): void;
  /** Everything up to `to` is received or over. */
  advance(to: unknown): void;
  settled(seqs: unknown): void;
}

/** Times in ms. The defaults suit the internet. */
export interface Timing {
  /** A WebSocket or a stream that is not ready after this counts as blocked. 5 s. */
  readonly openMs: number;
  /** How long the server holds a poll. 10 s. */
  readonly pollWaitMs: number;
  /** How much longer than expected an answer may take before the connection counts as lost. 10 s. */
  readonly answerMs: number;
  /** A WebSocket on which nothing came for so long is checked; a stream may be silent for so long and `answerMs`. 30 s. */
  readonly quietMs: number;
  /** First try of a better transport than the one in use (at once, when the server was away). 30 s; each time twice as long, up to `probeMaxMs`. */
  readonly probeMs: number;
  /** 5 min. */
  readonly probeMaxMs: number;
  /** A connection that held so long counts as one that worked: the next failure is the first. 5 s. */
  readonly stableMs: number;
}

export const TIMING: Timing = {
  openMs: 5_000,
  pollWaitMs: 10_000,
  answerMs: 10_000,
  quietMs: 30_000,
  probeMs: 30_000,
  probeMaxMs: 300_000,
  stableMs: 5_000,
};

/** All that a transport is given. */
export interface Opening {
  /** The server's address, without a slash at the end. */
  readonly base: string;
  readonly token: Token;
  readonly http: Http;
  readonly mail: Mail;
  readonly timing: Timing;
  /** The receiver's name on this wire. */
  readonly receiver: string;
  /** Gives the attempt up. */
  readonly signal: AbortSignal;
}

/**
 * Opens a wire. Resolves when it is ready.
 * @throws HandoverError connection-lost when this transport does not get through; else what the server said; token-failed
 */
export type Open = (opening: Opening) => Promise<Wire>;

/**
 * Waits until a wire is ready, and closes one that will not be.
 * @throws HandoverError why it is not
 */
export async function opened(wire: Wire, ready: Promise<unknown>, { signal, timing }: Opening, withinMs = timing.openMs): Promise<Wire> {
  const forget = onAbort(signal, () => wire.close());
  try {
    const first = await within<Wire | HandoverError>(
      withinMs,
      ready.then(() => wire),
      wire.ended,
    );
    if (first === wire) return wire;
    throw first ?? silent();
  } catch (error) {
    wire.close();
    throw error;
  } finally {
    forget();
  }
}

/** Brings to the mail what a frame or event says of it; the others are the wire's own. */
export function take(mail: Mail, op: unknown, frame: Record<string, unknown>): void {
  if (op === "deliver") mail.deliver(frame.deliveries);
  else if (op === "settled") mail.settled(frame.seqs);
  else if (op === "gap") mail.advance(frame.to);
  // Without an epoch the token may only send: there is no mailbox.
  else if (op === "ready" && typeof frame.epoch === "string" && isSeq(frame.head)) mail.begin(frame.epoch, frame.head);
}

/** Told to leave: everybody was, so come back spread over the time that the server named. @param drainMs  undefined: it named none */
export function afterDrain(why: HandoverError, drainMs: number | undefined): HandoverError {
  if (drainMs === undefined || !why.retryable) return why;
  return new HandoverError(why.code, why.detail, { status: 503, retryable: true, retryAfterMs: Math.random() * drainMs });
}
