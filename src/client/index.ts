/**
 * The SDK: sends JSON to users and handles what arrives, each message once.
 *
 * ```ts
 * const handover = connect("", { token: () => fetch("/token").then((answer) => answer.text()) });
 * handover.on<Order>("order", async (order) => { await show(order.data); });   // acknowledged when this resolves
 * await handover.send("bob", "order", { pizza: 2 });                           // resolves when it is on the server's disk
 * ```
 *
 * Works in browsers and in Node from 22.14, without dependencies.
 * @module
 */
import { Connection } from "./connection.ts";
import { HandoverError, lost } from "./error.ts";
import { Http } from "./http.ts";
import type { Handler } from "./inbox.ts";
import { isRecord } from "./json.ts";
import type { Report } from "./listeners.ts";
import type { Address, Message, MessageState, Sending, SendOptions, Sent, Settled, Unsent } from "./message.ts";
import { Place } from "./place.ts";
import { randomId } from "./random.ts";
import { Token, type TokenSource } from "./token.ts";
import { type Status, TIMING, type Timing, type Transport } from "./wire.ts";

export type { ClientErrorCode } from "./error.ts";
export type { Urgency } from "./message.ts";
export type { Timing, TokenSource, Transport };
export {
  type Address,
  type Handler,
  HandoverError,
  type Message,
  type MessageState,
  type Sending,
  type SendOptions,
  type Sent,
  type Settled,
  type Status,
  type Unsent,
};

export interface ConnectOptions {
  /**
   * Gives the user's token, from your backend. Called when there is none, when the last one was refused or is about to end. A service key
   * (in Node only; never in a page) can send, not receive.
   */
  readonly token: TokenSource;
  /**
   * Most messages in hand at once, 1–1,000. 32 unless said. A handler that never ends keeps its place: when all places are taken so, this
   * connection takes nothing more. The user's other connections go on.
   */
  readonly window?: number;
  /** In the order in which they are tried. `["websocket", "poll"]` unless said. */
  readonly transports?: readonly Transport[];
  /**
   * Whether the tabs of a user's login in one browser share a connection: one has it, every tab's handlers run, and a message is acknowledged when
   * those of all tabs are done. True unless said. Without Web Locks (pages on plain http) every tab has a connection of its own.
   */
  readonly share?: boolean;
  /** Told what your handlers and listeners throw, and acknowledgements that the server refuses. Writes to the console unless said. */
  readonly onError?: (error: unknown, message?: Message) => void;
  readonly timing?: Partial<Timing>;
}

/** A user's connection. It comes back by itself until {@link Handover.close}, or until the server says that there is no use. */
class Handover {
  readonly #connection: Connection;
  readonly #place: Place;
  readonly #http: Http;
  readonly #timing: Timing;

  constructor(url: string, options: ConnectOptions) {
    const base = new URL(url || "/", globalThis.location?.href).href.replace(/\/+$/, "");
    const { window = 32, transports = ["websocket", "poll"], share = true, onError } = options;
    const report: Report = (error, message) => {
      try {
        if (onError) onError(error, message as Message | undefined);
        else console.error("Handover:", error, ...(message ? ["\nThe message comes again:", message] : []));
      } catch (thrown) {
        console.error("Handover: onError failed:", thrown);
      }
    };
    const token = new Token(options.token);
    this.#timing = { ...TIMING, ...options.timing };
    this.#http = new Http(base, token);
    this.#place = new Place(base, token, window, share, report);
    this.#connection = new Connection({ base, token, transports, report, http: this.#http, place: this.#place, timing: this.#timing });
  }

  /**
   * Handles messages of a type. A message is acknowledged, and so over, when the promises of all its handlers are resolved; when one rejects,
   * it comes again after 1 s, 2 s, 4 s … at most 60 s, until the server has tried often enough. A message that no handler wants waits for one.
   * Handlers are called in the order of the mailbox and not one after another.
   * @param type  the message's type; `*` for every message
   * @returns a function that takes the handler away again
   */
  on<T = unknown>(type: string, handler: Handler<T>): () => void {
    return this.#place.inbox.on(type, handler as Handler<never>);
  }

  /**
   * Sends a message. Resolves when it is on the server's disk; until then it is sent again, also after a lost connection, and stored once. In a
   * browser, what waits for a connection is kept for the next page of this user, which sends it: see {@link Sending.queued}.
   * @param to    a user, or `{ user }`, `{ users }`, `{ group }`, `{ session }`
   * @param type  1–255 characters; those that begin with `handover.` are the server's
   * @param data  any JSON value; taken as it is now
   * @throws HandoverError the server's problem (`forbidden`, `too-large`, `mailbox-full`, …); `outbox-full` after 1,000 unanswered sends without
   *   a connection; `closed`. The signal's reason, when aborted.
   */
  send(to: string | Address, type: string, data?: unknown, options: SendOptions = {}): Sending {
    const { signal, ...rest } = options;
    return this.#place.outbox.send(() => {
      try {
        return JSON.stringify({ to: typeof to === "string" ? { user: to } : to, type, data, idempotencyKey: randomId(), ...rest });
      } catch (cause) {
        throw new HandoverError("bad-request", `The data cannot be written as JSON: ${String(cause)}`, { cause });
      }
    }, signal);
  }

  /**
   * What became of a message, for each recipient, until 24 h after its ending.
   * @param id  as `send` gave it
   * @throws HandoverError `unknown`, when it is not yours or too old; `connection-lost`
   */
  async state(id: string): Promise<MessageState> {
    const state = await this.#http.request(`/v1/messages/${encodeURIComponent(id)}`, { timeoutMs: this.#timing.answerMs, renews: true });
    if (!isRecord(state) || !Array.isArray(state.recipients)) throw lost("The message's state could not be understood.");
    return state as unknown as MessageState;
  }

  /**
   * Told of messages that an earlier page, or a tab that has gone, was to send, and that can not be sent any more.
   * @returns a function that takes the listener away again
   */
  onUnsent(listener: (unsent: Unsent) => unknown): () => void {
    return this.#place.outbox.unsent.add(listener);
  }

  /** How the connection is now. */
  get status(): Status {
    return this.#connection.status;
  }

  /** Told of every change of {@link status}. @returns a function that takes the listener away again */
  onStatus(listener: (status: Status) => unknown): () => void {
    return this.#connection.changes.add(listener);
  }

  /**
   * Told of messages that this page received and that are settled by now: read in another tab, expired, taken back. A hint, so that a badge can
   * go away. @returns a function that takes the listener away again
   */
  onSettled(listener: (message: Settled) => unknown): () => void {
    return this.#place.inbox.settledElsewhere.add(listener);
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

/**
 * Connects a user, at once and for as long as it lives. Each call is a new receiver: it gets everything that is unsettled.
 * @param url  the server's address, such as `https://handover.example`; in a page, an empty text is the page's own server
 * @throws TypeError when the address is none
 */
export function connect(url: string, options: ConnectOptions): Handover {
  return new Handover(url, options);
}
