/**
 * Which sessions may go on. The engine knows them durably; here is what this node needs at once: which it has asked about already, and what
 * to close when one ends.
 * @module
 */
import type { Engine } from "./engine.ts";
import { HandoverError } from "./errors.ts";
import type { SessionId, UserId } from "./protocol.ts";

/** Bound of what is remembered of the engine's answers: a look-up here instead of a question there. */
const MAX_CACHED = 10_000;
/** How long a session is known after its newest token: a send that is repeated within the 24 h of its key finds the session it was addressed to. */
const KNOWN_AFTER_MS = 24 * 3600_000;
/** The last time that a Date can say. */
const LAST_MS = 8_640_000_000_000_000;

/** A user's session, and when its token ends, ms since the Unix epoch. */
export interface TokenSession {
  readonly user: UserId;
  readonly session: SessionId;
  readonly expiresAtMs: number;
}

/** Something that must not outlive its session. */
export class SessionWatch {
  readonly #stop: (watch: SessionWatch) => void;
  readonly #close: (reason: HandoverError) => void;
  readonly session: SessionId;
  #hasEnded = false;

  constructor(session: SessionId, close: (reason: HandoverError) => void, stop: (watch: SessionWatch) => void) {
    this.session = session;
    this.#close = close;
    this.#stop = stop;
  }

  /** @throws HandoverError token-invalid, when the session has ended since the watch began */
  requireGoing(): void {
    if (this.#hasEnded) throw ended();
  }

  /** The session has ended. */
  end(reason: HandoverError): void {
    this.#hasEnded = true;
    this.#close(reason);
  }

  stop(): void {
    this.#stop(this);
  }
}

export class Sessions {
  readonly #engine: Engine;
  /** Sessions that may go on, by session and user: until when tokens were seen. The oldest knowledge goes first. */
  readonly #known = new Map<string, number>();
  readonly #watches = new Map<SessionId, Set<SessionWatch>>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** Whether it is known here already that a session may go on: then {@link admit} has nothing to ask. */
  isAdmitted({ user, session, expiresAtMs }: TokenSession): boolean {
    return (this.#known.get(nameOf(session, user)) ?? 0) >= expiresAtMs;
  }

  /**
   * Lets a session in, and makes it known durably. Every token passes here once.
   * @throws HandoverError token-invalid, when the session has ended | store-unavailable | store-full
   */
  async admit(token: TokenSession): Promise<void> {
    if (this.isAdmitted(token)) return;
    const { user, session, expiresAtMs } = token;
    const watch = this.watch(session);
    try {
      const untilMs = Math.min(Math.ceil(expiresAtMs) + KNOWN_AFTER_MS, LAST_MS);
      if (!(await this.#engine.admitSession(session, user, untilMs))) throw ended();
      // It may have ended after the engine's answer, and must not be known again.
      watch.requireGoing();
      this.#know(nameOf(session, user), expiresAtMs);
    } finally {
      watch.stop();
    }
  }

  /**
   * Whose a session is, ended or not, at most `limit`.
   * @throws HandoverError store-unavailable
   */
  usersOf(session: SessionId, limit: number): Promise<readonly UserId[]> {
    return this.#engine.usersOfSession(session, limit);
  }

  /**
   * Watches for the end of a session. To be begun before {@link admit} is asked: then no end falls between the two.
   * @param close  called once, when the session ends while it is watched; must not throw
   */
  watch(session: SessionId, close: (reason: HandoverError) => void = () => {}): SessionWatch {
    const watch = new SessionWatch(session, close, this.#unwatch);
    const watches = this.#watches.get(session);
    if (watches) watches.add(watch);
    else this.#watches.set(session, new Set([watch]));
    return watch;
  }

  readonly #unwatch = (watch: SessionWatch): void => {
    const watches = this.#watches.get(watch.session);
    if (watches?.delete(watch) && watches.size === 0) this.#watches.delete(watch.session);
  };

  /**
   * Ends a session, for ever: durable when it resolves, and what was watched is closed by then.
   * @returns whose it was
   * @throws HandoverError store-unavailable | store-full (perhaps it has ended; ask again)
   */
  async end(session: SessionId): Promise<readonly UserId[]> {
    try {
      const { users } = await this.#engine.endSession(session);
      for (const user of users) this.#known.delete(nameOf(session, user));
      const reason = new HandoverError("session-ended", "The session was ended.");
      // One that is stopped by the end of another is not told any more.
      for (const watch of this.#watches.get(session) ?? []) watch.end(reason);
      this.#watches.delete(session);
      return users;
    } catch (thrown) {
      // Whether it has ended is not known: the engine is asked again.
      this.#known.clear();
      throw thrown;
    }
  }

  #know(name: string, untilMs: number): void {
    this.#known.delete(name);
    if (this.#known.size >= MAX_CACHED) {
      const oldest = this.#known.keys().next();
      if (!oldest.done) this.#known.delete(oldest.value);
    }
    this.#known.set(name, untilMs);
  }
}

/** Neither has a space in it. */
function nameOf(session: SessionId, user: UserId): string {
  return `${session} ${user}`;
}

function ended(): HandoverError {
  return new HandoverError("token-invalid", "The session of this token has ended. Log in again.");
}
