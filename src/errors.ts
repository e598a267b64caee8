/**
 * The one table of everything that can go wrong, and the one class that carries it.
 *
 * HTTP status, WebSocket close code, metric label and the table in PROTOCOL.md all come from {@link ERRORS};
 * a test keeps the document equal to it.
 * @module
 */

interface ErrorRow {
  /** HTTP status of the problem document. */
  readonly status: number;
  /** WebSocket close code (RFC 6455, section 7.4.2, private range): 44xx stop, 45xx come back. */
  readonly close: number;
  /** One line for people; the `title` of the problem document (RFC 9457). */
  readonly title: string;
  /** Whether the very same request may succeed later. */
  readonly retryable: boolean;
  /** When to try again unless the error says otherwise, in ms; sent as `Retry-After`. */
  readonly retryAfterMs?: number;
}

/** Every error code of the protocol. */
export const ERRORS = {
  "bad-request": { status: 400, close: 4400, title: "The request is not what the protocol expects", retryable: false },
  "token-invalid": { status: 401, close: 4401, title: "The token is missing or not valid", retryable: false },
  "token-expired": { status: 401, close: 4401, title: "The token has expired", retryable: false },
  forbidden: { status: 403, close: 4403, title: "The token does not allow this", retryable: false },
  unknown: { status: 404, close: 4400, title: "There is nothing here", retryable: false },
  "in-progress": {
    status: 409,
    close: 4400,
    title: "The first request with this key is still being worked on",
    retryable: true,
    retryAfterMs: 1_000,
  },
  replaced: { status: 409, close: 4409, title: "A newer connection of the same receiver took over", retryable: false },
  "session-ended": { status: 401, close: 4410, title: "The session has ended", retryable: false },
  "too-large": { status: 413, close: 4413, title: "The message or the request is too large", retryable: false },
  "unsupported-media": { status: 415, close: 4400, title: "The body is not application/json", retryable: false },
  "key-reuse": { status: 422, close: 4400, title: "This idempotency key was used for another message", retryable: false },
  invalid: { status: 422, close: 4400, title: "The request is well formed but cannot be granted", retryable: false },
  "rate-limited": { status: 429, close: 4529, title: "Too much at once", retryable: true, retryAfterMs: 10_000 },
  "headers-too-large": { status: 431, close: 4400, title: "Too many or too large headers", retryable: false },
  internal: { status: 500, close: 4500, title: "The server made a mistake", retryable: true },
  unsupported: { status: 501, close: 4400, title: "This server or its store does not offer that", retryable: false },
  draining: { status: 503, close: 4503, title: "The server is about to stop", retryable: true, retryAfterMs: 2_000 },
  "store-unavailable": { status: 503, close: 4503, title: "The store cannot take or give messages now", retryable: true, retryAfterMs: 2_000 },
  timeout: { status: 503, close: 4508, title: "No answer came in time", retryable: true },
  "slow-consumer": { status: 503, close: 4513, title: "The connection does not take what it is sent", retryable: true },
  "mailbox-full": { status: 507, close: 4400, title: "The recipient's mailbox is full", retryable: true },
  "store-full": { status: 507, close: 4503, title: "The disk of the store is full", retryable: true, retryAfterMs: 5_000 },
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;

function rowOf(code: ErrorCode): ErrorRow {
  return ERRORS[code];
}

/** An RFC 9457 problem document, with the protocol's `code` and `retryable`. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly retryable: boolean;
}

/** The only error class of Handover: `code` says what a program should do, `message` says what a person should do. */
export class HandoverError extends Error {
  override readonly name = "HandoverError";
  readonly code: ErrorCode;
  /** Earliest sensible time for another try, in ms; sent as `Retry-After`. */
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; retryAfterMs?: number } = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.retryAfterMs = options.retryAfterMs ?? rowOf(code).retryAfterMs;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  get closeCode(): number {
    return ERRORS[this.code].close;
  }

  get retryable(): boolean {
    return ERRORS[this.code].retryable;
  }

  /** The problem document that goes out, over HTTP and in WebSocket frames alike. @see RFC 9457 */
  problem(): Problem {
    const { status, title, retryable } = ERRORS[this.code];
    return { type: `urn:handover:error:${this.code}`, title, status, detail: this.message, code: this.code, retryable };
  }
}

/** Turns whatever was thrown into a {@link HandoverError}; what is not ours becomes `internal`, with the cause kept for the log. */
export function asHandoverError(thrown: unknown): HandoverError {
  if (thrown instanceof HandoverError) return thrown;
  return new HandoverError("internal", "The server made a mistake; its log has the details. The same request may be tried again.", {
    cause: thrown,
  });
}
