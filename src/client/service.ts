/**
 * For backends: makes the sessions of users who have logged in, and sends as a service.
 *
 * ```ts
 * const handover = new HandoverService("http://127.0.0.1:8080", process.env.HANDOVER_SERVICE_KEY ?? "");
 * app.post("/token", async (request, response) => response.send((await handover.createSession(request.user.id)).token));
 * ```
 *
 * Node only: a service key is never in a page. One that is to receive is a user like any other, with `connect`.
 * @module
 */
import { backoffMs, pause } from "./backoff.ts";
import { asHandoverError, garbled, HandoverError } from "./error.ts";
import { Http, type RequestOptions } from "./http.ts";
import { isRecord } from "./json.ts";
import { type Address, type MessageState, readSent, readState, type SendOptions, type Sent, statePath, writeMessage } from "./message.ts";
import { Token, type TokenSource } from "./token.ts";
import type { DataOf, TypeOf } from "./types.ts";

export type { ClientErrorCode } from "./error.ts";
export type { Urgency } from "./message.ts";
export type { DataOf, TypeOf };
export { type Address, HandoverError, type MessageState, type SendOptions, type Sent, type TokenSource };

/** One login of a user. */
export interface Session {
  readonly session: string;
  /** For the user's page, to give to `connect`. */
  readonly token: string;
  /** When the token ends, RFC 3339. */
  readonly expires: string;
}

export interface SessionOptions {
  /** Seconds; an hour unless said here or configured. */
  readonly ttl?: number;
  /** Words with spaces between (PROTOCOL.md, "Who is asking"). `receive send:user:*` unless said. */
  readonly scope?: string;
  readonly signal?: AbortSignal;
}

export interface ServiceOptions {
  /** How long what may succeed later is tried again, in ms. 60,000 unless said. */
  readonly retryMs?: number;
  /** How long one answer may take, in ms. 10,000 unless said. */
  readonly answerMs?: number;
}

/** @typeParam Messages  your own table: for each type of message what its data is */
export class HandoverService<Messages extends object = Record<string, unknown>> {
  readonly #http: Http;
  readonly #retryMs: number;
  readonly #answerMs: number;

  /**
   * @param url  the server's address
   * @param key  one of `HANDOVER_SERVICE_KEY`, or a function that gives it
   * @throws TypeError when the address is none
   */
  constructor(url: string, key: string | TokenSource, { retryMs = 60_000, answerMs = 10_000 }: ServiceOptions = {}) {
    const source = typeof key === "string" ? () => key : key;
    this.#http = new Http(new URL(url).href.replace(/\/+$/, ""), new Token(source, () => {}));
    this.#retryMs = retryMs;
    this.#answerMs = answerMs;
  }

  /**
   * Sends a message, as `/services/{name}`. Resolves when it is on the server's disk; until then it is sent again, and stored once.
   * @param to  a user, or `{ user }`, `{ users }`, `{ group }`, `{ session }`
   * @throws HandoverError the server's problem (`forbidden`, `mailbox-full`, …), or `connection-lost`, when it was tried for `retryMs`. The signal's
   *   reason, when aborted.
   */
  async send<Type extends TypeOf<Messages>>(
    to: string | Address,
    type: Type,
    data?: DataOf<Messages, Type>,
    { signal, ...options }: SendOptions = {},
  ): Promise<Sent> {
    return readSent(await this.#ask("/v1/messages", { body: writeMessage(to, type, data, options) }, signal));
  }

  /** Makes a session of a user who has logged in to your application. @throws HandoverError as {@link send} */
  async createSession(user: string, { signal, ...options }: SessionOptions = {}): Promise<Session> {
    const session = await this.#ask("/v1/sessions", { body: JSON.stringify({ user, ...options }) }, signal);
    if (!isRecord(session) || typeof session.token !== "string") throw garbled("session");
    return session as unknown as Session;
  }

  /** Ends a session for ever: its pages are told `session-ended`. Repeating it does no harm. @throws HandoverError as {@link send} */
  async endSession(session: string, signal?: AbortSignal): Promise<void> {
    await this.#ask(`/v1/sessions/${encodeURIComponent(session)}`, { method: "DELETE" }, signal);
  }

  /** What became of a message, for each recipient, until 24 h after its ending. @throws HandoverError `unknown`; else as {@link send} */
  async state(id: string, signal?: AbortSignal): Promise<MessageState> {
    return readState(await this.#ask(statePath(id), {}, signal));
  }

  /** Takes a message back from everybody who has not had it. @returns from how many. @throws HandoverError `unknown`; else as {@link send} */
  async takeBack(id: string, signal?: AbortSignal): Promise<number> {
    const answer = await this.#ask(statePath(id), { method: "DELETE" }, signal);
    if (!isRecord(answer) || typeof answer.evicted !== "number") throw garbled("evicted");
    return answer.evicted;
  }

  /** Asks again, under the same key, for as long as it may succeed. */
  async #ask(path: string, options: Omit<RequestOptions, "timeoutMs">, signal: AbortSignal | undefined): Promise<unknown> {
    const untilMs = performance.now() + this.#retryMs;
    for (let failures = 0; ; failures++) {
      signal?.throwIfAborted();
      try {
        return await this.#http.request(path, { ...options, timeoutMs: this.#answerMs, signal });
      } catch (thrown) {
        signal?.throwIfAborted();
        const error = asHandoverError(thrown);
        const waitMs = backoffMs(failures) + (error.retryAfterMs ?? 0);
        if (!error.retryable || error.status === 507 || performance.now() + waitMs > untilMs) throw error;
        await pause(waitMs, signal);
      }
    }
  }
}
