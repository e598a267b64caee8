/**
 * The one error class of the SDK. Most errors are the server's problem documents, passed on as they are.
 * @module
 */
import type { ErrorCode } from "../errors.ts";
import { isRecord } from "./json.ts";

/**
 * What a program should do. Besides the server's codes (PROTOCOL.md, "Errors"):
 * `connection-lost` (no answer, or none that could be understood; the SDK comes back by itself), `token-failed` (your `token()` rejected or did
 * not answer), `user-changed` (your `token()` is another user's by now), `outbox-full` (too many unanswered sends), `outbox-expired` (it waited so long that it might be stored twice), `handler-timeout` (one of your
 * handlers took too long), `closed` (this connection was closed). `timeout` is also a request that was not answered in time.
 */
export type ClientErrorCode =
  | ErrorCode
  | "connection-lost"
  | "token-failed"
  | "user-changed"
  | "outbox-full"
  | "outbox-expired"
  | "handler-timeout"
  | "closed";

/** What went wrong: `code` says what a program should do, `message` and `detail` what a person should do. */
export class HandoverError extends Error {
  override readonly name = "HandoverError";
  readonly code: ClientErrorCode;
  /** HTTP status of the problem; 0 when it did not come from a server. */
  readonly status: number;
  readonly detail: string;
  /** Whether the very same request may succeed later. */
  readonly retryable: boolean;
  /** Earliest sensible time for another try, in ms, when the server named one. */
  readonly retryAfterMs: number | undefined;

  constructor(
    code: ClientErrorCode,
    detail: string,
    options: ErrorOptions & Partial<Pick<HandoverError, "status" | "retryable" | "retryAfterMs">> = {},
  ) {
    super(`${detail} [${code}]`, options);
    this.code = code;
    this.detail = detail;
    this.status = options.status ?? 0;
    this.retryable = options.retryable ?? false;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** The cause of a lost connection on which nothing came when something should have: something on the way may swallow it. */
export const SILENCE = "no answer in time";

/** The connection is gone, or spoke something that is not the protocol. Always worth another try. */
export function lost(detail: string, options: ErrorOptions & { status?: number; retryAfterMs?: number | undefined } = {}): HandoverError {
  return new HandoverError("connection-lost", detail, { ...options, retryable: true });
}

/** What is said of a connection that this side has ended. */
export const ENDED = "The connection has ended.";

/** What is said of what was another user's, in a page whose user has changed. */
export const OTHER_USER = "This was another user's.";

/** Nothing came in time. */
export const silent = (): HandoverError => lost(SILENCE, { cause: SILENCE });

/** What came is not of this protocol. */
export const garbled = (what: string): HandoverError => lost(`Not understood: ${what}.`);

/** Reads a problem document (RFC 9457); undefined when the value is none. */
export function readProblem(value: unknown, retryAfterMs?: number): HandoverError | undefined {
  if (!isRecord(value) || typeof value.code !== "string" || typeof value.status !== "number") return undefined;
  const { code, status, title, detail = title } = value;
  return new HandoverError(code as ClientErrorCode, `${detail ?? code}`, { status, retryable: value.retryable === true, retryAfterMs });
}

/** Turns whatever was thrown into a {@link HandoverError}; what is not ours is a lost connection. */
export function asHandoverError(thrown: unknown): HandoverError {
  return thrown instanceof HandoverError ? thrown : lost(String(thrown), { cause: thrown });
}

/**
 * What a WebSocket close code means (PROTOCOL.md, "Errors"): 44xx stop until something changes; everything else, come back.
 * @param reason   the error's code
 * @param problem  what the server said before it closed, if anything
 */
export function readClose(code: number, reason: string, problem: HandoverError | undefined): HandoverError {
  const detail = problem?.detail ?? `The connection has ended (${code} ${reason}).`;
  if (code < 4400 || code > 4599) return lost(detail);
  const retryable = code > 4499;
  const named = problem?.code ?? ((reason || (retryable ? "internal" : "bad-request")) as ClientErrorCode);
  return new HandoverError(named, detail, { status: problem?.status ?? code - 4000, retryable, retryAfterMs: problem?.retryAfterMs });
}
