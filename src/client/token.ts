/**
 * The token: asked for when needed, kept while it is good, replaced before it ends.
 * @module
 */
import { within } from "./backoff.ts";
import { HandoverError } from "./error.ts";
import { isRecord, parseText } from "./json.ts";

/** A token is replaced so long before its end, or with a third of its time left: more than a hidden tab's timers are late. */
const MARGIN_MS = 90_000;
/** The longest timer that there is, but for a moment. */
const MAX_TIMER_MS = 2 ** 31 - 2;
/** How long the application's `token()` may take. */
const ANSWER_MS = 30_000;

export type TokenSource = () => Promise<string> | string;

export class Token {
  readonly #source: TokenSource;
  readonly #onUser: (user: string) => void;
  #asked: Promise<string> | undefined;
  #value: string | undefined;
  #user: string | undefined;
  #renewAtMs = Number.POSITIVE_INFINITY;

  /** @param onUser  told, before anybody gets it, of a token that is another user's than the last */
  constructor(source: TokenSource, onUser: (user: string) => void) {
    this.#source = source;
    this.#onUser = onUser;
  }

  /** Whose token was given last; undefined: nobody's yet, or it does not say (a service key). */
  get user(): string | undefined {
    return this.#user;
  }

  /** ms until the token should be replaced; not above what a timer can wait. */
  get restMs(): number {
    return Math.min(Math.max(this.#renewAtMs - Date.now(), 0), MAX_TIMER_MS);
  }

  /**
   * The token to use now; asks the application when there is none or it is about to end.
   * @throws HandoverError token-failed
   */
  get(): Promise<string> {
    if (!this.#asked || this.restMs === 0) {
      const asked = this.#ask();
      this.#asked = asked;
      this.#renewAtMs = Number.POSITIVE_INFINITY;
      asked.then(
        (token) => {
          if (this.#asked === asked) this.#keep(token);
        },
        () => {
          if (this.#asked === asked) this.#asked = undefined;
        },
      );
    }
    return this.#asked;
  }

  /** The server refused it: the next {@link get} asks anew, if nobody else has by now. */
  forget(token: string): void {
    if (token === this.#value) this.#asked = undefined;
  }

  #keep(token: string): void {
    this.#value = token;
    const { sub, exp, iat } = readClaims(token);
    // By the time that it is given for, not by its end: this device's clock may be wrong. One that is older than it seems is refused, and replaced then.
    const restMs = typeof exp === "number" ? (typeof iat === "number" ? (exp - iat) * 1000 : exp * 1000 - Date.now()) : Number.POSITIVE_INFINITY;
    this.#renewAtMs = Date.now() + restMs - Math.min(MARGIN_MS, restMs / 3);
    if (typeof sub !== "string") return;
    const isOther = this.#user !== undefined && this.#user !== sub;
    this.#user = sub;
    if (isOther) this.#onUser(sub);
  }

  async #ask(): Promise<string> {
    try {
      const token: unknown = await within(ANSWER_MS, this.#source());
      if (typeof token !== "string" || token === "") throw "no text in time";
      return token;
    } catch (cause) {
      throw new HandoverError("token-failed", `token() failed: ${String(cause)}`, { retryable: true, cause });
    }
  }
}

/** Whether two tokens are of the same user and session: one can then replace the other on a connection. */
export function isSameSession(one: string, other: string): boolean {
  const [{ sub, sid }, claims] = [readClaims(one), readClaims(other)];
  return sub === claims.sub && sid === claims.sid;
}

/** What a JWT says; nothing, when it is none (a service key). Not verified: the server does that. */
export function readClaims(token: string): Record<string, unknown> {
  try {
    const claims = parseText(atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/")));
    if (isRecord(claims)) return claims;
  } catch {
    // Not base64: not a JWT.
  }
  return {};
}
