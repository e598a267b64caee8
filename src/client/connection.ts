/**
 * Keeps one wire to the server: which transport, when to try again, when to stop.
 *
 * - Transports are tried in order; one that does not get through gives way to the next, and is tried again now and then. One in which something
 *   on the way swallows what is said (it opens, or held, and then nothing comes) is tried last from then on, in this tab's later pages too.
 * - Before the token ends the wire goes on with a new one, or another wire takes its place before it is closed.
 * - While the server is away, polling asks for it: a browser holds back WebSockets to a server that was not there several times (Chromium up to 5 s
 *   each), and requests it does not. Once a poll is answered the WebSocket follows.
 * - What ended says what to do (PROTOCOL.md, "Errors"): 45xx and everything unknown, come back after a while; 44xx, stop until something changes.
 * @module
 */
import { Acks } from "./acks.ts";
import { backoffMs, pause, within } from "./backoff.ts";
import { asHandoverError, ENDED, HandoverError, OTHER_USER, SILENCE } from "./error.ts";
import { isTokenRefused } from "./http.ts";
import { Listeners } from "./listeners.ts";
import { loadPage } from "./load.ts";
import { Mute } from "./mute.ts";
import type { Page } from "./page.ts";
import type { Line, Parts } from "./parts.ts";
import { randomId } from "./random.ts";
import { openPoll } from "./transports/poll.ts";
import { openEvents } from "./transports/sse.ts";
import { openWebSocket } from "./transports/websocket.ts";
import type { Open, Status, Transport, Wire } from "./wire.ts";

/** In the order in which they are tried. */
const OPEN: Readonly<Record<Transport, Open>> = { websocket: openWebSocket, sse: openEvents, poll: openPoll };

export const TRANSPORTS = Object.keys(OPEN) as readonly Transport[];
/** How often another connection under our name is answered with a new name; then it is no accident. */
const MAX_RENAMES = 3;
/** So many attempts that nothing answers are made with every transport, and from then on one of so many. */
const FULL_ATTEMPTS = 3;
const FULL_ATTEMPT_EVERY = 16;
/** A transport that falls silent so often in a row is held for one that something on the way swallows, and not for a network that was away. */
const MAX_SILENCES = 2;
/** How long `close` waits for answers that are under way. */
const CLOSE_MS = 5_000;

