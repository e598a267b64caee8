/**
 * One system's wire, as the driver uses it: the sending and the receiving end of pair n. Both ends batch what is ready in one turn, as far as the wire
 * allows it, as a good client would.
 * @module
 */
import { nowUs } from "./measure.ts";

/** What each message carries: 300 bytes of JSON. */
export interface Body {
  readonly pair: number;
  /** Serial number within the pair, from 0. */
  readonly n: number;
  /** When it was sent, µs. */
  readonly at: number;
}

export interface Sender {
  /** @param bodies  JSON texts, in order */
  send(bodies: readonly string[]): void;
  close(): void;
}

export interface Receiver {
  close(): void;
}

export interface Hearing {
  delivered(bodies: readonly Body[]): void;
  /** So many more are acknowledged: confirmed by the server where the wire has a confirmation, else sent. */
  acknowledged(count: number): void;
}

export interface Wire {
  /** @param accepted  is told how many more the server has taken, by its own word */
  sender?(address: string, pair: number, accepted: (count: number) => void): Promise<Sender>;
  /** Resolves when what is sent from now on is received. */
  receiver?(address: string, pair: number, hearing: Hearing): Promise<Receiver>;
  /** Where messages are kept only for receivers that were there once: makes that of a pair known. */
  absent?(address: string, pair: number): Promise<void>;
  /** One message to many pairs' receivers at once; where the wire has no such thing, not there. */
  fanOut?(address: string, pairs: number, accepted: (count: number) => void): Promise<Sender>;
}

const BODY_BYTES = 300;
const PAD = "x".repeat(BODY_BYTES);

/** A body of exactly 300 bytes. */
export function bodyOf(pair: number, n: number): string {
  const head = `{"pair":${pair},"n":${n},"at":${nowUs()},"text":"`;
  return `${head}${PAD.slice(0, BODY_BYTES - head.length - 2)}"}`;
}

/** A name for this run: keys and queues of two runs are never the same. */
export const RUN = `${process.pid.toString(36)}${Date.now().toString(36)}`;
