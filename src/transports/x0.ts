/**
 * The wire of x0's micro-msg-server, for its pages as they are: `POST /python/MsgHandler.py`, JSON both ways (docs/x0.md; the facts are X0.md's).
 *
 * What such a page does decides everything here. It polls in a loop without a pause, so an answer is held back unless there is mail; and it stops
 * for good at anything that is not 200 and a JSON object, so there is no other answer.
 * @module
 */
import { performance } from "node:perf_hooks";
import { setTimeout as pause } from "node:timers/promises";
import { asHandoverError, HandoverError } from "../errors.ts";
import { whenExpired } from "../expiry.ts";
import type { Identity, SessionId, UserId, UserIdentity } from "../protocol.ts";
import type { Gateway } from "../transport.ts";
import { eventOf, X0 } from "../x0.ts";
import { hashOf, idOf, isId } from "./x0/event.ts";
import type { Connection, Opening } from "./x0/processed.ts";
import { type SessionPoll, X0Session } from "./x0/session.ts";
import { kindOf, NOTHING, readRequest, SENT, writeError, type X0Request } from "./x0/wire.ts";

/** How long a poll is held: a browser opens six connections to a server, and a click must not wait for all of them. */
const HOLD_MS = 10_000;
const MANY_POLLS = 5;
const SHORT_HOLD_MS = 1_000;
/** How long a request that is none is held. */
const WRONG_HOLD_MS = 1_000;
/** A preflight is remembered longer than a poll can be held, since a poll that the browser repeats has none of its own. */
const PREFLIGHT_MS = 60_000;
const MAX_PREFLIGHTS = 50_000;
/** How long a session that nobody vouches for is known, or twice that. */
const DEMO_SESSION_MS = 24 * 3600_000;
const SWEEP_MS = 1_000;
const IN_PROGRESS_MS = 50;
const MAX_IN_PROGRESS = 100;

export interface X0Options {
  /** `demo`: a session value is whoever it says. `registered`: it is a token of this server's. */
  readonly mode: "demo" | "registered";
  /** `demo` only: pages may send what runs code or markup in other pages too. */
  readonly allowsAny: boolean;
  /** Signs a token for a session of {@link X0Options.mode} `demo`. @throws HandoverError unsupported, without a secret */
  readonly sign: (identity: UserIdentity) => Promise<PageToken>;
  /** What went wrong inside, for the log. */
  readonly onError: (error: HandoverError) => void;
}

/** With what a page uses `/v1`. */
export interface PageToken {
  readonly token: string;
  /** RFC 3339. */
  readonly expires: string;
}

/** A POST as the HTTP side has it. */
export interface X0Post {
  readonly body: unknown;
  /** The client's name for the request (`a__`), if it gave one. */
  readonly request: string | undefined;
  /** Whose connections are shared: address and User-Agent. */
  readonly browser: string;
  readonly connection: Connection;
}

/** What the HTTP side does with a POST. */
export interface Exchange {
  /** The body of the 200. Never rejects. */
  readonly answer: Promise<string>;
  /** The last byte of the answer was handed to the system. */
  written(): void;
  /** The client has gone. */
  abandon(): void;
}

/** How long an answer is held back. */
interface Hold {
  readonly ms: number;
  /** To be called when it was answered. */
  readonly end: () => void;
}

export class X0Transport {
  readonly #gateway: Gateway;
  readonly #options: X0Options;
  readonly #sessions = new Map<string, X0Session>();
  /** By the hash of request and browser: a part of a long address would keep all of it in memory, and anybody can send many. */
  readonly #preflights = new Map<string, Omit<Opening, "request">>();
  /** Polls that are held, by browser. */
  readonly #polls = new Map<string, number>();
  readonly #holds = new Set<() => void>();
  readonly #sweeping: NodeJS.Timeout;
  #drained: "no" | "elsewhere" | "down" = "no";

  constructor(gateway: Gateway, options: X0Options) {
    this.#gateway = gateway;
    this.#options = options;
    this.#sweeping = setInterval(() => this.#sweep(), SWEEP_MS);
    this.#sweeping.unref();
  }

  /** Whether connections shall be closed with their answers. */
  get isDraining(): boolean {
    return this.#drained !== "no";
  }

