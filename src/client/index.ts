/**
 * The SDK: sends JSON to users and handles what arrives, each message once.
 *
 * ```ts
 * type Messages = { order: { pizza: number } };
 * const handover = connect<Messages>("", { token: () => fetch("/token").then((answer) => answer.text()) });
 * handover.on("order", async (order) => { await show(order.data.pizza); });   // acknowledged when this resolves
 * await handover.send("bob", "order", { pizza: 2 });                          // resolves when it is on the server's disk
 * ```
 *
 * Works in browsers and in Node from 22.14, without dependencies.
 * @module
 */
import { alarm, onAbort } from "./backoff.ts";
import { Connection, TRANSPORTS } from "./connection.ts";
import { defer } from "./deferred.ts";
import { HandoverError, SILENCE } from "./error.ts";
import { Http } from "./http.ts";
import { type Handler, Inbox, REPLY, type Settled } from "./inbox.ts";
import type { Report } from "./listeners.ts";
import {
  type Address,
  type Message,
  type MessageState,
  readState,
  type SendOptions,
  type Sent,
  statePath,
  type Unsent,
  writeMessage,
} from "./message.ts";
import { Outbox } from "./outbox.ts";
import type { PageOptions } from "./parts.ts";
import { randomId } from "./random.ts";
import { Token, type TokenSource } from "./token.ts";
import type { Answer, AnyMessage, DataOf, TypeOf } from "./types.ts";
import { type Status, TIMING, type Timing, type Transport } from "./wire.ts";

export type { ClientErrorCode } from "./error.ts";
export type { Urgency } from "./message.ts";
export type { Answer, AnyMessage, DataOf, Timing, TokenSource, Transport, TypeOf };
export {
  type Address,
  type Handler,
  HandoverError,
  type Message,
  type MessageState,
  type SendOptions,
  type Sent,
  type Settled,
  type Status,
  type Unsent,
};

export interface ConnectOptions extends PageOptions {
  /**
   * Gives the user's token, from your backend. Called when there is none, when the last one was refused or is about to end. A service key
   * (in Node only; never in a page) can send, not receive.
   */
  readonly token: TokenSource;
  /**
   * How long a handler may take, in ms. 60,000 unless said; 0: as long as it likes. One that takes longer keeps its place no longer: the message is
   * given back and comes again, and you are told. Each place taken for ever would be one less, and with none left nothing more is received.
   */
  readonly handlerTimeoutMs?: number;
  /** In the order in which they are tried. `["websocket", "sse", "poll"]` unless said. */
  readonly transports?: readonly Transport[];
  /** Told what your handlers and listeners throw, and acknowledgements that the server refuses. Writes to the console unless said. */
  readonly onError?: (error: unknown, message?: Message) => void;
  /**
   * Told, once for each type, that messages came which nothing here handles; and where a page has no other tabs or keeps nothing, what that means.
   * Writes to the console unless said.
   */
  readonly onWarning?: (text: string) => void;
  /** Closes the connection. */
  readonly signal?: AbortSignal;
  readonly timing?: Partial<Timing>;
}

/** What is registered ends with the signal, too. */
export interface Until {
  readonly signal?: AbortSignal;
}

export interface RequestOptions extends SendOptions {
  /** How long the answer may take, in ms; 30,000 unless said. The question is not kept any longer either, unless `ttl` says so. */
  readonly timeoutMs?: number;
}

/**
 * A user's connection. It comes back by itself until {@link Handover.close}, or until the server says that there is no use.
 * @typeParam Messages  your own table: for each type of message what its data is
 */
class Handover<Messages extends object = Record<string, unknown>> {
  readonly #connection: Connection;
  readonly #inbox: Inbox;
  readonly #outbox = new Outbox();
  readonly #http: Http;
  readonly #timing: Timing;

  constructor(url: string, options: ConnectOptions) {
    const base = new URL(url || "/", globalThis.location?.href).href.replace(/\/+$/, "");
    const { window = 32, handlerTimeoutMs = 60_000, transports = TRANSPORTS } = options;
    const onError = options.onError ?? ((...what) => console.error("Handover:", ...what));
    // The async wrapper turns a throw into a rejection; it is called at once.
    const report: Report = (...what) => void (async () => onError(...(what as [unknown, Message?])))().catch(console.error);
    const warn = options.onWarning ?? ((text: string) => console.warn(`Handover: ${text}`));
    const token = new Token(options.token, () => this.#connection.changeUser());
    this.#timing = { ...TIMING, ...options.timing };
    this.#http = new Http(base, token);
    this.#inbox = new Inbox({ window, handlerTimeoutMs, warn, report });
    this.#connection = new Connection({
      ...{ base, token, transports, report, warn, options },
      ...{ http: this.#http, inbox: this.#inbox, outbox: this.#outbox, timing: this.#timing },
    });
    until(options.signal, () => void this.close());
  }

