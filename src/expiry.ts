import { leftMsOf, type UserIdentity } from "./protocol.ts";

/** The longest timer that Node has. */
const MAX_TIMER_MS = 2_147_483_647;

/**
 * Waits until what a token allows ends, by the clock that nobody sets, and not a moment before, as a timer can.
 * @param ended  called once, unless the wait is ended before
 * @returns ends the wait; safe to call more than once
 */
export function whenExpired(identity: UserIdentity, ended: () => void): () => void {
  let timer: NodeJS.Timeout;
  const wait = () => {
    const look = () => (leftMsOf(identity) > 0 ? wait() : ended());
    timer = setTimeout(look, Math.min(Math.max(Math.ceil(leftMsOf(identity)), 0), MAX_TIMER_MS)).unref();
  };
  wait();
  return () => clearTimeout(timer);
}
