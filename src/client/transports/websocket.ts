/**
 * WebSocket: everything on one connection. @see PROTOCOL.md, "Receiving"
 * @module
 */
import type { AckForms } from "../../protocol.ts";
import { type Deferred, defer } from "../deferred.ts";
import { asHandoverError, HandoverError, lost, readClose, readProblem } from "../error.ts";
import { isRecord, isSeq, listOf, parseText } from "../json.ts";
import { readSent, type Sent } from "../message.ts";
import type { Opening, Wire } from "../wire.ts";

const SUBPROTOCOL = "handover.v1.json";
const MAX_FRAME_BYTES = 1_048_576;
const MAX_MESSAGES = 100;
/** Room for the frame around the messages, and for a ref and a comma each. */
const FRAME_SPARE_BYTES = 64;
const MESSAGE_SPARE_BYTES = 32;

/** Opens a WebSocket and says hello; resolves at `ready`. @see {@link Open} for errors */
export async function openWebSocket(opening: Opening): Promise<Wire> {
  const token = await opening.token.get();
  const ready = defer<Wire>();
  const wire = new WebSocketWire(opening, token, ready);
  const giveUp = () => wire.close();
  const timer = setTimeout(giveUp, opening.timing.openMs);
  opening.signal.addEventListener("abort", giveUp);
  if (opening.signal.aborted) giveUp();
  try {
    return await ready.promise;
  } finally {
    clearTimeout(timer);
    opening.signal.removeEventListener("abort", giveUp);
  }
}

class WebSocketWire implements Wire {
  readonly transport = "websocket";
  readonly maxAcks = 1_000;
  readonly ended: Promise<HandoverError>;
  readonly #opening: Opening;
  readonly #socket: WebSocket;
  readonly #ready: Deferred<Wire>;
  readonly #end = defer<HandoverError>();
  /** Who waits for the answer to which ref. */
  readonly #answers = new Map<number, Deferred<unknown>>();
  /** Messages of this turn, to share a frame. */
  #outgoing: { readonly text: string; readonly bytes: number }[] = [];
  #lastRef = 0;
  #epoch: string | undefined;
  #problem: HandoverError | undefined;
  #drainMs: number | undefined;
  #watch: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  constructor(opening: Opening, token: string, ready: Deferred<Wire>) {
    this.#opening = opening;
    this.#ready = ready;
    this.ended = this.#end.promise;
    this.#socket = new WebSocket(`${opening.base.replace(/^http/, "ws")}/v1/ws`, SUBPROTOCOL);
    this.#socket.onopen = () => {
      if (this.#isOver) return;
      this.#write({ op: "hello", token, receiver: opening.receiver, ...opening.mail.position() });
    };
    this.#socket.onmessage = (event) => this.#receive(event.data);
    this.#socket.onclose = (event) => {
      const why = readClose(event.code, event.reason, this.#problem);
      // Told to leave: everybody was, so come back spread over the time that the server named.
      if (this.#drainMs === undefined || !why.retryable) this.#over(why);
      else this.#over(new HandoverError(why.code, why.detail, { status: 503, retryable: true, retryAfterMs: Math.random() * this.#drainMs }));
    };
    // Browsers tell nothing here; `close` follows.
    this.#socket.onerror = () => {};
  }

  async ack(epoch: string | null, forms: AckForms): Promise<void> {
    const ref = ++this.#lastRef;
    const answer = this.#expect(ref);
    this.#write({ op: "ack", ref, epoch, ...forms });
    await answer;
  }

  async send(text: string): Promise<Sent> {
    const bytes = new TextEncoder().encode(text).length + MESSAGE_SPARE_BYTES;
    if (bytes + FRAME_SPARE_BYTES > MAX_FRAME_BYTES)
      throw new HandoverError("too-large", "A message of more than 1 MiB cannot be sent.", { status: 413 });
    const ref = ++this.#lastRef;
    const answer = this.#expect(ref);
    if (this.#outgoing.push({ text: `{"ref":${ref},${text.slice(1)}`, bytes }) === 1) queueMicrotask(() => this.#flush());
    const sent = readSent(await answer);
    if (!sent) throw lost("The answer to a send could not be understood.");
    return sent;
  }

  /** An acknowledgement of nothing is the one question that every server answers: a page cannot see pings. */
  check(): void {
    if (!this.#isOver && this.#answers.size === 0) this.ack(this.#epoch ?? null, {}).catch(() => {});
  }

  close(): void {
    this.#over(lost("The WebSocket was not ready in time, or was closed by this side."));
  }

  #flush(): void {
    const messages = this.#outgoing;
    this.#outgoing = [];
    let frame: string[] = [];
    let frameBytes = FRAME_SPARE_BYTES;
    for (const { text, bytes } of messages) {
      if (frame.length === MAX_MESSAGES || frameBytes + bytes > MAX_FRAME_BYTES) {
        this.#writeMessages(frame);
        frame = [];
        frameBytes = FRAME_SPARE_BYTES;
      }
      frame.push(text);
      frameBytes += bytes;
    }
    this.#writeMessages(frame);
  }

  #writeMessages(messages: readonly string[]): void {
    this.#writeText(`{"op":"send","messages":[${messages.join(",")}]}`);
  }

