/**
 * The requests of an x0 page without a browser: one connection, a preflight before every POST, a name for each. What the page itself does with the
 * answers is in page.ts.
 * @module
 */
import { Agent, type ClientRequest, type IncomingHttpHeaders, request } from "node:http";

export interface X0Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The body as JSON; undefined when there is none. */
  readonly body: { readonly messages?: readonly X0Received[] | null } & Readonly<Record<string, unknown>>;
  readonly tookMs: number;
}

export interface X0Received extends Readonly<Record<string, unknown>> {
  readonly payload: Readonly<Record<string, unknown>>;
  readonly session_src: string;
}

export interface Sent {
  readonly answer: Promise<X0Answer>;
  /** Resolves when the request has been written. */
  readonly written: Promise<void>;
  /** Closes its connection. */
  cut(): void;
}

let names = 1_000_000_000;
/** A name for a request (`a__`) that no other has. */
export function newName(): string {
  names += 1;
  return String(names);
}

export const pollOf = (session: unknown) => ({ session_src: session, type: "GET", SessionData: { ID: "SYS_SESSION", Value: session } });

export const formOf = (session: string, to: unknown, values: unknown) => ({
  RequestData: { FormlistSelectDstUser: { UserID: "user1", DstUserSession: to }, FormlistExchangeData: values },
  ServiceData: {},
  SessionData: { ID: "SYS_SESSION", Value: session },
});

export const setDataOf = (payload: unknown) => ({
  "msg-type": "net-message",
  "method-id": "set-data",
  "dst-object": "FormlistExchangeData",
  payload,
});

export const directOf = (session: unknown, to: unknown, payload: unknown) => ({ type: "SET", session_src: session, session_dst: to, payload });

/** One connection to the server, kept alive. Requests on it wait for one another, as in a browser. */
export class Tab {
  readonly #url: string;
  readonly #headers: Record<string, string>;
  #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  #last: X0Answer | undefined;

  constructor(url: string, headers: Record<string, string> = {}) {
    this.#url = `${url}/python/MsgHandler.py`;
    this.#headers = { "User-Agent": `tab ${newName()}`, ...headers };
  }

  /** The answer to the last POST. */
  get last(): X0Answer | undefined {
    return this.#last;
  }

  /** Any request. */
  ask(method: string, name: string | undefined, body?: unknown, headers: Record<string, string> = {}): Sent {
    const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const startedMs = performance.now();
    let outgoing: ClientRequest | undefined;
    let written: () => void = () => {};
    const isWritten = new Promise<void>((resolve) => {
      written = resolve;
    });
    const answer = new Promise<X0Answer>((resolve, reject) => {
      outgoing = request(
        `${this.#url}${name === undefined ? "" : `?a__=${name}`}`,
        {
          method,
          agent: this.#agent,
          headers: {
            ...this.#headers,
            ...(text === undefined ? {} : { "Content-Type": "application/json; charset=UTF-8", "Content-Length": Buffer.byteLength(text) }),
            ...headers,
          },
        },
        (response) => {
          const parts: Buffer[] = [];
          response.on("data", (part: Buffer) => parts.push(part));
          response.on("error", reject);
          response.on("end", () => {
            const read = Buffer.concat(parts).toString();
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              text: read,
              body: read === "" ? {} : JSON.parse(read),
              tookMs: performance.now() - startedMs,
            });
          });
        },
      );
      outgoing.on("error", reject);
      outgoing.on("finish", () => written());
      outgoing.end(text);
    });
    // Whoever cuts it may not care for the answer.
    answer.catch(() => {});
    return { answer, written: isWritten, cut: () => outgoing?.destroy() };
  }

  /** A POST with its preflight, as a browser sends it from a page of another origin. */
  async begin(body: unknown, name = newName()): Promise<Sent> {
    await this.ask("OPTIONS", name).answer;
    const sent = this.ask("POST", name, body);
    await sent.written;
    return sent;
  }

  async post(body: unknown, name = newName()): Promise<X0Answer> {
    const sent = await this.begin(body, name);
    this.#last = await sent.answer;
    return this.#last;
  }

  poll(session: unknown, name?: string): Promise<X0Answer> {
    return this.post(pollOf(session), name);
  }

  /** A poll, and the word that what it brought was processed: the server has no need to guess. */
  async take(session: string): Promise<unknown[]> {
    const answer = await this.poll(session);
    await this.post({ type: "DEL", session_src: session });
    return valuesOf(answer);
  }

  /** A poll that gives up after a moment: what is there at once, or undefined. */
  async glance(session: string, withinMs = 250): Promise<X0Answer | undefined> {
    const sent = await this.begin(pollOf(session));
    const timer = setTimeout(() => sent.cut(), withinMs);
    try {
      return await sent.answer;
    } catch {
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  send(session: string, to: unknown, values: unknown, name?: string): Promise<X0Answer> {
    return this.post(formOf(session, to, values), name);
  }

  /** Closes its connection; the next request opens another. */
  close(): void {
    this.#agent.destroy();
    this.#agent = new Agent({ keepAlive: true, maxSockets: 1 });
  }
}

/** The values that an answer brought, one for each message. */
export function valuesOf(answer: X0Answer | undefined): unknown[] {
  return (answer?.body.messages ?? []).map(({ payload }) => payload);
}
