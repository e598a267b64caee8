/**
 * Who is asking: tokens and service keys in, {@link Identity} out. The only place that knows what a scope allows.
 * @module
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { decodeProtectedHeader, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify, SignJWT } from "jose";
import type { NewSession } from "./answers.ts";
import { HandoverError } from "./errors.ts";
import { PROVIDER_ALGORITHMS, providerKeys } from "./jwks.ts";
import { type Identity, leftMsOf, type SessionId, type UserId, type UserIdentity } from "./protocol.ts";
import { X0 } from "./x0.ts";

const NAME = /^[A-Za-z0-9._:@-]{1,128}$/;
/** What a token without a `scope` claim may do: read its own mailbox and send to any user (PROTOCOL.md, "Identity"). */
const DEFAULT_SCOPES: readonly string[] = ["receive", "send:user:*"];
/** Bound of the cache of verified tokens; a signature costs about 0.1 ms to check, a look-up nothing. */
const MAX_CACHED_TOKENS = 10_000;
/** As much as the headers of a request take; in `hello` no more than that either. */
const MAX_TOKEN_LENGTH = 8_192;
/** RFC 7515, section 7.1: nothing in a token needs quoting in a header or a cookie. */
const TOKEN = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;
/** What a token may say that it is: not a logout token, say, which is signed by the same provider (RFC 8725, section 3.11; RFC 9068, section 2.1). */
const TOKEN_TYPE = /^(application\/)?(at\+)?jwt$/i;
/** How far the provider's clock may differ, for `nbf`; the end of a token is exact ({@link requireUnexpired}). */
const PROVIDER_CLOCK_SECONDS = 30;

export interface ServiceKey {
  readonly name: string;
  readonly key: string;
}

export interface AuthenticatorOptions {
  /** Shared secret of HS256 tokens, at least 32 bytes; empty: there is none. */
  readonly tokenSecret: string;
  /** Identity provider whose tokens are good too. */
  readonly provider?: Provider | undefined;
  /** Expected `aud` claim. */
  readonly audience: string;
  readonly serviceKeys: readonly ServiceKey[];
  readonly now?: () => number;
}

export interface Provider {
  /** Of its JWKS. */
  readonly jwksUrl: URL;
  /** Expected `iss` claim; none: any that its keys have signed. */
  readonly issuer?: string | undefined;
  /** It gave no keys; for the log. */
  readonly onFailure: (failure: HandoverError) => void;
}

/** Reads the service keys of a setting: one key, or several `name:key` by commas; one without a name is `backend`. */
export function parseServiceKeys(setting: string): ServiceKey[] {
  return setting
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map((part) => {
      const [, name, key] = /^([A-Za-z0-9._@-]{1,64}):(.+)$/.exec(part) ?? [undefined, "backend", part];
      return { name: name ?? "backend", key: key ?? part };
    });
}

/** Verifies tokens and service keys, and signs the tokens of new sessions. */
export class Authenticator {
  readonly #secret: Uint8Array | undefined;
  readonly #provider: Provider | undefined;
  readonly #providerKey: JWTVerifyGetKey | undefined;
  readonly #audience: string;
  readonly #serviceKeys: readonly { readonly name: string; readonly digest: Buffer }[];
  readonly #now: () => number;
  /** Whose a token is; or that it was refused once because it had ended: when the time of day is set back, that stays. */
  readonly #verified = new Map<string, UserIdentity | "ended">();

  constructor(options: AuthenticatorOptions) {
    this.#secret = options.tokenSecret === "" ? undefined : new TextEncoder().encode(options.tokenSecret);
    this.#provider = options.provider;
    this.#providerKey = options.provider && providerKeys(options.provider.jwksUrl, options.provider.onFailure);
    this.#audience = options.audience;
    this.#serviceKeys = options.serviceKeys.map(({ name, key }) => ({ name, digest: sha256(key) }));
    this.#now = options.now ?? Date.now;
  }

  /**
   * Says who holds this credential: at once, if it is a token that was verified before.
   * @param credential  a token or a service key, without `Bearer`
   * @throws HandoverError token-invalid | token-expired | timeout, when the identity provider gave no keys
   * @see RFC 7519; RFC 8725, sections 3.1 and 3.9: each source of keys has its algorithms, and the audience is fixed here
   */
  authenticate(credential: string | undefined): Identity | Promise<Identity> {
    const verified = credential === undefined ? undefined : this.#verified.get(credential);
    const known = verified === undefined || verified === "ended" ? undefined : this.#granted(verified);
    return known ?? this.#examine(credential);
  }

