/**
 * x0's requests to the message server, which its client makes once and listens to only when they are answered 200: sent to where the server is,
 * and again until they are answered.
 * @module
 */
import { backoffMs } from "../backoff.ts";
import { isRecord, parseText } from "../json.ts";
import { isAnswer, isLost, refusal, SEND_ANSWER_MS } from "./answer.ts";
import type { Item, Outbox } from "./outbox.ts";

/** How long a poll may take: it is held for 10 s. */
const POLL_ANSWER_MS = 30_000;
const EVENTS = ["readystatechange", "load", "error", "timeout", "loadend"];

/** Whether these are a request's method and address. */
export function isToMessageServer(method: unknown, url: unknown): boolean {
  return method === "POST" && typeof url === "string" && /\/python\/MsgHandler\.py(\?|$)/.test(url);
}

/**
 * A kind of XMLHttpRequest that does not tell of a try that got no answer. A poll is tried again, for ever. A send is the outbox's then: made again
 * with the same name (`a__`), which the server takes for one.
 * @param base  the message server's address, without a slash at the end
 * @param onPoll  told of each poll's try: whether it was answered
 */
export function persistentRequest(base: string, outbox: Outbox, onPoll: (isAnswered: boolean) => void): typeof XMLHttpRequest {
  return class extends XMLHttpRequest {
    #search = "";
    #headers: (readonly [string, string])[] = [];
    #body: unknown;
    /** Undefined: it is a poll. */
    #item: Item | undefined;
    #tries = 0;
    #state: "trying" | "failed" | "over" = "trying";

    constructor() {
      super();
      // Before any listener of the client's.
      for (const type of EVENTS) this.addEventListener(type, (event) => this.#pass(event));
    }

    override open(_method: string, url: string | URL): void {
      this.#search = new URL(url, location.href).search;
      this.#headers = [];
      this.#open();
    }

    override setRequestHeader(name: string, value: string): void {
      this.#headers.push([name, value]);
      super.setRequestHeader(name, value);
    }

    override send(body?: Document | XMLHttpRequestBodyInit | null): void {
      const request = parseText(body);
      this.#body = body;
      const isPoll = isRecord(request) && request.type === "GET" && request.RequestData === undefined;
      if (!isPoll) {
        const item = outbox.begin({ search: this.#search, headers: this.#headers, body: String(body) }, (text) => this.#answer(text));
        this.#item = item;
        if (outbox.isWaiting) {
          outbox.resend(item);
          return;
        }
      }
      this.#try();
    }

    override abort(): void {
      this.#state = "over";
      if (this.#item) outbox.over(this.#item);
      super.abort();
    }

    #open(): void {
      super.open("POST", `${base}/python/MsgHandler.py${this.#search}`);
    }

    #try(): void {
      this.#state = "trying";
      this.timeout = this.#item ? SEND_ANSWER_MS : POLL_ANSWER_MS;
      super.send(this.#body as XMLHttpRequestBodyInit);
    }

    #again(): void {
      if (this.#state !== "failed") return;
      this.#open();
      for (const [name, value] of this.#headers) super.setRequestHeader(name, value);
      this.#try();
    }

    /** Lets the client hear of an answer, and of nothing else. */
    #pass(event: Event): void {
      if (this.#state === "trying" && this.readyState === XMLHttpRequest.DONE) {
        const isAnswered = isAnswer(this.status, this.responseText);
        this.#state = isAnswered ? "over" : "failed";
        if (!this.#item) onPoll(isAnswered);
        else if (isAnswered) outbox.over(this.#item);
      }
      if (this.#state !== "failed") return;
      event.stopImmediatePropagation();
      if (event.type !== "loadend") return;
      if (!this.#item) setTimeout(() => this.#again(), backoffMs(this.#tries++));
      else if (isLost(this.status)) outbox.resend(this.#item);
      else outbox.over(this.#item, refusal(`What is in front of the message server refuses the request (${this.status}).`));
    }

    /** The client is given an answer to another request in place of this one. */
    #answer(text: string): void {
      this.#state = "over";
      for (const [field, value] of Object.entries({ readyState: 4, status: 200, statusText: "OK", responseText: text, response: text })) {
        Object.defineProperty(this, field, { value });
      }
      for (const type of ["readystatechange", "load", "loadend"]) this.dispatchEvent(new Event(type));
    }
  };
}
