/**
 * Long polling: one request held by the server at a time, others beside it for acknowledgements and sends. @see PROTOCOL.md, "Receiving"
 * @module
 */
import { backoffMs, pause } from "../backoff.ts";
import { asHandoverError, ENDED, garbled, lost } from "../error.ts";
import { isRecord, listOf } from "../json.ts";
import { type Opening, opened, type Wire } from "../wire.ts";
import { BesideWire } from "./beside.ts";

const MAX_DELIVERIES = 100;
/** An empty answer that comes sooner than this was not a held poll; asking again at once would be a busy loop. */
const EARLY_MS = 1_000;

/** Starts long polling; resolves when the first poll, which does not wait, is answered. @see {@link Open} for errors */
export async function openPoll(opening: Opening): Promise<Wire> {
  const wire = new PollWire(opening);
  // The last resort is not given up sooner than any other request.
  await opened(wire, wire.poll(0), opening, opening.timing.answerMs * 2);
  void wire.run();
  return wire;
}

class PollWire extends BesideWire {
  readonly transport = "poll";

  async run(): Promise<void> {
    const { mail, timing } = this.opening;
    try {
      while (!this.signal.aborted) {
        // With the window full of handlers at work nothing more is taken; so it is on the other wires.
        const room = await mail.room();
        const startedMs = performance.now();
        const hadMail = await this.poll(timing.pollWaitMs, room);
        const early = !hadMail && performance.now() - startedMs < Math.min(EARLY_MS, timing.pollWaitMs / 2);
        if (early) await pause(EARLY_MS / 2 + backoffMs(1), this.signal);
      }
    } catch (error) {
      this.over(asHandoverError(error));
    }
  }

  /** Every request carries the token of its time. */
  renew(): boolean {
    return true;
  }

  /**
   * Asks once for what comes after the cursor.
   * @returns whether there was an answer with content
   * @throws HandoverError the server's problem, or connection-lost
   */
  async poll(waitMs: number, room = MAX_DELIVERIES): Promise<boolean> {
    const { http, mail, receiver, timing } = this.opening;
    const { epoch, cursor, window } = mail.position();
    const body = JSON.stringify({ receiver, epoch, cursor, max: Math.min(room, window, MAX_DELIVERIES), wait: waitMs / 1000 });
    const answer = await http.request("/v1/poll", { body, timeoutMs: waitMs + timing.answerMs, signal: this.signal });
    if (this.signal.aborted) throw lost(ENDED);
    if (answer === undefined) return false;
    if (!isRecord(answer) || typeof answer.epoch !== "string" || typeof answer.head !== "number") throw garbled("poll");
    mail.begin(answer.epoch, answer.head);
    mail.deliver(answer.deliveries);
    for (const gap of listOf(answer.gaps)) if (isRecord(gap)) mail.advance(gap.to);
    mail.settled(answer.settled);
    mail.advance(answer.cursor);
    return true;
  }
}
