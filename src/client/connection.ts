/**
 * Keeps one wire to the server: which transport, when to try again, when to stop.
 *
 * - Transports are tried in order; one that does not get through gives way to the next, and is tried again now and then.
 * - While the server is away, polling asks for it: a browser holds back WebSockets to a server that was not there several times (Chromium up to 5 s
 *   each), and requests it does not. Once a poll is answered the WebSocket follows.
 * - What ended says what to do (PROTOCOL.md, "Errors"): 45xx and everything unknown, come back after a while; 44xx, stop until something changes.
 * @module
 */
import { backoffMs, pause } from "./backoff.ts";
import { asHandoverError, HandoverError } from "./error.ts";
import { type Http, isTokenRefused } from "./http.ts";
import type { Inbox } from "./inbox.ts";
import { Listeners, type Report } from "./listeners.ts";
import type { Outbox } from "./outbox.ts";
import { randomId } from "./random.ts";
import type { Token } from "./token.ts";
import { openPoll } from "./transports/poll.ts";
import { openWebSocket } from "./transports/websocket.ts";
import type { Open, Timing, Transport, Wire } from "./wire.ts";

const OPEN: Readonly<Record<Transport, Open>> = { websocket: openWebSocket, poll: openPoll };

/** How often another connection under our name is answered with a new name; then it is no accident. */
const MAX_RENAMES = 3;
/** So many attempts that nothing answers are made with every transport, and from then on one of so many. */
const FULL_ATTEMPTS = 3;
const FULL_ATTEMPT_EVERY = 16;
/** How long `close` waits for answers that are under way. */
const CLOSE_MS = 5_000;

/** How the connection is. `connecting`: trying; `offline`: waiting to try again; `closed`: for good. */
export interface Status {
  readonly state: "connecting" | "online" | "offline" | "closed";
  /** The one in use, while online. */
  readonly transport?: Transport;
  /** Why it is not online, or why it was not until now. */
  readonly error?: HandoverError;
}

export interface Parts {
  readonly base: string;
  readonly token: Token;
  readonly http: Http;
  readonly inbox: Inbox;
  readonly outbox: Outbox;
  readonly transports: readonly Transport[];
  readonly timing: Timing;
  readonly report: Report;
}

export class Connection {
  readonly changes: Listeners<Status>;
  readonly #parts: Parts;
  readonly #stop = new AbortController();
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

