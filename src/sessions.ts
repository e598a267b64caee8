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
export interface SessionWatch {
  /** @throws HandoverError token-invalid, when the session has ended since the watch began */
  requireGoing(): void;
  stop(): void;
}

interface Watcher {
  hasEnded: boolean;
  readonly close: (reason: HandoverError) => void;
}

export class Sessions {
  readonly #engine: Engine;
  /** Sessions that may go on, by session and user: until when tokens were seen. The oldest knowledge goes first. */
  readonly #known = new Map<string, number>();
  readonly #watchers = new Map<SessionId, Set<Watcher>>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /**
   * Lets a session in, and makes it known durably. Every token passes here once.
   * @throws HandoverError token-invalid, when the session has ended | store-unavailable | store-full
   */
  async admit({ user, session, expiresAtMs }: TokenSession): Promise<void> {
    const name = nameOf(session, user);
    if ((this.#known.get(name) ?? 0) >= expiresAtMs) return;
    const watch = this.watch(session);
    try {
      const untilMs = Math.min(Math.ceil(expiresAtMs) + KNOWN_AFTER_MS, LAST_MS);
      if (!(await this.#engine.admitSession(session, user, untilMs))) throw ended();
      // It may have ended after the engine's answer, and must not be known again.
      watch.requireGoing();
      this.#know(name, expiresAtMs);
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
    const watchers = this.#watchers.get(session) ?? new Set();
    const watcher: Watcher = { hasEnded: false, close };
    this.#watchers.set(session, watchers.add(watcher));
    return {
      requireGoing() {
        if (watcher.hasEnded) throw ended();
      },
      stop: () => {
        watchers.delete(watcher);
        if (watchers.size === 0 && this.#watchers.get(session) === watchers) this.#watchers.delete(session);
      },
    };
  }

  /**
   * Ends a session, for ever: durable when it resolves, and what was watched is closed by then.
   * @returns whose it was
   * @throws HandoverError store-unavailable | store-full (perhaps it has ended; ask again)
   */
  async end(session: SessionId): Promise<readonly UserId[]> {
    try {
      const { users } = await this.#engine.endSession(session);
      for (const user of users) this.#known.delete(nameOf(session, user));
      const watchers = this.#watchers.get(session) ?? [];
      this.#watchers.delete(session);
      const reason = new HandoverError("session-ended", "The session was ended.");
      for (const watcher of watchers) {
        watcher.hasEnded = true;
        watcher.close(reason);
      }
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
