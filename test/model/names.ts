/**
 * Who there is in a sequence: users, sessions and senders of its own, so that many sequences can have one store.
 * @module
 */
import type { Identity, SessionId, UserId, UserIdentity } from "../../src/protocol.ts";

let sequences = 0;

export class Names {
  readonly #run: string;
  /** How often each session was ended and made anew. */
  readonly #logins = new Map<string, number>();

  constructor() {
    sequences += 1;
    this.#run = `r${sequences}`;
  }

  user(name: string): UserId {
    return `${this.#run}-${name}` as UserId;
  }

  session(name: string): SessionId {
    return `${this.#run}-${name}-${this.#logins.get(name) ?? 0}` as SessionId;
  }

  /** From now on the session of this name is another one. */
  logInAnew(name: string): void {
    this.#logins.set(name, (this.#logins.get(name) ?? 0) + 1);
  }

  identity(user: string, session: string): UserIdentity {
    const scopes = ["receive", "send:user:*"];
    return { kind: "user", user: this.user(user), session: this.session(session), scopes, expiresAtMs: Number.MAX_SAFE_INTEGER };
  }

  /** @param name  `u`, `v` or `service` */
  sender(name: string): Identity {
    return name === "service" ? { kind: "service", name: this.#run } : this.identity(name, name === "u" ? "s1" : "s3");
  }

  /** What a sender's messages have as their source. */
  source(name: string): string {
    return name === "service" ? `/services/${this.#run}` : `/users/${this.user(name)}`;
  }
}
