/**
 * Sends of the page that got no answer: kept in this browser, where the SDK keeps its own, and made again under the same name (`a__`), by which the
 * server takes them for one, in their order, until they are answered; by the user's next page too, with its session value.
 * @module
 */
import { alarm, backoffMs, pause } from "../backoff.ts";
import { Database } from "../database.ts";
import { isRecord, parseText } from "../json.ts";
import { randomId } from "../random.ts";
import { readClaims } from "../token.ts";
import { isAnswer, isLost, type Request, refusal, SEND_ANSWER_MS, SEND_MS } from "./answer.ts";
import type { Entry } from "./entry.ts";
import { sessionValue } from "./page.ts";

/** A send that is not answered by then is kept. */
const KEEP_MS = 1_000;
/** The server knows a send's name for 24 h: what is older could be stored twice. */
const MAX_AGE_MS = 23 * 3_600_000;
const MAX_WAITING = 1_000;

/** A send that is not answered yet. */
export interface Item extends Request {
  /** Whose it is; undefined: the page has no session. */
  readonly user: string | undefined;
  readonly atMs: number;
  readonly answer: (text: string) => void;
  timer: ReturnType<typeof setTimeout> | undefined;
  /** Its number in the database; undefined: it is not kept. */
  key: Promise<IDBValidKey | undefined> | undefined;
}

export class Outbox {
  readonly #base: string;
  readonly #entry: Entry;
  /** This page's name. */
  readonly #id = randomId();
  /** This page's, without an answer. */
  readonly #open = new Set<Item>();
  /** Those that are to be made again. */
  readonly #line = new Set<Item>();
  /** By their numbers: sends of other pages, which this one has taken over. */
  readonly #adopted = new Set<IDBValidKey>();
  #database: Promise<Database | undefined> | undefined;
  #wake = new AbortController();
  #isRunning = false;

