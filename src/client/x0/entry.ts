/**
 * How a page of x0's comes to use `/v1`: the server says whether it may, and with which token.
 * @module
 */
import { type HandoverError, lost, readProblem } from "../error.ts";
import { isRecord, parseText } from "../json.ts";
import { sessionValue } from "./page.ts";

const ANSWER_MS = 10_000;

export class Entry {
  readonly #base: string;
  /** Why this page may not. */
  refusal: HandoverError | undefined;
  /** Whether any session value is who it says. */
  isDemo = false;

  /** @param base  the server's address, without a slash at the end */
  constructor(base: string) {
    this.#base = base;
  }

  /** The token of this page's session. @throws HandoverError connection-lost, or the server's refusal */
  async token(): Promise<string> {
    const value = sessionValue() ?? "";
    const response = await this.#ask("/x0/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ session_src: value }),
    });
    const answer = parseText(await response.text());
    const problem = readProblem(answer);
    if (problem && !problem.retryable) this.refusal = problem;
    if (problem) throw problem;
    this.isDemo = response.status === 201;
    const token = isRecord(answer) && this.isDemo ? answer.token : value;
    if (!response.ok || typeof token !== "string") throw lost(`/x0/session answered ${response.status} with something that is not of this server.`);
    return token;
  }

  /** Whether the server answers pages at all, on x0's own address. */
  async isServerThere(): Promise<boolean> {
    try {
      const response = await this.#ask("/python/MsgHandler.py", {});
      // A proxy that does not reach the server may answer 200 in its place, and says so then.
      return response.ok && (await response.text()) === "";
    } catch {
      return false;
    }
  }

  async #ask(path: string, init: RequestInit): Promise<Response> {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), ANSWER_MS);
    try {
      return await fetch(this.#base + path, { ...init, signal: stop.signal, cache: "no-store", credentials: "omit" });
    } finally {
      clearTimeout(timer);
    }
  }
}
