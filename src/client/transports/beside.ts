/**
 * What long polling and server-sent events share: acknowledgements and sends go beside the receiving, each as a request of its own.
 * @see PROTOCOL.md, "Receiving"
 * @module
 */
import type { AckForms } from "../../protocol.ts";
import { defer } from "../deferred.ts";
import { asHandoverError, ENDED, type HandoverError, lost, SILENCE } from "../error.ts";
import { readSent, type Sent } from "../message.ts";
import type { Opening, Transport, Wire } from "../wire.ts";

/** After so many requests in a row that were lost, none gets through: another transport may. */
const MAX_LOST = 4;

export abstract class BesideWire implements Wire {
  abstract readonly transport: Transport;
  /** What becomes ready while one is under way shares the next. */
  readonly maxAcks = 1;
  readonly ended: Promise<HandoverError>;
  protected readonly opening: Opening;
  readonly #end = defer<HandoverError>();
  readonly #stop = new AbortController();
  #lost = 0;
  /** Sends go one after another, so that they are accepted in the order in which they were made, as on a WebSocket. */
  #lastSend: Promise<unknown> = Promise.resolve();

  constructor(opening: Opening) {
    this.opening = opening;
    this.ended = this.#end.promise;
  }

  /** Aborted when the wire is over. Requests with acknowledgements or sends that are under way end by themselves. */
  protected get signal(): AbortSignal {
    return this.#stop.signal;
  }

  async ack(epoch: string | undefined, forms: AckForms): Promise<void> {
    const { mail, receiver } = this.opening;
    const { cursor } = mail.position();
    await this.#post("/v1/ack", JSON.stringify({ receiver, epoch, cursor, ...forms }));
  }

  send(text: string): Promise<Sent> {
    const sending = this.#lastSend.then(async () => {
      // The connection changed while this one waited its turn: the new wire sends it.
      if (this.signal.aborted) throw lost(ENDED);
      return readSent(await this.#post("/v1/messages", text));
    });
    this.#lastSend = sending.catch(() => {});
    return sending;
  }

  /** Receiving has a watch of its own. */
  check(): void {}

  abstract renew(token: string): boolean;

  close(): void {
    this.over(lost(ENDED));
  }

  protected over(why: HandoverError): void {
    this.#stop.abort();
    this.#end.resolve(why);
  }

  /** Something on the way may swallow requests while it lets mail through; so one without an answer ends the wire. */
  async #post(path: string, body: string): Promise<unknown> {
    const { http, timing } = this.opening;
    try {
      const answer = await http.request(path, { body, timeoutMs: timing.answerMs, renews: true });
      this.#lost = 0;
      return answer;
    } catch (thrown) {
      const error = asHandoverError(thrown);
      if (error.code !== "connection-lost") this.#lost = 0;
      else if (error.cause === SILENCE || ++this.#lost >= MAX_LOST) this.over(error);
      throw error;
    }
  }
}
