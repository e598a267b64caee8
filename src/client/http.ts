/**
 * Requests to the server.
 * @module
 */
import { alarm, onAbort } from "./backoff.ts";
import { asHandoverError, ENDED, HandoverError, lost, OTHER_USER, readProblem, SILENCE } from "./error.ts";
import { parseText } from "./json.ts";
import type { Token } from "./token.ts";

export interface RequestOptions {
  readonly method?: string;
  /** JSON text; with it the request is a POST, else a GET, unless said. */
  readonly body?: string;
  /** How long nothing may come. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Whether a refused token is replaced and the request made once more. */
  readonly renews?: boolean;
  /** Given the text of a good answer piece by piece, as it comes. */
  readonly read?: (text: string) => void;
}

export class Http {
  readonly #base: string;
  readonly #token: Token;

  /** @param base  the server's address, without a slash at the end */
  constructor(base: string, token: Token) {
    this.#base = base;
    this.#token = token;
  }

  /**
   * @returns the parsed body; undefined for 204, and when it was read piece by piece
   * @throws HandoverError the server's problem; connection-lost when nothing came in time (its cause is {@link SILENCE}) or what could not be understood;
   *   token-failed; user-changed
   */
  async request(path: string, options: RequestOptions): Promise<unknown> {
    try {
      return await this.#once(path, options);
    } catch (thrown) {
      const error = asHandoverError(thrown);
      if (!options.renews || !isTokenRefused(error)) throw error;
      return this.#once(path, options);
    }
  }

  async #once(path: string, { method, body, timeoutMs, signal, read }: RequestOptions): Promise<unknown> {
    const { user } = this.#token;
    const token = await this.#token.get();
    // What one user's page has to say is not said with another's token.
    if (user !== undefined && user !== this.#token.user) throw new HandoverError("user-changed", OTHER_USER);
    const stop = new AbortController();
    const wind = () => alarm(timeoutMs, () => stop.abort(SILENCE));
    let unwind = wind();
    const forget = onAbort(signal, () => stop.abort());
    let response: Response;
    let text = "";
    try {
      response = await fetch(this.#base + path, {
        method: method ?? (body ? "POST" : "GET"),
        headers: { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }) },
        ...(body && { body }),
        signal: stop.signal,
        cache: "no-store",
      });
      if (read && response.ok && response.body) {
        const reader = response.body.getReader();
        const decoder = new TextDecoder();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return undefined;
          unwind();
          unwind = wind();
          read(decoder.decode(value, { stream: true }));
        }
      }
      text = await response.text();
    } catch (cause) {
      throw lost(`${path}: ${String(cause)}`, { cause });
    } finally {
      unwind();
      forget();
    }
    const retryAfterMs = 1000 * Number(response.headers.get("retry-after")) || undefined;
    // Nothing, and not to be asked again before that: the server is about to stop.
    if (response.status === 204 && retryAfterMs) throw new HandoverError("draining", ENDED, { status: 503, retryable: true, retryAfterMs });
    if (response.status === 204) return undefined;
    const answer = parseText(text);
    if (response.ok && answer !== undefined) return answer;
    const problem = response.ok ? undefined : readProblem(answer, retryAfterMs);
    if (problem && isTokenRefused(problem)) this.#token.forget(token);
    throw problem ?? lost(`${path}: ${response.status} is no answer.`, { status: response.status, retryAfterMs });
  }
}

export function isTokenRefused(error: HandoverError): boolean {
  return error.code === "token-invalid" || error.code === "token-expired";
}
