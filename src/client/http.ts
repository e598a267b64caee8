/**
 * Requests to the server.
 * @module
 */
import { HandoverError, lost, readProblem } from "./error.ts";
import { parseText } from "./json.ts";
import type { Token } from "./token.ts";

export interface RequestOptions {
  /** JSON text; with it the request is a POST, without it a GET. */
  readonly body?: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** Whether a refused token is replaced and the request made once more. */
  readonly renews?: boolean;
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
   * @returns the parsed body; undefined for 204
   * @throws HandoverError the server's problem; connection-lost when there was no answer in time or one that could not be understood; token-failed
   */
  async request(path: string, options: RequestOptions): Promise<unknown> {
    try {
      return await this.#once(path, options);
    } catch (error) {
      if (!options.renews || !(error instanceof HandoverError) || !isTokenRefused(error)) throw error;
      this.#token.forget();
      return this.#once(path, options);
    }
  }

  async #once(path: string, { body, timeoutMs, signal }: RequestOptions): Promise<unknown> {
    const token = await this.#token.get();
    const stop = new AbortController();
    const abort = () => stop.abort();
    const timer = setTimeout(abort, timeoutMs);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    const headers: Record<string, string> = { authorization: `Bearer ${token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    let response: Response;
    let text: string;
    try {
      const init: RequestInit = { method: body === undefined ? "GET" : "POST", headers, signal: stop.signal, cache: "no-store" };
      if (body !== undefined) init.body = body;
      response = await fetch(this.#base + path, init);
      text = await response.text();
    } catch (cause) {
      throw lost(stop.signal.aborted ? `No answer from ${path} in time.` : `${path} could not be reached: ${String(cause)}`, { cause });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
    const retryAfterMs = readRetryAfter(response.headers.get("retry-after"));
    // Nothing, and not to be asked again before that: the server is about to stop.
    if (response.status === 204 && retryAfterMs !== undefined)
      throw new HandoverError("draining", "The server is about to stop.", { status: 503, retryable: true, retryAfterMs });
    if (response.status === 204) return undefined;
    const answer = parseText(text);
    if (response.ok && answer !== undefined) return answer;
    throw (
      (response.ok ? undefined : readProblem(answer, retryAfterMs)) ??
      lost(`${path} answered ${response.status} with something that is not of this protocol.`, { status: response.status, retryAfterMs })
    );
  }
}

export function isTokenRefused(error: HandoverError): boolean {
  return error.code === "token-invalid" || error.code === "token-expired";
}

/** The header's seconds or date as ms from now. @see RFC 9110, section 10.2.3 */
function readRetryAfter(header: string | null): number | undefined {
  if (!header) return undefined;
  const waitMs = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(waitMs) ? Math.max(0, waitMs) : undefined;
}
