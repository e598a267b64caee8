/**
 * How much memory V8 takes for what has just been made. By itself it makes that space (the "young generation") 64 MiB large as soon as many things live
 * longer than a moment, and a few thousand connections that are opened and then idle do: each would cost half as much again. Many messages a second
 * are another matter: with more space they are collected more cheaply.
 * @see V8, `--semi-space-growth-factor`: how much larger the space becomes when most of it survived; 1 leaves it as it is
 * @module
 */
import { setFlagsFromString } from "node:v8";

/** From so many messages a second on, memory is spent for speed; and when there were fewer for so long, no more. */
const BUSY_PER_SECOND = 500;
const LOOK_MS = 1_000;
const QUIET_LOOKS = 60;

/**
 * Lets the young generation grow only while there is much to do.
 * @param countMessages  how many there were since the start
 * @returns ends it
 */
export function growWithLoad(countMessages: () => number): () => void {
  let before = countMessages();
  let quietLooks = QUIET_LOOKS;
  setGrowth(1);
  const timer = setInterval(() => {
    const now = countMessages();
    const isBusy = now - before > (BUSY_PER_SECOND * LOOK_MS) / 1_000;
    before = now;
    if (isBusy && quietLooks >= QUIET_LOOKS) setGrowth(2);
    quietLooks = isBusy ? 0 : quietLooks + 1;
    if (quietLooks === QUIET_LOOKS) setGrowth(1);
  }, LOOK_MS);
  timer.unref();
  return () => clearInterval(timer);
}

function setGrowth(factor: 1 | 2): void {
  setFlagsFromString(`--semi-space-growth-factor=${factor}`);
}
