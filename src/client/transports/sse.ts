/**
 * Server-sent events: one answer that does not end, with requests beside it for acknowledgements and sends. Read with `fetch`, not by an
 * EventSource: that one can carry no token, only a cookie, tells nothing of why it was refused, and is not in Node. @see PROTOCOL.md, "Receiving"
 * @module
 */
import { backoffMs, pause } from "../backoff.ts";
import { asHandoverError, ENDED, type HandoverError, lost, readProblem } from "../error.ts";
import { isRecord, parseText, secondsOf } from "../json.ts";
import { afterDrain, type Opening, opened, take, type Wire } from "../wire.ts";
import { BesideWire } from "./beside.ts";

/** A stream that ends sooner is one that something on the way ends. */
const EARLY_MS = 1_000;

/** Opens a stream; resolves when it is ready, and something sent beside it is answered. @see {@link Open} for errors */
export async function openEvents(opening: Opening): Promise<Wire> {
  // The token may take its time; the server may not.
  await opening.token.get();
  const wire = new EventsWire(opening);
  return opened(wire, new Promise<void>((resolve) => void wire.run(resolve)), opening);
}

class EventsWire extends BesideWire {
  readonly transport = "sse";
  #rest = "";
  #token = "";
  #isReady = false;
  /** What the server said of the stream's end. */
  #why: HandoverError | undefined;

  /** Reads, stream after stream: the server ends each after half a minute, to see who comes back. @param ready  called when mail goes down and requests up */
  async run(ready: () => void): Promise<void> {
    const { http, mail, receiver, timing, token } = this.opening;
    let startedMs: number;
    try {
      do {
        // It comes back as the server has it, within half a second.
        if (this.#isReady) await pause(backoffMs(1), this.signal);
        const { epoch, cursor, window } = mail.position();
        const query = new URLSearchParams({ receiver, window: `${window}`, ...(epoch !== undefined && { epoch, cursor: `${cursor}` }) });
        startedMs = performance.now();
        this.#rest = "";
        this.#token = await token.get();
        // A comment comes every 15 s at least.
        const options = { timeoutMs: timing.quietMs + timing.answerMs, signal: this.signal, read: (text: string) => this.#read(text, ready) };
        await http.request(`/v1/events?${query}`, options);
      } while (!this.#why && performance.now() - startedMs > EARLY_MS);
      this.over(this.#why ?? lost(ENDED));
    } catch (error) {
      this.over(this.#why ?? asHandoverError(error));
    }
  }

  /** The stream ends with its token, if not before: another one takes its place. */
  renew(token: string): boolean {
    return token === this.#token;
  }

  override check(): void {
    this.ack(this.opening.mail.position().epoch, {}).catch(() => {});
  }

  /** Takes what came; events end with an empty line, and one that was cut comes again. @see HTML standard, section 9.2.6 */
  #read(text: string, ready: () => void): void {
    const { mail } = this.opening;
    const events = (this.#rest + text).split("\n\n");
    this.#rest = events.pop() ?? "";
    for (const event of events) {
      if (this.signal.aborted) return;
      const field = (name: string) => new RegExp(`^${name}: ?(.*)$`, "m").exec(event)?.[1];
      const data = parseText(field("data"));
      if (!isRecord(data)) continue;
      const name = field("event") ?? "deliver";
      if (name === "problem") this.#why = readProblem(data);
      else if (name === "drain") this.#why = afterDrain(lost(ENDED), secondsOf(data.delay));
      else take(mail, name, name === "deliver" ? { deliveries: [data] } : data);
      if (name !== "ready" || this.#isReady) continue;
      this.#isReady = true;
      this.ack(mail.position().epoch, {}).then(ready, (error: HandoverError) => this.over(error));
    }
  }
}
