/**
 * x0's requests to the message server, which its client makes once and listens to only when they are answered 200: sent to where the server is,
 * and again until they are answered.
 * @module
 */
import type { ErrorCode } from "../../errors.ts";
import { backoffMs } from "../backoff.ts";
import { isRecord, parseText } from "../json.ts";

/** How long a send is tried; then its client is told that it was not successful. */
const SEND_MS = 30_000;
/** How long one try may take: a send waits for the server's disk, a poll is held for 10 s. */
const SEND_ANSWER_MS = 10_000;
const POLL_ANSWER_MS = 30_000;
/** Refusals that pass by themselves, and soon: the server's, and the word of a proxy that does not reach it (deploy/nginx, deploy/apache). */
const PASSING: readonly (ErrorCode | "unreachable")[] = ["draining", "store-unavailable", "timeout", "unreachable"];
const EVENTS = ["readystatechange", "load", "error", "timeout", "loadend"];

/** Whether these are a request's method and address. */
export function isToMessageServer(method: unknown, url: unknown): boolean {
  return method === "POST" && typeof url === "string" && /\/python\/MsgHandler\.py(\?|$)/.test(url);
}

/**
 * A kind of XMLHttpRequest that does not tell of a try that got no answer, and tries again: the same request with the same name (`a__`), which the
 * server takes for one. A send that got none for 30 s is answered with an error; a poll is tried for ever.
 * @param base  the message server's address, without a slash at the end
 * @param onPoll  told of each poll's try: whether it was answered
 */
export function persistentRequest(base: string, onPoll: (isAnswered: boolean) => void): typeof XMLHttpRequest {
  return class extends XMLHttpRequest {
    #url = "";
    #headers: (readonly [string, string])[] = [];
    #body: unknown;
    #isPoll = false;
    #sentAtMs = 0;
    #tries = 0;
    #state: "trying" | "failed" | "over" = "trying";

    constructor() {
      super();
      // Before any listener of the client's.
      for (const type of EVENTS) this.addEventListener(type, (event) => this.#pass(event));
    }

    override open(method: string, url: string | URL): void {
      this.#url = `${base}/python/MsgHandler.py${new URL(url, location.href).search}`;
      this.#headers = [];
      super.open(method, this.#url);
    }

    override setRequestHeader(name: string, value: string): void {
      this.#headers.push([name, value]);
      super.setRequestHeader(name, value);
    }

    override send(body?: Document | XMLHttpRequestBodyInit | null): void {
      const request = parseText(body);
      this.#body = body;
      this.#isPoll = isRecord(request) && request.type === "GET" && request.RequestData === undefined;
      this.#sentAtMs = performance.now();
      this.#try();
    }

    override abort(): void {
      this.#state = "over";
      super.abort();
    }

    get #leftMs(): number {
      return this.#isPoll ? Number.POSITIVE_INFINITY : this.#sentAtMs + SEND_MS - performance.now();
    }

    #try(): void {
      this.#state = "trying";
      this.timeout = this.#isPoll ? POLL_ANSWER_MS : Math.min(SEND_ANSWER_MS, Math.max(1, this.#leftMs));
      super.send(this.#body as XMLHttpRequestBodyInit);
    }

    #again(): void {
      if (this.#state !== "failed") return;
      super.open("POST", this.#url);
      for (const [name, value] of this.#headers) super.setRequestHeader(name, value);
      this.#try();
    }

    /** Lets the client hear of an answer, and of nothing else. */
    #pass(event: Event): void {
      if (this.#state === "trying" && this.readyState === XMLHttpRequest.DONE) {
        const isAnswered = this.#isAnswer();
        this.#state = isAnswered ? "over" : "failed";
        if (this.#isPoll) onPoll(isAnswered);
      }
      if (this.#state !== "failed") return;
      event.stopImmediatePropagation();
      if (event.type !== "loadend") return;
      const waitMs = backoffMs(this.#tries++);
      if (this.#isLost() && waitMs < this.#leftMs) setTimeout(() => this.#again(), waitMs);
      else this.#giveUp();
    }

    /** Whether it is one of the server's, and not to be asked again. */
    #isAnswer(): boolean {
      const answer = this.status === 200 ? parseText(this.responseText) : undefined;
      return isRecord(answer) && !PASSING.includes(answer.exception_id as (typeof PASSING)[number]);
    }

    /** Whether another try may have more luck: there was no answer, or one of a proxy's that says so. */
    #isLost(): boolean {
      return this.status < 300 || this.status >= 500 || [408, 425, 429].includes(this.status) || this.#isPoll;
    }

    #giveUp(): void {
      const words = this.#isLost()
        ? "The message server does not answer. It is not known whether the message was accepted."
        : `What is in front of the message server refuses the request (${this.status}).`;
      const text = JSON.stringify({ messages: null, error: true, exception_id: "connection-lost", exception: words });
      this.#state = "over";
      for (const [field, value] of Object.entries({ status: 200, statusText: "OK", responseText: text, response: text })) {
        Object.defineProperty(this, field, { value });
      }
      for (const type of ["readystatechange", "load", "loadend"]) this.dispatchEvent(new Event(type));
    }
  };
}