export class Connection implements Line {
  readonly changes: Listeners<Status>;
  readonly #parts: Parts;
  readonly #stop = new AbortController();
  readonly mute = new Mute();
  /** What a browser page has beyond this. */
  #page: Page | undefined;
  /** Why it has nothing beyond this; empty: the developer was told. */
  #alone: string | undefined;
  /** Ends attempts for a user who is another by now. */
  #era = new AbortController();
  #status: Status = { state: "connecting" };
  #wire: Wire | undefined;
  #wake = new AbortController();
  #closing: Promise<void> | undefined;
  /** Our name as a reader of the mailbox. Never kept beyond this object: a duplicated tab must not share it. */
  #receiver = randomId();
  /** Since something last worked for a while. */
  #failures = 0;
  /** Attempts in a row that nothing answered. */
  #absences = 0;
  #refusals = 0;
  #renames = 0;
  #onlineSinceMs = 0;
  #silences = 0;
  /** Until a better transport is tried the next time. */
  #probeMs: number;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#probeMs = parts.timing.probeMs;
    this.changes = new Listeners(parts.report);
    void this.#run();
  }

  get status(): Status {
    return this.#status;
  }

  /** Takes nothing more, waits at most 5 s for answers that are under way, and ends. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { inbox, outbox } = this.#parts;
    const why = new HandoverError("closed", ENDED);
    inbox.close();
    const sends = outbox.close(why);
    // Handlers that have just resolved are still acknowledged.
    await pause(0);
    const answers = Promise.all([inbox.acks.settle().then(() => this.#page?.acks.settle()), sends]);
    await within<unknown>(CLOSE_MS, answers, this.#wire?.ended ?? answers);
    this.#end(why, { state: "closed" });
  }

  async #run(): Promise<void> {
    for (;;) {
      const why = await this.#attempt();
      if (this.#stop.signal.aborted) return;
      if (this.#page?.isElsewhere) continue;
      const waitMs = this.#judge(why);
      if (waitMs === undefined) return this.#end(why, { state: "closed", error: why });
      this.become({ state: "offline", error: why });
      this.#wake = new AbortController();
      await pause(waitMs, this.#wake.signal);
      if (this.#stop.signal.aborted) return;
      if (!this.#page?.isElsewhere) this.become({ state: "connecting", error: why });
    }
  }

  /** Tries the transports in order, and stays with the first that gets through. @returns why it ended, or why none did */
  async #attempt(): Promise<HandoverError> {
    let why = new HandoverError("bad-request", "No transports.");
    const { transports } = this.#parts;
    const refusal = await this.#enter().catch(asHandoverError);
    if (refusal) return refusal;
    const { signal } = this.#era;
    const silent: Transport[] = [];
    const absences = this.#absences++;
    const isFull = absences < FULL_ATTEMPTS || absences % FULL_ATTEMPT_EVERY === 0 || !transports.includes("poll");
    for (const transport of isFull ? this.mute.last(transports) : (["poll"] as const)) {
      try {
        const wire = await this.#open(transport, this.#receiver, signal);
        this.#absences = 0;
        // Another one got through: it was not the network.
        for (const each of silent) this.mute.set(each, true);
        return await this.#use(wire, !isFull);
      } catch (error) {
        why = asHandoverError(error);
        // Only what does not get through may do so another way; an answer is an answer on every transport.
        if (why.code !== "connection-lost") this.#absences = 0;
        if (why.code !== "connection-lost" || signal.aborted) return why;
        if (why.cause === SILENCE) silent.push(transport);
      }
    }
    return why;
  }

  /** In a page: waits until it has its own part of the SDK, and until it is its turn to have the connection. */
  async #enter(): Promise<void> {
    if (!globalThis.document) return;
    const parts = this.#parts;
    const token = await parts.token.get();
    // One that cannot be loaded now is asked for again at the next attempt; until then this page is alone.
    this.#page ??= await loadPage(parts.base).then(
      ({ Page }) => new Page(this, parts, new Acks(parts.report), HandoverError),
      (error) => {
        this.#alone ??= `This tab is alone and keeps nothing: ${error}`;
        return undefined;
      },
    );
    await this.#page?.enter(token);
  }

  #open(transport: Transport, receiver: string, signal: AbortSignal): Promise<Wire> {
    const { base, token, http, inbox, timing } = this.#parts;
    return OPEN[transport]({ base, token, http, mail: this.#page?.intake ?? inbox, timing, receiver, signal });
  }

  /** Uses a wire, and others in its place, until the last has ended. @param isHasty  whether to look for a better one at once */
  async #use(first: Wire, isHasty: boolean): Promise<HandoverError> {
    const { inbox, outbox, warn } = this.#parts;
    this.#onlineSinceMs = performance.now();
    // Not while the server is away, when it is no news.
    if (this.#alone) {
      warn(this.#alone);
      this.#alone = "";
    }
    for (let wire = first; ; ) {
      this.#wire = wire;
      if (this.#status.transport !== wire.transport) this.become({ state: "online", transport: wire.transport });
      (this.#page ?? inbox.acks).use(wire, this.#receiver);
      outbox.use(wire);
      const over = new AbortController();
      const next = await Promise.race([wire.ended, this.#better(wire, isHasty, over.signal), this.#renewed(wire, over.signal)]);
      over.abort();
      wire.close();
      if (next instanceof HandoverError) {
        this.#wire = undefined;
        (this.#page ?? inbox.acks).use(undefined, "");
        outbox.use(undefined);
        this.#silences = next.cause === SILENCE ? this.#silences + 1 : 0;
        if (this.#silences >= MAX_SILENCES) this.mute.set(wire.transport, true);
        return next;
      }
      wire = next;
    }
  }

  /** Looks now and then whether a transport before this one gets through by now. Resolves with its wire, or with the end of this one. */
  async #better(current: Wire, isHasty: boolean, over: AbortSignal): Promise<Wire | HandoverError> {
    const { timing, transports } = this.#parts;
    const better = transports.slice(0, transports.indexOf(current.transport));
    for (let waitMs = isHasty ? 0 : this.#probeMs; better.length > 0; waitMs = this.#probeMs) {
      await pause(waitMs, over);
      for (const transport of better) {
        const wire = await this.#another(transport, over);
        if (!wire) continue;
        this.mute.set(transport, false);
        return wire;
      }
      if (over.aborted) break;
      // Kept beyond this wire: a better one that falls silent again and again is tried less and less.
      if (waitMs > 0) this.#probeMs = Math.min(waitMs * 2, timing.probeMaxMs);
    }
    return current.ended;
  }

  /** Has a wire go on with a new token before the old one ends. Resolves with the wire that takes its place, or with the end of this one. */
  async #renewed(current: Wire, over: AbortSignal): Promise<Wire | HandoverError> {
    const { token } = this.#parts;
    for (let failures = 0; ; failures++) {
      // A timer may ring a moment too soon.
      await pause(failures > 0 ? backoffMs(failures) : token.restMs + 1, over);
      if (over.aborted) return current.ended;
      try {
        if (current.renew(await token.get())) {
          // One that is about to end already is not asked for again and again.
          if (token.restMs > 0) failures = -1;
        } else {
          const wire = await this.#another(current.transport, over);
          if (wire) return wire;
        }
      } catch {
        // The application gave no token: it is asked again, and the old one is good still.
      }
    }
  }

  /** Opens a wire to take the place of the one in use; undefined: it did not get through. */
  async #another(transport: Transport, over: AbortSignal): Promise<Wire | undefined> {
    if (over.aborted) return undefined;
    try {
      // Under a name of its own: a poll that is still on its way would end a WebSocket of the same name.
      const receiver = randomId();
      const wire = await this.#open(transport, receiver, over);
      this.#receiver = receiver;
      if (!over.aborted) return wire;
      wire.close();
    } catch {
      // Whatever it is, the wire in use will be told too.
    }
    return undefined;
  }

  /** The page's user is another one: nothing of the last one's is kept, said or taken for the next. */
  changeUser(): void {
    const { inbox, outbox } = this.#parts;
    inbox.forget();
    outbox.reject(new HandoverError("user-changed", OTHER_USER));
    this.over();
  }

  /** What goes on is over: the user is another one, or it is another tab's turn. */
  over(): void {
    this.#era.abort();
    this.#era = new AbortController();
    this.#wire?.close();
    this.#wake.abort();
  }

  /** What an ending asks for. @returns ms until the next try; undefined: stop */
  #judge(why: HandoverError): number | undefined {
    const { timing } = this.#parts;
    if (this.#onlineSinceMs > 0 && performance.now() - this.#onlineSinceMs >= timing.stableMs) this.#failures = this.#refusals = this.#renames = 0;
    this.#onlineSinceMs = 0;
    if (isTokenRefused(why)) return this.#refusals++ === 0 ? 0 : undefined;
    if (why.code === "replaced") {
      this.#receiver = randomId();
      return this.#renames++ < MAX_RENAMES ? backoffMs(this.#failures++) : undefined;
    }
    if (!why.retryable) return undefined;
    return backoffMs(this.#failures++) + (why.retryAfterMs ?? 0);
  }

  /** Something suggests that the network, or the page, is back. */
  nudge(): void {
    this.#probeMs = this.#parts.timing.probeMs;
    this.#wire?.check();
    // Not when the server itself named the time.
    if (this.#status.error?.retryAfterMs === undefined) this.#wake.abort();
  }

  #end(why: HandoverError, status: Status): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#era.abort();
    this.#wake.abort();
    this.#wire?.close();
    this.#parts.inbox.close();
    this.#parts.outbox.abandon(why);
    this.become(status);
  }

  /** How the connection is: this page's, or that of the tab which has it. */
  become(status: Status): void {
    if (this.#status.state === "closed") return;
    this.#status = status;
    this.changes.tell(status);
    this.#page?.tell(status, this.#wire);
  }
}