  /** Remembers when, and on which connection, the preflight of a request came: the browser sends one before every POST. */
  preflight({ request, browser, connection }: Omit<X0Post, "body">): void {
    if (request === undefined) return;
    const key = hashOf(request, browser);
    this.#preflights.delete(key);
    this.#preflights.set(key, { atMs: performance.now(), connection });
    const oldest = this.#preflights.size > MAX_PREFLIGHTS ? this.#preflights.keys().next() : undefined;
    if (oldest && !oldest.done) this.#preflights.delete(oldest.value);
  }

  /**
   * The token with which a page of this session uses `/v1`; undefined where its session value is that token.
   * @throws HandoverError unsupported, when there is no secret to sign it with
   */
  async pageToken(value: string): Promise<PageToken | undefined> {
    return this.#options.mode === "demo" ? this.#options.sign(this.#demoIdentity(value)) : undefined;
  }

  post(post: X0Post): Exchange {
    let request: X0Request;
    try {
      request = readRequest(post.body);
    } catch (thrown) {
      const kind = kindOf(post.body);
      // A page that polls asks again at once; who sends or settles waits for the answer.
      const hold = kind === "poll" ? this.#pollHold(post.browser) : { ms: kind === undefined ? WRONG_HOLD_MS : 0, end() {} };
      return this.refuse(asHandoverError(thrown), hold);
    }
    if (request.kind === "poll") return this.#poll(request.session, post);
    const text = (request.kind === "send" ? this.#send(request, post) : this.#delete(request.session)).catch((thrown: unknown) =>
      writeError(this.#reported(thrown)),
    );
    return { answer: text, written() {}, abandon() {} };
  }

  /** Answers with an error, after a second unless said otherwise. */
  refuse(error: HandoverError, hold: Hold = { ms: WRONG_HOLD_MS, end() {} }): Exchange {
    const held = this.#hold(hold.ms);
    const text = writeError(this.#reported(error));
    return { answer: held.over.then(() => text).finally(hold.end), written() {}, abandon: held.end };
  }

  /**
   * The server is about to stop: answers what is held. Sends are still taken until the hub does not.
   * @param isElsewhere  the next requests go to another process, so that they need not be held here
   */
  drain(isElsewhere: boolean): void {
    this.#drained = isElsewhere ? "elsewhere" : "down";
    clearInterval(this.#sweeping);
    for (const end of this.#holds) end();
    for (const session of this.#sessions.values()) session.drain();
  }

  #poll(value: string, post: X0Post): Exchange {
    const hold = this.#pollHold(post.browser);
    const key = post.request === undefined ? "" : hashOf(post.request, post.browser);
    const preflight = this.#preflights.get(key) ?? { atMs: performance.now(), connection: post.connection };
    const opening: Opening = { request: post.request, ...preflight };
    let poll: SessionPoll | undefined;
    let isGone = false;
    const held = this.#hold(hold.ms);
    const run = async () => {
      const identity = this.#gateway.requireReceiver(await this.#identify(value));
      if (isGone) return NOTHING;
      const session = this.#session(value, identity);
      if (this.isDraining) session.drain();
      poll = session.poll(identity, opening, post.connection, identity.scopes.includes(X0.pageLoadScope));
      if (this.#drained === "elsewhere") poll.expire();
      // What a token allows ends with it, in the middle of a poll too.
      const endExpiry = whenExpired(identity, () => poll?.expire());
      void held.over.then(() => poll?.expire());
      return poll.answer.finally(endExpiry);
    };
    const answer = run()
      .catch(async (thrown: unknown) => {
        // Nothing for who is nobody here; held like any poll, since its page asks again at once.
        const error = this.#reported(thrown);
        await held.over;
        return error.status === 401 || error.status === 403 ? NOTHING : writeError(error);
      })
      .finally(() => {
        held.end();
        hold.end();
      });
    return {
      answer,
      written: () => poll?.written(),
      abandon: () => {
        isGone = true;
        poll?.abandon();
        held.end();
      },
    };
  }

  async #send({ session, to, message }: Extract<X0Request, { kind: "send" }>, { body, request }: X0Post): Promise<string> {
    const identity = await this.#identify(session);
    const { type, data } = eventOf(message, this.#options.mode === "demo" && idOf(session) !== session ? session : undefined);
    // Without the session: a page that has been loaded again may have another value, and sends what the last one could not.
    const content = textOf({ ...(body as object), SessionData: undefined, session_src: undefined });
    const key = request === undefined ? {} : { idempotencyKey: `x0:${hashOf(request, content)}` };
    const sending = { to: { user: await this.#destination(to) }, type, data, ...key };
    let result = await this.#gateway.send(identity, sending);
    // The browser has sent it again before the first one was on disk; a page has no second try.
    for (let times = 0; result instanceof HandoverError && result.code === "in-progress" && times < MAX_IN_PROGRESS; times++) {
      await pause(IN_PROGRESS_MS);
      result = await this.#gateway.send(identity, sending);
    }
    if (result instanceof HandoverError) throw result;
    return SENT;
  }

  async #delete(value: string): Promise<string> {
    this.#gateway.requireReceiver(await this.#identify(value));
    await this.#sessions.get(value)?.acknowledgeHanded();
    return NOTHING;
  }

  /** Who a session value is. @throws HandoverError token-invalid | token-expired */
  async #identify(value: string): Promise<Identity> {
    return this.#options.mode === "registered" ? this.#gateway.authenticate(value) : this.#demoIdentity(value);
  }

  #demoIdentity(value: string): UserIdentity {
    const id = idOf(value);
    const scopes = ["receive", "send:user:*", ...(this.#options.allowsAny ? [X0.anyScope] : [])];
    // The same for a day at least: every later end would have to be made durable.
    const expiresAtMs = (Math.ceil(Date.now() / DEMO_SESSION_MS) + 1) * DEMO_SESSION_MS;
    return { kind: "user", user: id as UserId, session: id as SessionId, scopes, expiresAtMs };
  }

  /**
   * The user whom a destination names: the one whose session it is, if it is one's, else itself. To all of the user's pages: the session may be
   * that of a page which is being loaded again.
   * @throws HandoverError unknown | store-unavailable
   */
  async #destination(to: string): Promise<string> {
    if (this.#options.mode === "demo") return idOf(to);
    if (!isId(to)) {
      throw new HandoverError("unknown", "The destination is not a user's id (1 to 128 of A-Z a-z 0-9 . _ : @ -). Let the page offer users' ids.");
    }
    const [user, ...others] = await this.#gateway.usersOfSession(to as SessionId);
    return user !== undefined && others.length === 0 ? user : to;
  }

  #session(value: string, identity: UserIdentity): X0Session {
    let session = this.#sessions.get(value);
    if (!session) {
      session = new X0Session(this.#gateway, value, identity, this.#options.onError);
      this.#sessions.set(value, session);
    }
    return session;
  }

  /** Counts a poll of this browser, and says how long it may be held. */
  #pollHold(browser: string): Hold {
    const count = (this.#polls.get(browser) ?? 0) + 1;
    this.#polls.set(browser, count);
    return {
      ms: count >= MANY_POLLS ? SHORT_HOLD_MS : HOLD_MS,
      end: () => {
        const left = (this.#polls.get(browser) ?? 1) - 1;
        if (left > 0) this.#polls.set(browser, left);
        else this.#polls.delete(browser);
      },
    };
  }

  #hold(ms: number): { readonly over: Promise<void>; readonly end: () => void } {
    let end = () => {};
    const over = new Promise<void>((resolve) => {
      const timer = setTimeout(() => end(), ms);
      end = () => {
        clearTimeout(timer);
        this.#holds.delete(end);
        resolve();
      };
      if (this.#drained === "elsewhere") end();
      else this.#holds.add(end);
    });
    return { over, end };
  }

  #sweep(): void {
    const now = performance.now();
    for (const [value, session] of this.#sessions) if (!session.sweep(now)) this.#sessions.delete(value);
    for (const [key, { atMs }] of this.#preflights) {
      if (now - atMs < PREFLIGHT_MS) break;
      this.#preflights.delete(key);
    }
  }

  #reported(thrown: unknown): HandoverError {
    const error = asHandoverError(thrown);
    if (error.code === "internal") this.#options.onError(error);
    return error;
  }
}

/** A body as JSON text. @throws HandoverError bad-request, when it has more levels than can be written */
function textOf(body: unknown): string {
  try {
    return JSON.stringify(body);
  } catch (cause) {
    throw new HandoverError("bad-request", "The request is nested too deeply.", { cause });
  }
}
