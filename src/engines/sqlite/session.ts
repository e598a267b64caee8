import type { Statements } from "./statement.ts";

/** Which sessions are known, and which have ended. */
export class SessionBook {
  readonly #run: Statements;

  constructor(run: Statements) {
    this.#run = run;
  }

  hasEnded(session: string, nowMs: number): boolean {
    return (this.#run.endedSession.get(session)?.until_ms ?? 0) > nowMs;
  }

  /** @returns whether that was news */
  admit(session: string, user: string, untilMs: number): boolean {
    if ((this.#run.session.get(session, user)?.until_ms ?? 0) >= untilMs) return false;
    this.#run.keepSession.run(session, user, untilMs);
    return true;
  }

  usersOf(session: string, nowMs: number, limit: number): readonly string[] {
    return this.#run.usersOfSession.all(session, nowMs, limit).map(({ user }) => user);
  }

  /**
   * It is remembered until `untilMs`, or as long as somebody is known to have had it.
   * @returns whose it was, and until when it is remembered
   */
  end(session: string, nowMs: number, untilMs: number): { readonly users: readonly string[]; readonly dueMs: number } {
    const known = this.#run.usersOfSession.all(session, nowMs, Number.MAX_SAFE_INTEGER);
    const before = this.#run.endedSession.get(session)?.until_ms ?? 0;
    const dueMs = known.reduce((last, { until_ms }) => Math.max(last, until_ms), Math.max(before, untilMs));
    this.#run.keepEnded.run(session, dueMs);
    return { users: known.map(({ user }) => user), dueMs };
  }
}
