import type { SessionId, UserId } from "../../protocol.ts";
import { type Due, DueQueue } from "./due.ts";

/** A user's session, or, without a user, the end of one; `dueMs`: until when it is known. */
interface Known extends Due {
  readonly session: SessionId;
  readonly user: UserId | undefined;
}

/** Which sessions are known, and which have ended. */
export class SessionBook {
  readonly #known = new Map<SessionId, Map<UserId, Known>>();
  readonly #ended = new Map<SessionId, Known>();
  readonly #due = new DueQueue<Known>();

  hasEnded(session: SessionId, nowMs: number): boolean {
    return (this.#ended.get(session)?.dueMs ?? 0) > nowMs;
  }

  admit(session: SessionId, user: UserId, untilMs: number): void {
    const users = this.#known.get(session) ?? new Map<UserId, Known>();
    const known = users.get(user) ?? { order: `${session} ${user}`, dueMs: undefined, session, user };
    if ((known.dueMs ?? 0) >= untilMs) return;
    this.#known.set(session, users.set(user, known));
    this.#due.set(known, untilMs);
  }

  usersOf(session: SessionId, nowMs: number): readonly UserId[] {
    const users = [...(this.#known.get(session) ?? [])].filter(([, { dueMs }]) => (dueMs ?? 0) > nowMs);
    return users.map(([user]) => user).sort();
  }

  /** It is remembered until `untilMs`, or as long as somebody is known to have had it. */
  end(session: SessionId, untilMs: number): void {
    const ended = this.#ended.get(session) ?? { order: session, dueMs: undefined, session, user: undefined };
    let lastMs = Math.max(untilMs, ended.dueMs ?? 0);
    for (const { dueMs } of this.#known.get(session)?.values() ?? []) lastMs = Math.max(lastMs, dueMs ?? 0);
    this.#ended.set(session, ended);
    this.#due.set(ended, lastMs);
  }

  /** Forgets what need not be known any more. */
  forget(nowMs: number): void {
    for (let known = this.#due.take(nowMs); known; known = this.#due.take(nowMs)) {
      const { session, user } = known;
      if (user === undefined) this.#ended.delete(session);
      else {
        const users = this.#known.get(session);
        users?.delete(user);
        if (users?.size === 0) this.#known.delete(session);
      }
    }
  }

  nextMs(): number | undefined {
    return this.#due.nextMs();
  }
}
