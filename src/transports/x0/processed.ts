/**
 * What an unchanged x0 page can say about what it has processed. It never acknowledges; it only polls again, after it has handled the
 * whole answer. So its next poll is the acknowledgement of the previous answer, if it can be told from the first poll of a reloaded
 * page, which looks the same.
 *
 * With a session value per page load there is nothing to tell apart: a reloaded page comes with another value ({@link nextOfPageLoad}).
 *
 * With a fixed value {@link nextOfSession} is a rule of thumb. Seen with x0's own front-end (X0.md, sections 3 and 6): the preflight of a next
 * poll came 6 to 16 ms after the answer (-11 to 34 ms through a recorder), that of a reloaded page's first poll from 32 ms on. "Any next poll
 * acknowledges" lost 15 of 120 messages sent around a reload; this rule lost none and showed some twice. It errs to showing twice:
 *
 * - The answer was written to its end, and its connection is as it was: what was cut has not been processed.
 * - The preflight of the poll (not the poll itself, which comes a round trip later) came after it. A poll that was on its way before is another
 *   tab's, or the same request repeated by the browser.
 * - It came on a connection that has carried an answer of this session: a new browser, or one that lost its connections, is another page.
 * - It came soon: a page that loads needs longer than one that goes on. How soon is learnt, because far networks and slow pages are later.
 * - Late three times running counts as processed: a slow page, or one behind a proxy that opens a connection per request, must get past it.
 *
 * Where it is wrong: a reload that is as quick as the page's own next poll loses the message that the old page was handed in that moment. A proxy
 * that answers preflights itself, or shares connections between browsers, takes away what the rule looks at. docs/x0.md says so to operators.
 * @module
 */

/** A next poll is never expected sooner than this, nor later than that; and how many late ones count as processed. */
const LEAST_MS = 30;
const MOST_MS = 500;
export const MOST_LATE = 3;
/** How many gaps are remembered. */
const GAPS = 9;

/** One TCP connection, as far as the rule looks at it. */
export interface Connection {
  /** It has not been closed by either side. */
  isOpen: boolean;
  /** It ended with an error (a reset), not in order. */
  wasReset: boolean;
  /** The sessions whose answers it has carried to their end. */
  readonly carried: WeakSet<object>;
}

/** An answer to a poll. */
export interface Answer {
  /** What the client named the request, if it did (`a__`). */
  readonly request: string | undefined;
  readonly connection: Connection;
  /** When its last byte was handed to the system, ms; undefined as long as it was not. */
  writtenAtMs: number | undefined;
}

/** How a poll began: with its preflight, or, where there was none (same origin, not a browser), with itself. */
export interface Opening {
  readonly request: string | undefined;
  readonly atMs: number;
  readonly connection: Connection;
}

/** `next`: the page has processed the answer. `late`: perhaps, but not by the rule. `other`: this poll says nothing about this answer. */
export type Verdict = "next" | "late" | "other";

/** The gaps between answers and next polls of one session, and what follows from them. */
export class Gaps {
  readonly #last: number[] = [];

  add(gapMs: number): void {
    if (gapMs > MOST_MS) return;
    this.#last.push(gapMs);
    if (this.#last.length > GAPS) this.#last.shift();
  }

  /** How long after an answer a poll still counts as the next one, ms. */
  get limitMs(): number {
    const sorted = [...this.#last].sort((one, other) => one - other);
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
    return Math.min(MOST_MS, Math.max(LEAST_MS, 3 * median));
  }
}

/** Whether a poll is the next one after `answer`, where every page load has a session value of its own. */
export function nextOfPageLoad(answer: Answer, poll: Opening): Verdict {
  return answer.writtenAtMs !== undefined && !isRepeat(answer, poll) ? "next" : "other";
}

/** Whether a poll is the next one after `answer`, where several pages may have the same value. @param session  what {@link Connection.carried} holds */
export function nextOfSession(answer: Answer, poll: Opening, session: object, limitMs: number): Verdict {
  if (answer.writtenAtMs === undefined || answer.connection.wasReset || isRepeat(answer, poll) || poll.atMs < answer.writtenAtMs) return "other";
  const isSoon = poll.atMs - answer.writtenAtMs <= limitMs;
  return isSoon && answer.connection.isOpen && poll.connection.carried.has(session) ? "next" : "late";
}

/** Chromium sends a POST again by itself, same name, when the connection closed before the answer was there. */
function isRepeat(answer: Answer, poll: Opening): boolean {
  return poll.request !== undefined && poll.request === answer.request;
}
