/**
 * The token: asked for when needed, kept while it is good.
 * @module
 */
import { HandoverError } from "./error.ts";
import { isRecord, parseText } from "./json.ts";

/** A token that ends sooner than this is replaced before it is used. */
const MARGIN_MS = 30_000;
/** How long the application's `token()` may take. */
const ANSWER_MS = 30_000;

export type TokenSource = () => Promise<string> | string;

export class Token {
  readonly #source: TokenSource;
  #value: Promise<string> | undefined;
  #expiresAtMs = Number.POSITIVE_INFINITY;

  constructor(source: TokenSource) {
    this.#source = source;
  }

  /**
   * The token to use now; asks the application when there is none or it is about to end.
   * @throws HandoverError token-failed
   */
  get(): Promise<string> {
    if (!this.#value || Date.now() > this.#expiresAtMs - MARGIN_MS) {
      const asked = this.#ask();
      this.#value = asked;
      this.#expiresAtMs = Number.POSITIVE_INFINITY;
      asked.then(
        (token) => {
          if (this.#value === asked) this.#expiresAtMs = expiry(token);
        },
        () => {
          if (this.#value === asked) this.#value = undefined;
        },
      );
    }
    return this.#value;
  }

  /** The server refused it: the next {@link get} asks anew. */
  forget(): void {
    this.#value = undefined;
  }

  async #ask(): Promise<string> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(`no answer in ${ANSWER_MS / 1000} s`), ANSWER_MS);
    });
    try {
      const token: unknown = await Promise.race([this.#source(), late]);
      if (typeof token !== "string" || token === "") throw "it gave no text";
      return token;
    } catch (cause) {
      throw new HandoverError("token-failed", `The application's token() failed: ${String(cause)}`, { retryable: true, cause });
    } finally {
      clearTimeout(timer);
    }
  }
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

/** When a token ends, ms since the Unix epoch; never, when it does not say. */
function expiry(token: string): number {
  const { exp } = readClaims(token);
  return typeof exp === "number" ? exp * 1000 : Number.POSITIVE_INFINITY;
}