  /** What a verified token allows from now on; undefined when it has ended. */
  #granted(identity: UserIdentity): UserIdentity | undefined {
    const leftMs = identity.expiresAtMs - this.#now();
    return leftMs > 0 ? { ...identity, goodUntilMs: performance.now() + leftMs } : undefined;
  }

  async #examine(credential: string | undefined): Promise<Identity> {
    if (!credential) throw new HandoverError("token-invalid", "There is no token. Send `Authorization: Bearer <token>`.");
    try {
      // It was good once, or has been refused before; that it is good still was looked at first.
      if (this.#verified.has(credential)) throw expired();
      const service = this.#service(credential);
      if (service) return service;
      const identity = await this.#verify(credential);
      const granted = this.#granted(identity);
      if (!granted) throw expired();
      this.#remember(credential, identity);
      return granted;
    } catch (thrown) {
      if (thrown instanceof HandoverError && thrown.code === "token-expired") this.#remember(credential, "ended");
      throw thrown;
    }
  }

  #remember(token: string, identity: UserIdentity | "ended"): void {
    if (this.#verified.size >= MAX_CACHED_TOKENS && !this.#verified.has(token)) {
      const oldest = this.#verified.keys().next();
      if (!oldest.done) this.#verified.delete(oldest.value);
    }
    this.#verified.set(token, identity);
  }

  /**
   * Makes a session: a new `sid` and a token signed for it.
   * @param ttlSeconds  life of the token
   * @param scope  as in OAuth, words with spaces between; none: receive, and send to any user
   * @throws HandoverError unsupported, without a shared secret
   */
  async createSession(user: UserId, ttlSeconds: number, scope?: string): Promise<NewSession> {
    const session = randomBytes(18).toString("base64url") as SessionId;
    return { session, ...(await this.signToken(user, session, ttlSeconds, scope)) };
  }

  /** Signs a token for an existing session. @throws HandoverError unsupported, without a shared secret */
  async signToken(user: UserId, session: SessionId, ttlSeconds: number, scope?: string): Promise<{ token: string; expires: string }> {
    if (!this.#secret) {
      throw new HandoverError("unsupported", "This server has no HANDOVER_TOKEN_SECRET to sign tokens with; they come from the identity provider.");
    }
    const issuedAt = Math.floor(this.#now() / 1000);
    // Whole seconds, and not a moment less than was asked for.
    const expires = Math.ceil(this.#now() / 1000) + ttlSeconds;
    const token = await new SignJWT({ sid: session, ...(scope === undefined ? {} : { scope }) })
      .setProtectedHeader({ alg: "HS256", typ: "JWT" })
      .setSubject(user)
      .setAudience(this.#audience)
      .setIssuedAt(issuedAt)
      .setExpirationTime(expires)
      .sign(this.#secret);
    return { token, expires: new Date(expires * 1000).toISOString() };
  }

  #service(credential: string): Identity | undefined {
    const digest = sha256(credential);
    let found: Identity | undefined;
    // Every key is compared, in constant time: how long it takes says nothing about which one came close.
    for (const key of this.#serviceKeys) if (timingSafeEqual(digest, key.digest)) found = { kind: "service", name: key.name };
    return found;
  }

  async #verify(token: string): Promise<UserIdentity> {
    try {
      const { sub, sid, exp, scope } = await this.#checkSignature(token);
      if (typeof sub !== "string" || !NAME.test(sub)) throw new HandoverError("token-invalid", "The token's sub is not a user id of the protocol.");
      if (typeof sid !== "string" || !NAME.test(sid))
        throw new HandoverError("token-invalid", "The token's sid is not a session id of the protocol.");
      if (typeof exp !== "number" || !Number.isSafeInteger(Math.trunc(exp * 1000))) {
        throw new HandoverError("token-invalid", "The token's exp is not a time.");
      }
      if (scope !== undefined && typeof scope !== "string") throw new HandoverError("token-invalid", "The token's scope is not a string.");
      return {
        kind: "user",
        user: sub as UserId,
        session: sid as SessionId,
        scopes: scope === undefined ? DEFAULT_SCOPES : scope.split(" ").filter((word) => word !== ""),
        expiresAtMs: exp * 1000,
      };
    } catch (thrown) {
      if (thrown instanceof HandoverError) throw thrown;
      if (thrown instanceof errors.JWTExpired) {
        throw expired(thrown);
      }
      throw new HandoverError("token-invalid", "The token is not valid here: not signed by whom it trusts, or not made for it.", {
        cause: thrown,
      });
    }
  }

  /**
   * The claims, when signature and times are good. The header's `alg` chooses between the secret and the provider's keys, and jose holds it against
   * that source's own list: no public key is ever used as a secret, nor the secret as a key. Keys that a token brings or points to (`jwk`, `jku`,
   * `x5c`, `x5u`) mean nothing here.
   */
  async #checkSignature(token: string): Promise<JWTPayload> {
    if (token.length > MAX_TOKEN_LENGTH || !TOKEN.test(token))
      throw new HandoverError("token-invalid", "The token is not valid here: this is neither a service key nor a JWT of at most 8 KiB.");
    const { alg, typ } = decodeProtectedHeader(token);
    if (typ !== undefined && !TOKEN_TYPE.test(typ)) throw new HandoverError("token-invalid", "The token's typ says that it is for something else.");
    const expected = { audience: this.#audience, requiredClaims: ["sub", "sid", "exp"], currentDate: new Date(this.#now()) };
    if (this.#secret && alg === "HS256") return (await jwtVerify(token, this.#secret, { ...expected, algorithms: ["HS256"] })).payload;
    if (this.#provider && this.#providerKey && PROVIDER_ALGORITHMS.includes(alg ?? "")) {
      const { issuer } = this.#provider;
      const options = { ...expected, algorithms: [...PROVIDER_ALGORITHMS], clockTolerance: PROVIDER_CLOCK_SECONDS };
      return (await jwtVerify(token, this.#providerKey, issuer === undefined ? options : { ...options, issuer })).payload;
    }
    const known = [...(this.#secret ? ["HS256"] : []), ...(this.#provider ? PROVIDER_ALGORITHMS : [])];
    throw new HandoverError("token-invalid", `This server takes tokens signed with ${known.join(", ")} only.`);
  }
}

/** What a token allows ends with it, on a live connection too. @throws HandoverError token-expired */
export function requireUnexpired(identity: Identity): void {
  if (identity.kind === "user" && leftMsOf(identity) <= 0) throw expired();
}

function expired(cause?: unknown): HandoverError {
  return new HandoverError("token-expired", "The token has expired. Ask the backend for a new one.", { cause });
}

/** @throws HandoverError forbidden, when this identity has no mailbox to read or may not read it */
export function requireReceiver(identity: Identity): UserIdentity {
  if (identity.kind === "service")
    throw new HandoverError("forbidden", "A service key has no mailbox; make a session (POST /v1/sessions) and use its token.");
  if (!identity.scopes.includes("receive")) throw new HandoverError("forbidden", "The token's scope does not include receive.");
  return identity;
}

/** @throws HandoverError forbidden, when this identity may not send to that user */
export function requireSender(identity: Identity, to: UserId): void {
  if (identity.kind === "service") return;
  if (identity.scopes.includes("send:user:*") || identity.scopes.includes(`send:user:${to}`)) return;
  throw new HandoverError("forbidden", "The token's scope does not allow sending to this user.");
}

/**
 * @throws HandoverError forbidden, when this identity may not send this type: what begins with `handover.` is the server's, and what may run code or
 * markup in x0's pages is not every page's to send
 */
export function requireType(identity: Identity, type: string): void {
  if (type === X0.message && identity.kind === "user" && !identity.scopes.includes(X0.anyScope)) {
    throw new HandoverError(
      "forbidden",
      "Pages send set-data only; every other kind of x0's messages comes from services, or needs the scope x0:any.",
    );
  }
  if (!type.startsWith("handover.")) return;
  if (type === "handover.notification" && (identity.kind === "service" || identity.scopes.includes("notify"))) return;
  throw new HandoverError("forbidden", "Types that begin with handover. are the server's; handover.notification needs the scope notify.");
}

/** @throws HandoverError forbidden, when this is not a service key */
export function requireService(identity: Identity): void {
  if (identity.kind !== "service") throw new HandoverError("forbidden", "This needs a service key; a user's token does not do.");
}

/** The CloudEvents `source` of what this identity sends. */
export function sourceOf(identity: Identity): string {
  return identity.kind === "user" ? `/users/${identity.user}` : `/services/${identity.name}`;
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