  /** @param base  the message server's address, without a slash at the end */
  constructor(base: string, entry: Entry) {
    this.#base = base;
    this.#entry = entry;
    for (const name of ["pagehide", "freeze"]) addEventListener(name, () => this.#keepAll(), true);
    addEventListener("online", () => this.nudge());
  }

  /** Whether there are sends that wait, so that the next one waits too. */
  get isWaiting(): boolean {
    return this.#line.size > 0;
  }

  /** The page has its session now, or the server is back: what others have left behind is sent. */
  nudge(): void {
    this.#wake.abort();
    void this.#adopt();
  }

  /** A send of this page begins. @param answer  given what the server says, should it be made again */
  begin(request: Request, answer: (text: string) => void): Item {
    const item: Item = { ...request, user: userOf(sessionValue()), atMs: Date.now(), answer, timer: undefined, key: undefined };
    this.#open.add(item);
    item.timer = setTimeout(() => this.#keep(item), KEEP_MS);
    return item;
  }

  /** It got no answer: it is made again until it has one. */
  resend(item: Item): void {
    if (this.#line.size >= MAX_WAITING) {
      this.over(item, refusal("Too many messages wait for the message server already."));
      return;
    }
    // The others will hardly have more luck; so they are kept in their order.
    this.#keepAll();
    this.#line.add(item);
    void this.#run();
  }

  /** It is answered, or given up. @param text  the answer, if it is not known yet */
  over(item: Item, text?: string): void {
    clearTimeout(item.timer);
    this.#open.delete(item);
    this.#line.delete(item);
    void item.key?.then(async (key) => key !== undefined && (await this.#database)?.drop(key));
    if (text !== undefined) item.answer(text);
  }

  /** @returns undefined where this browser keeps nothing */
  #opened(): Promise<Database | undefined> {
    this.#database ??= Database.open(`handover-x0 ${this.#base}`).catch(() => undefined);
    return this.#database;
  }

  #keepAll(): void {
    for (const item of this.#open) this.#keep(item);
  }

  #keep(item: Item): void {
    const { user, search, headers, atMs } = item;
    if (item.key || user === undefined) return;
    // What is kept is no key to anything.
    const text = JSON.stringify({ user, search, headers, body: withSession(item.body, "") });
    item.key = this.#opened().then((database) => database?.keep({ tab: this.#id, text, atMs }));
  }

  /** Takes over what was left behind. A page that is still there sends it as well, and the server takes the two for one. */
  async #adopt(): Promise<void> {
    const user = userOf(sessionValue());
    const database = await this.#opened();
    for (const [key, { tab, text, atMs }] of (await database?.kept().catch(() => [])) ?? []) {
      if (tab === this.#id || this.#adopted.has(key) || user === undefined) continue;
      const request = JSON.parse(text) as Request & { readonly user: string };
      // Of people who log in, one in a browser: what another has left is removed. The demo's have each a tab.
      const isOthers = request.user !== user;
      if (isOthers && !(isPerson(user) && isPerson(request.user)) && atMs > Date.now() - MAX_AGE_MS) continue;
      const answer = (said: string) => {
        this.#adopted.delete(key);
        const { error, exception } = parseText(said) as Record<string, unknown>;
        if (error && !isOthers) console.error("Handover: a message of an earlier page was not sent:", exception, request.body);
      };
      this.#adopted.add(key);
      const item = { ...request, atMs, answer, timer: undefined, key: Promise.resolve(key) };
      if (isOthers) this.over(item, "{}");
      else this.#line.add(item);
    }
    void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#isRunning) return;
    this.#isRunning = true;
    for (let failures = 0; ; ) {
      const [item] = this.#line;
      if (!item) break;
      const text = await this.#send(item);
      if (text !== undefined) {
        failures = 0;
        if (this.#line.has(item)) this.over(item, text);
        continue;
      }
      // One that something on the way does not let through does not hold up the others.
      if (this.#line.size > 1 && (await this.#entry.isServerThere()) && this.#line.delete(item)) this.#line.add(item);
      this.#wake = new AbortController();
      await pause(backoffMs(failures++), this.#wake.signal);
    }
    this.#isRunning = false;
  }

  /** @returns the answer; undefined: none */
  async #send({ user, search, headers, body, atMs, key }: Item): Promise<string | undefined> {
    const value = sessionValue();
    if (user !== userOf(value)) return refusal("The page is another user's by now.");
    const leftMs = atMs + ((await key) === undefined ? SEND_MS : MAX_AGE_MS) - Date.now();
    if (leftMs <= 0) return refusal("The message server does not answer. It is not known whether the message was accepted.");
    const stop = new AbortController();
    const forget = alarm(Math.min(SEND_ANSWER_MS, leftMs), () => stop.abort());
    try {
      const answer = await fetch(`${this.#base}/python/MsgHandler.py${search}`, {
        method: "POST",
        headers: headers as [string, string][],
        body: value === undefined ? body : withSession(body, value),
        signal: stop.signal,
        credentials: "omit",
      });
      const text = await answer.text();
      if (isAnswer(answer.status, text)) return text;
      if (!isLost(answer.status)) return refusal(`What is in front of the message server refuses the request (${answer.status}).`);
    } catch {
      // It is made again.
    } finally {
      forget();
    }
    return undefined;
  }
}

/** The user of a session value: whom the token names, or the value itself. */
function userOf(value: string | undefined): string | undefined {
  const { sub } = readClaims(value ?? "");
  return typeof sub === "string" ? `user ${sub}` : value;
}

const isPerson = (user: string): boolean => user.startsWith("user ");

/** A request's body with another session value in it. */
function withSession(body: string, value: string): string {
  const request = parseText(body);
  if (!isRecord(request)) return body;
  const { SessionData } = request;
  return JSON.stringify({
    ...request,
    ...(request.session_src !== undefined && { session_src: value }),
    ...(isRecord(SessionData) && { SessionData: { ...SessionData, Value: value } }),
  });
}
