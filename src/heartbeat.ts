/**
 * Heartbeats of connections, in rounds. One timer looks after all: thousands with one each would wake the process for every single one, and hold a
 * timer's memory each. And a round touches only those that are due, at the times at which they came: a few thousand pings at once would hold up
 * everybody's mail meanwhile.
 * @module
 */

const ROUND_MS = 250;
/** How late a heartbeat may be, ms, beside what holds up the process itself: rounds are counted from no particular moment, and the timer has another. */
export const LATE_MS = 2 * ROUND_MS;

/** Those that are due, by the number of their round. */
const rounds = new Map<number, Set<Heartbeat>>();
let timer: NodeJS.Timeout | undefined;

export class Heartbeat {
  readonly #everyMs: number;
  readonly #beat: (nowMs: number) => void;
  /** When it is due next, by `performance.now()`. */
  #dueMs: number;
  #round = 0;
  #isGoing = true;

  /**
   * @param everyMs  how often it is due; it comes up to {@link LATE_MS} later
   * @param beat  does what is due, told the time by `performance.now()`; must not throw
   * @param firstInMs  in how long it is due first
   */
  constructor(everyMs: number, beat: (nowMs: number) => void, firstInMs = everyMs) {
    this.#everyMs = everyMs;
    this.#beat = beat;
    this.#dueMs = performance.now() + firstInMs;
    this.#enter(this.#dueMs);
  }

  /** The connection is over; safe to call more than once. */
  stop(): void {
    this.#isGoing = false;
    const round = rounds.get(this.#round);
    if (round?.delete(this) && round.size === 0) rounds.delete(this.#round);
    restIfIdle();
  }

  /** Its round has come. */
  go(nowMs: number): void {
    if (!this.#isGoing) return;
    // Counted from when it was due, not from when it was done: so it keeps its time, and those that were held up together do not stay together.
    this.#dueMs += this.#everyMs * Math.max(1, Math.ceil((nowMs - this.#dueMs) / this.#everyMs));
    this.#beat(nowMs);
    // It may have ended by what was due.
    if (this.#isGoing) this.#enter(Math.max(this.#dueMs, nowMs + ROUND_MS));
  }

  #enter(atMs: number): void {
    this.#round = Math.ceil(atMs / ROUND_MS);
    const round = rounds.get(this.#round);
    if (round) round.add(this);
    else rounds.set(this.#round, new Set([this]));
    timer ??= setInterval(goRound, ROUND_MS).unref();
  }
}

function goRound(): void {
  const nowMs = performance.now();
  const last = Math.floor(nowMs / ROUND_MS);
  // What enters meanwhile enters a later round.
  for (const [number, heartbeats] of rounds) {
    if (number > last) continue;
    rounds.delete(number);
    for (const heartbeat of heartbeats) heartbeat.go(nowMs);
  }
  restIfIdle();
}

function restIfIdle(): void {
  if (rounds.size > 0) return;
  clearInterval(timer);
  timer = undefined;
}
