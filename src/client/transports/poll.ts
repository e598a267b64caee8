/**
 * Long polling: one request held by the server at a time, others beside it for acknowledgements and sends. @see PROTOCOL.md, "Receiving"
 * @module
 */
import type { AckForms } from "../../protocol.ts";
import { backoffMs, pause } from "../backoff.ts";
import { defer } from "../deferred.ts";
import { asHandoverError, type HandoverError, lost } from "../error.ts";
import { isRecord, listOf } from "../json.ts";
import { readSent, type Sent } from "../message.ts";
import type { Opening, Wire } from "../wire.ts";

const MAX_DELIVERIES = 100;
/** An empty answer that comes sooner than this was not a held poll; asking again at once would be a busy loop. */
const EARLY_MS = 1_000;

/** Starts long polling; resolves when the first poll, which does not wait, is answered. @see {@link Open} for errors */
export async function openPoll(opening: Opening): Promise<Wire> {
  const wire = new PollWire(opening);
  const giveUp = () => wire.close();
  opening.signal.addEventListener("abort", giveUp);
  if (opening.signal.aborted) giveUp();
  try {
    await wire.poll(0);
  } catch (error) {
    wire.close();
    throw error;
  } finally {
    opening.signal.removeEventListener("abort", giveUp);
  }
  void wire.run();
  return wire;
}

class PollWire implements Wire {
  readonly transport = "poll";
  /** What becomes ready while one is under way shares the next. */
  readonly maxAcks = 1;
  readonly ended: Promise<HandoverError>;
  readonly #opening: Opening;
  readonly #end = defer<HandoverError>();
  readonly #stop = new AbortController();
  /** Sends go one after another, so that they are accepted in the order in which they were made, as on the other wires. */
  #lastSend: Promise<unknown> = Promise.resolve();

  constructor(opening: Opening) {
    this.#opening = opening;
    this.ended = this.#end.promise;
  }

  async ack(epoch: string, forms: AckForms): Promise<void> {
    const { mail, receiver } = this.#opening;
    const { cursor } = mail.position();
    await this.#post("/v1/ack", JSON.stringify({ receiver, epoch, cursor, ...forms }), true);
  }

  send(text: string): Promise<Sent> {
    const sending = this.#lastSend.then(async () => {
      // The connection changed while this one waited its turn: the new wire sends it.
      if (this.#stop.signal.aborted) throw lost("Long polling has ended.");
      const sent = readSent(await this.#post("/v1/messages", text));
      if (!sent) throw lost("The answer to a send could not be understood.");
      return sent;
    });
    this.#lastSend = sending.catch(() => {});
    return sending;
  }

  /** The held poll has its own watch. */
  check(): void {}

  /** Ends the held poll. Requests with acknowledgements or sends that are under way end by themselves. */
  close(): void {
    this.#over(lost("Long polling was ended by this side."));
  }

  async run(): Promise<void> {
    const { mail, timing } = this.#opening;
    try {
      while (!this.#stop.signal.aborted) {
        // With the window full of handlers at work nothing more is taken; so it is on the other wires.
        const room = await mail.room();
        const startedMs = performance.now();
        const hadMail = await this.poll(timing.pollWaitMs, room);
        const early = !hadMail && performance.now() - startedMs < Math.min(EARLY_MS, timing.pollWaitMs / 2);
        if (early) await pause(EARLY_MS / 2 + backoffMs(1), this.#stop.signal);
      }
    } catch (error) {
      this.#over(asHandoverError(error));
    }
  }

  /**
   * Asks once for what comes after the cursor.
   * @returns whether there was an answer with content
   * @throws HandoverError the server's problem, or connection-lost
   */
  async poll(waitMs: number, room = MAX_DELIVERIES): Promise<boolean> {
    const { http, mail, receiver, timing } = this.#opening;
    const { epoch, cursor, window } = mail.position();
    const body = JSON.stringify({ receiver, epoch, cursor, max: Math.min(room, window, MAX_DELIVERIES), wait: waitMs / 1000 });
    const answer = await http.request("/v1/poll", { body, timeoutMs: waitMs + timing.answerMs, signal: this.#stop.signal });
    if (this.#stop.signal.aborted) throw lost("Long polling was ended while an answer came in; it comes again.");
    if (answer === undefined) return false;
    if (!isRecord(answer) || typeof answer.epoch !== "string" || typeof answer.head !== "number")
      throw lost("The answer to a poll could not be understood.");
    mail.begin(answer.epoch, answer.head);
    mail.deliver(answer.deliveries);
    for (const gap of listOf(answer.gaps)) if (isRecord(gap)) mail.advance(gap.to);
    mail.settled(answer.settled);
    mail.advance(answer.cursor);
    return true;
  }

  #post(path: string, body: string, keepalive = false): Promise<unknown> {
    return this.#opening.http.request(path, { body, timeoutMs: this.#opening.timing.answerMs, renews: true, keepalive });
  }

  #over(why: HandoverError): void {
    this.#stop.abort();
    this.#end.resolve(why);
  }
}