  /**
   * Handles messages of a type. A message is acknowledged, and so over, when the promises of all its handlers are resolved; when one rejects,
   * it comes again after 1 s, 2 s, 4 s … at most 60 s, until the server has tried often enough. A message that no handler wants waits for one.
   * Handlers are called in the order of the mailbox and not one after another.
   * @param type  the message's type; `*` for every message
   * @returns a function that takes the handler away again
   */
  on<Type extends TypeOf<Messages>>(type: Type, handler: Handler<DataOf<Messages, Type>>, options?: Until): () => void;
  on(type: "*", handler: (message: AnyMessage<Messages>) => unknown, options?: Until): () => void;
  on(type: string, handler: (message: never) => unknown, { signal }: Until = {}): () => void {
    return until(signal, this.#inbox.on(type, handler as Handler<never>));
  }

  /** Handles one message of a type, and then no more: what comes after it waits for another handler. When the handler rejects, it is still wanted. */
  once<Type extends TypeOf<Messages>>(type: Type, handler: Handler<DataOf<Messages, Type>>, { signal }: Until = {}): () => void {
    return until(signal, this.#inbox.on(type, handler as Handler<never>, true));
  }

  /**
   * Sends a message. Resolves when it is on the server's disk; until then it is sent again, also after a lost connection, and stored once.
   * @param to    a user, or `{ user }`, `{ users }`, `{ group }`, `{ session }`
   * @param type  1–255 characters; those that begin with `handover.` are the server's
   * @param data  any JSON value; taken as it is now
   * @throws HandoverError the server's problem (`forbidden`, `too-large`, `mailbox-full`, …); `outbox-full` after 1,000 unanswered sends without
   *   a connection; `user-changed`; `closed`. The signal's reason, when aborted.
   */
  async send<Type extends TypeOf<Messages>>(
    to: string | Address,
    type: Type,
    data?: DataOf<Messages, Type>,
    { signal, onQueued, ...options }: SendOptions = {},
  ): Promise<Sent> {
    return this.#outbox.send(writeMessage(to, type, data, options), signal, onQueued);
  }

  /**
   * Sends a message and waits for its answer, which the other side gives with {@link reply}. Acknowledged as soon as it is here.
   * @throws HandoverError `timeout`, when there is none in time; else as {@link send}
   */
  async request<Type extends TypeOf<Messages>>(
    to: string | Address,
    type: Type,
    data?: DataOf<Messages, Type>,
    { timeoutMs = 30_000, signal, ...options }: RequestOptions = {},
  ): Promise<Message<Answer<Messages, Type>>> {
    const id = randomId();
    const answer = defer<Message<Answer<Messages, Type>>>();
    const over = new AbortController();
    // A type of its own: the answer is for this page, and the user's other pages leave it lying.
    const takeAway = [
      this.#inbox.on(REPLY + id, answer.resolve as Handler<never>, true),
      alarm(timeoutMs, () => answer.reject(new HandoverError("timeout", SILENCE, { retryable: true }))),
      onAbort(signal, () => answer.reject(signal?.reason)),
      () => over.abort(),
    ];
    const asked = { ttl: Math.ceil(timeoutMs / 1000), correlationid: id, ...options, replyto: REPLY + id };
    this.#outbox.send(writeMessage(to, type, data, asked), over.signal).catch(answer.reject);
    try {
      return await answer.promise;
    } finally {
      for (const take of takeAway) take();
    }
  }

  /**
   * Answers a message that was sent with {@link request}.
   * @throws HandoverError `bad-request`, when it wants no answer, or a service sent it: services have no mailbox. Else as {@link send}
   */
  async reply(message: Message, data?: unknown, { signal, ...options }: SendOptions = {}): Promise<Sent> {
    const { from, replyto, correlationid, time, expirytime = "" } = message;
    if (from === undefined || replyto === undefined) throw new HandoverError("bad-request", "It wants no answer.");
    // Nobody waits for the answer longer than for the question.
    const ttl = Math.ceil((Date.parse(expirytime) - Date.parse(time)) / 1000);
    const answer = { ...(ttl > 0 && { ttl }), ...(correlationid !== undefined && { correlationid }), ...options };
    return this.#outbox.send(writeMessage(from, replyto, data, answer), signal);
  }

  /**
   * What became of a message, for each recipient, until 24 h after its ending.
   * @param id  as `send` gave it
   * @throws HandoverError `unknown`, when it is not yours or too old; `connection-lost`
   */
  async state(id: string, { signal }: Until = {}): Promise<MessageState> {
    return readState(await this.#http.request(statePath(id), { timeoutMs: this.#timing.answerMs, renews: true, signal }));
  }

  /** How the connection is now. */
  get status(): Status {
    return this.#connection.status;
  }

  /** Told of every change of {@link status}. @returns a function that takes the listener away again */
  onStatus(listener: (status: Status) => unknown, { signal }: Until = {}): () => void {
    return until(signal, this.#connection.changes.add(listener));
  }

  /**
   * Told of messages that this page received and that are settled by now: read in another tab, expired, taken back. A hint, so that a badge can
   * go away. @returns a function that takes the listener away again
   */
  onSettled(listener: (message: Settled) => unknown, { signal }: Until = {}): () => void {
    return until(signal, this.#inbox.settledElsewhere.add(listener));
  }

  /**
   * Takes no more messages and sends, waits for the answers that are under way (5 s at most), and ends. Messages whose handlers are still at
   * work are not acknowledged: they come again, elsewhere. What could not be sent rejects with `closed`. Safe to call more than once.
   */
  close(): Promise<void> {
    return this.#connection.close();
  }
}

export type { Handover };

/** Calls `end` when the signal is aborted. @returns a function that does it sooner */
function until(signal: AbortSignal | undefined, end: () => void): () => void {
  const forget = onAbort(signal, end);
  return () => {
    forget();
    end();
  };
}

/**
 * Connects a user, at once and for as long as it lives. Each call is a new receiver: it gets everything that is unsettled.
 * @typeParam Messages  your own table: for each type of message what its data is
 * @param url  the server's address, such as `https://handover.example`; in a page, an empty text is the page's own server
 * @throws TypeError when the address is none
 */
export function connect<Messages extends object = Record<string, unknown>>(url: string, options: ConnectOptions): Handover<Messages> {
  return new Handover<Messages>(url, options);
}