  #write(frame: object): void {
    this.#writeText(JSON.stringify(frame));
  }

  #writeText(text: string): void {
    if (this.#isOver) return;
    try {
      this.#socket.send(text);
    } catch (error) {
      this.#over(asHandoverError(error));
    }
  }

  #expect(ref: number): Promise<unknown> {
    if (this.#isOver) return Promise.reject(lost("The WebSocket is closed."));
    const answer = defer<unknown>();
    // The first question starts the watch; what comes in winds it again.
    if (this.#answers.size === 0) this.#watchFor(this.#opening.timing.answerMs, this.#noAnswer);
    this.#answers.set(ref, answer);
    return answer.promise;
  }

  #receive(data: unknown): void {
    if (this.#isOver) return;
    const frame = parseText(data);
    if (!isRecord(frame)) {
      this.#over(lost("The server sent something that is not a frame of this protocol."));
      return;
    }
    const { mail } = this.#opening;
    switch (frame.op) {
      case "ready":
        // Without an epoch the token may only send: there is no mailbox.
        if (typeof frame.epoch === "string" && isSeq(frame.head)) {
          this.#epoch = frame.epoch;
          mail.begin(frame.epoch, frame.head);
        }
        this.#ready.resolve(this);
        break;
      case "deliver":
        mail.deliver(frame.deliveries);
        break;
      case "settled":
        mail.settled(frame.seqs);
        break;
      case "gap":
        mail.advance(frame.to);
        break;
      case "acked":
        this.#answer(frame.ref)?.resolve(undefined);
        break;
      case "sent":
        for (const result of listOf(frame.results)) {
          if (!isRecord(result)) continue;
          const answer = this.#answer(result.ref);
          if (result.status === 201) answer?.resolve(result);
          else answer?.reject(this.#readProblem(result));
        }
        break;
      case "error": {
        const problem = this.#readProblem(frame);
        const answer = this.#answer(frame.ref);
        if (answer) answer.reject(problem);
        else this.#problem = problem;
        break;
      }
      case "drain":
        if (typeof frame.delay === "number") this.#drainMs = frame.delay * 1000;
    }
    const { quietMs, answerMs } = this.#opening.timing;
    if (this.#answers.size > 0) this.#watchFor(answerMs, this.#noAnswer);
    else this.#watchFor(quietMs, () => this.check());
  }

  #readProblem(value: Record<string, unknown>): HandoverError {
    const retryAfterMs = typeof value.retryAfter === "number" ? value.retryAfter * 1000 : undefined;
    return readProblem(value, retryAfterMs) ?? lost("The server refused something with an answer that could not be understood.");
  }

  /** The one who waits for this ref, who then waits no longer. */
  #answer(ref: unknown): Deferred<unknown> | undefined {
    if (typeof ref !== "number") return undefined;
    const answer = this.#answers.get(ref);
    this.#answers.delete(ref);
    return answer;
  }

  readonly #noAnswer = (): void => this.#over(lost("The server does not answer on the WebSocket."));

  #watchFor(waitMs: number, then: () => void): void {
    clearTimeout(this.#watch);
    if (!this.#isOver) this.#watch = setTimeout(then, waitMs);
  }

  #over(why: HandoverError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#watch);
    // Whatever ended the connection, it says nothing about what was asked on it: that is for the next one.
    const unanswered = lost(why.detail);
    for (const answer of this.#answers.values()) answer.reject(unanswered);
    this.#answers.clear();
    this.#ready.reject(why);
    this.#end.resolve(why);
    this.#socket.close();
  }
}
