/**
 * What an answer to a request of x0's client is worth.
 * @module
 */
import type { ErrorCode } from "../../errors.ts";
import { isRecord, parseText } from "../json.ts";

/** How long a send that this browser cannot keep is tried; then its client is told that it was not successful. */
export const SEND_MS = 30_000;
/** How long one try may take: a send waits for the server's disk. */
export const SEND_ANSWER_MS = 10_000;
/** Refusals that pass by themselves, and soon: the server's, and the word of a proxy that does not reach it (deploy/nginx, deploy/apache). */
const PASSING: readonly (ErrorCode | "unreachable")[] = ["draining", "store-unavailable", "timeout", "unreachable"];

/** A send as x0's client makes it. */
export interface Request {
  /** The query, with the send's name (`a__`). */
  readonly search: string;
  readonly headers: readonly (readonly [string, string])[];
  /** JSON text. */
  readonly body: string;
}

/** Whether it is one of the server's, and not to be asked again. */
export function isAnswer(status: number, text: string): boolean {
  const answer = status === 200 ? parseText(text) : undefined;
  return isRecord(answer) && !PASSING.includes(answer.exception_id as (typeof PASSING)[number]);
}

/** Whether another try may have more luck: there was no answer, or one of a proxy's that says so. */
export function isLost(status: number): boolean {
  return status < 300 || status >= 500 || [408, 425, 429].includes(status);
}

/** An answer as the server would give it, by which x0's client knows that its send was not successful. */
export function refusal(why: string): string {
  return JSON.stringify({ messages: null, error: true, exception_id: "connection-lost", exception: why });
}
