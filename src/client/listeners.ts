/**
 * Who wants to be told.
 * @module
 */

/** Called with what the application's own code threw, and the message it was given, if any. */
export type Report = (error: unknown, message?: unknown) => void;

/** Listeners of one kind of event. One that throws, or whose promise rejects, is reported and stops nothing. */
export class Listeners<T> {
  readonly #listeners = new Set<{ readonly tell: (event: T) => unknown }>();
  readonly #report: Report;

  constructor(report: Report) {
    this.#report = report;
  }

  /** @returns a function that takes the listener away again */
  add(tell: (event: T) => unknown): () => void {
    const entry = { tell };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  tell(event: T): void {
    // The async wrapper turns a throw into a rejection; the listener itself runs at once.
    for (const { tell } of [...this.#listeners]) (async () => tell(event))().catch((error: unknown) => this.#report(error));
  }
}