  constructor(parts: Parts) {
    this.#parts = parts;
    this.changes = new Listeners(parts.report);
    globalThis.addEventListener?.("online", this.#nudge);
    globalThis.addEventListener?.("pageshow", this.#nudge);
    globalThis.document?.addEventListener("visibilitychange", this.#nudge);
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
    const why = new HandoverError("closed", "This connection was closed.");
    inbox.close();
    const sends = outbox.close(why);
    // Handlers that have just resolved are still acknowledged.
    await pause(0);
    const answers = Promise.all([inbox.acks.settle(), sends]);
    const late = new AbortController();
    if (this.#wire) await Promise.race([answers, this.#wire.ended, pause(CLOSE_MS, late.signal)]);
    late.abort();
    this.#end(why, { state: "closed" });
  }

  async #run(): Promise<void> {
    for (;;) {
      const why = await this.#attempt();
      if (this.#stop.signal.aborted) return;
      const waitMs = this.#judge(why);
      if (waitMs === undefined) return this.#end(why, { state: "closed", error: why });
      this.#become({ state: "offline", error: why });
      this.#wake = new AbortController();
      await pause(waitMs, this.#wake.signal);
      if (this.#stop.signal.aborted) return;
      this.#become({ state: "connecting", error: why });
    }
  }

  /** Tries the transports in order, and stays with the first that gets through. @returns why it ended, or why none did */
  async #attempt(): Promise<HandoverError> {
    let why = new HandoverError("bad-request", "No transport is chosen; see the option `transports`.");
    const { transports, timing } = this.#parts;
    const absences = this.#absences++;
    const isFull = absences < FULL_ATTEMPTS || absences % FULL_ATTEMPT_EVERY === 0 || !transports.includes("poll");
    for (const transport of isFull ? transports : (["poll"] as const)) {
      try {
        const wire = await this.#open(transport, this.#receiver, this.#stop.signal);
        this.#absences = 0;
        return await this.#use(wire, isFull ? timing.probeMs : 0);
      } catch (error) {
        why = asHandoverError(error);
        // Only what does not get through may do so another way; an answer is an answer on every transport.
        if (why.code !== "connection-lost") this.#absences = 0;
        if (why.code !== "connection-lost" || this.#stop.signal.aborted) return why;
      }
    }
    return why;
  }

  #open(transport: Transport, receiver: string, signal: AbortSignal): Promise<Wire> {
    const { base, token, http, inbox, timing } = this.#parts;
    return OPEN[transport]({ base, token, http, mail: inbox, timing, receiver, signal });
  }

  /** Uses a wire, and better ones when they can be had, until the last has ended. @param probeMs  when to look for a better one */
  async #use(first: Wire, probeMs: number): Promise<HandoverError> {
    const { inbox, outbox } = this.#parts;
    this.#onlineSinceMs = performance.now();
    for (let wire = first; ; ) {
      this.#wire = wire;
      this.#become({ state: "online", transport: wire.transport });
      inbox.acks.use(wire);
      outbox.use(wire);
      const over = new AbortController();
      const next = await Promise.race([wire.ended, this.#better(wire, probeMs, over.signal)]);
      over.abort();
      wire.close();
      if (next instanceof HandoverError) {
        this.#wire = undefined;
        inbox.acks.use(undefined);
        outbox.use(undefined);
        return next;
      }
      wire = next;
    }
  }

  /** Looks now and then whether the first transport gets through by now. Resolves with its wire, or with the end of this one. */
  async #better(current: Wire, firstMs: number, over: AbortSignal): Promise<Wire | HandoverError> {
    const { timing, transports } = this.#parts;
    const [best] = transports;
    for (let waitMs = firstMs; best && best !== current.transport; waitMs = Math.min(waitMs * 2 || timing.probeMs, timing.probeMaxMs)) {
      await pause(waitMs, over);
      if (over.aborted) break;
      try {
        // Under a name of its own: a poll that is still on its way would end a WebSocket of the same name.
        const receiver = randomId();
        const wire = await this.#open(best, receiver, over);
        this.#receiver = receiver;
        if (!over.aborted) return wire;
        wire.close();
      } catch {
        // It still does not get through. Whatever else it is, the wire in use will be told too.
      }
    }
    return current.ended;
  }

  /** What an ending asks for. @returns ms until the next try; undefined: stop */
  #judge(why: HandoverError): number | undefined {
    const { timing, token } = this.#parts;
    if (this.#onlineSinceMs > 0 && performance.now() - this.#onlineSinceMs >= timing.stableMs) this.#failures = this.#refusals = this.#renames = 0;
    this.#onlineSinceMs = 0;
    if (isTokenRefused(why)) {
      token.forget();
      return this.#refusals++ === 0 ? 0 : undefined;
    }
    if (why.code === "replaced") {
      this.#receiver = randomId();
      return this.#renames++ < MAX_RENAMES ? backoffMs(this.#failures++) : undefined;
    }
    if (!why.retryable) return undefined;
    return backoffMs(this.#failures++) + (why.retryAfterMs ?? 0);
  }

  /** Something suggests that the network, or the page, is back. */
  readonly #nudge = (): void => {
    if (globalThis.document?.visibilityState === "hidden") return;
    this.#wire?.check();
    // Not when the server itself named the time.
    if (this.#status.error?.retryAfterMs === undefined) this.#wake.abort();
  };

  #end(why: HandoverError, status: Status): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#wake.abort();
    this.#wire?.close();
    globalThis.removeEventListener?.("online", this.#nudge);
    globalThis.removeEventListener?.("pageshow", this.#nudge);
    globalThis.document?.removeEventListener("visibilitychange", this.#nudge);
    this.#parts.inbox.close();
    this.#parts.outbox.abandon(why);
    this.#become(status);
  }

  #become(status: Status): void {
    if (this.#status.state === "closed") return;
    this.#status = status;
    this.changes.tell(status);
  }
}
