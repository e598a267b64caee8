/**
 * One live way to the server. A transport opens a {@link Wire}; the connection chooses which; mail goes from the wire straight to the inbox.
 * @module
 */
import type { AckForms } from "../protocol.ts";
import type { HandoverError } from "./error.ts";
import type { Http } from "./http.ts";
import type { Sent } from "./message.ts";
import type { Token } from "./token.ts";

/** Server-sent events will be the third. */
export type Transport = "websocket" | "poll";

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

/** What a connection is told by the place where it is. */
export interface Turns {
  /** How the connection is that another tab has. */
  followed(status: Status): void;
  /** Another tab has the connection from now on, or this page is left. */
  over(): void;
  /** Another tab asks whether anybody is there: a good moment for what a throttled timer has not done yet. */
  asked(): void;
}

/** Times in ms. The defaults suit the internet. */
export interface Timing {
  /** A WebSocket that is not ready after this counts as blocked. 5 s. */
  readonly openMs: number;
  /** How long the server holds a poll. 10 s. */
  readonly pollWaitMs: number;
  /** How much longer than expected an answer may take before the connection counts as lost. 10 s. */
  readonly answerMs: number;
  /** A WebSocket on which nothing came for so long is checked. 30 s. */
  readonly quietMs: number;
  /** On long polling: first try to come back to WebSocket (at once, when the server was away). 30 s; each time twice as long, up to `probeMaxMs`. */
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
