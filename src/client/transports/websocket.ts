/**
 * WebSocket: everything on one connection. @see PROTOCOL.md, "Receiving"
 * @module
 */
import type { AckForms } from "../../protocol.ts";
import { alarm } from "../backoff.ts";
import { type Deferred, defer } from "../deferred.ts";
import { asHandoverError, ENDED, garbled, HandoverError, lost, readClose, readProblem, silent } from "../error.ts";
import { isTokenRefused } from "../http.ts";
import { isRecord, listOf, parseText, secondsOf } from "../json.ts";
import { readSent, type Sent } from "../message.ts";
import { isSameSession } from "../token.ts";
import { afterDrain, type Opening, opened, take, type Wire } from "../wire.ts";

const SUBPROTOCOL = "handover.v1.json";
const MAX_MESSAGES = 100;
/** A character is at most 3 bytes: so a frame is below 1 MiB, and a message that does not fit is one that no server takes, above 256 KiB. */
const MAX_CHARACTERS = 349_000;

/** Opens a WebSocket and says hello; resolves at `ready`. @see {@link Open} for errors */
export async function openWebSocket(opening: Opening): Promise<Wire> {
  const token = await opening.token.get();
  const ready = defer<void>();
  return opened(new WebSocketWire(opening, token, ready), ready.promise, opening);
}

class WebSocketWire implements Wire {
  readonly transport = "websocket";
  readonly maxAcks = 1_000;
  readonly ended: Promise<HandoverError>;
  readonly #opening: Opening;
  readonly #socket: WebSocket;
  readonly #ready: Deferred<void>;
  readonly #end = defer<HandoverError>();
  /** Who waits for the answer to which ref. */
  readonly #answers = new Map<number, Deferred<unknown>>();
  /** Messages of this turn, to share a frame. */
  #outgoing: string[] = [];
  #outgoingLength = 0;
  #lastRef = 0;
  #token: string;
  #problem: HandoverError | undefined;
  #drainMs: number | undefined;
  #unwatch: () => void = () => {};
  #isOver = false;

  constructor(opening: Opening, token: string, ready: Deferred<void>) {
    this.#opening = opening;
    this.#token = token;
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
      if (isTokenRefused(why)) opening.token.forget(this.#token);
      this.#over(afterDrain(why, this.#drainMs));
    };
    // Browsers tell nothing here; `close` follows.
    this.#socket.onerror = () => {};
  }

  async ack(epoch: string | undefined, forms: AckForms): Promise<void> {
    const ref = ++this.#lastRef;
    const answer = this.#expect(ref);
    this.#write({ op: "ack", ref, epoch: epoch ?? null, ...forms });
    await answer;
  }

  async send(text: string): Promise<Sent> {
    const ref = ++this.#lastRef;
    const message = `{"ref":${ref},${text.slice(1)}`;
    if (message.length > MAX_CHARACTERS) throw new HandoverError("too-large", "Over 256 KiB.", { status: 413 });
    const answer = this.#expect(ref);
    if (this.#outgoing.length === MAX_MESSAGES || this.#outgoingLength + message.length > MAX_CHARACTERS) this.#flush();
    if (this.#outgoing.push(message) === 1) queueMicrotask(() => this.#flush());
    this.#outgoingLength += message.length + 1;
    return readSent(await answer);
  }

  /** An acknowledgement of nothing is the one question that every server answers: a page cannot see pings. */
  check(): void {
    if (!this.#isOver && this.#answers.size === 0) this.ack(this.#opening.mail.position().epoch, {}).catch(() => {});
  }

  renew(token: string): boolean {
    if (!isSameSession(token, this.#token)) return false;
    if (token !== this.#token) this.#write({ op: "auth", token });
    this.#token = token;
    return true;
  }

  close(): void {
    this.#over(lost(ENDED));
  }

  #flush(): void {
    if (this.#outgoing[0]) this.#writeText(`{"op":"send","messages":[${this.#outgoing}]}`);
    this.#outgoing = [];
    this.#outgoingLength = 0;
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
    if (this.#isOver) return Promise.reject(lost(ENDED));
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
      this.#over(garbled("frame"));
      return;
    }
    const { mail } = this.#opening;
    take(mail, frame.op, frame);
    switch (frame.op) {
      case "ready":
        this.#ready.resolve();
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
        this.#drainMs = secondsOf(frame.delay);
    }
    const { quietMs, answerMs } = this.#opening.timing;
    if (this.#answers.size > 0) this.#watchFor(answerMs, this.#noAnswer);
    else this.#watchFor(quietMs, () => this.check());
  }

  #readProblem(value: Record<string, unknown>): HandoverError {
    return readProblem(value, secondsOf(value.retryAfter)) ?? garbled("problem");
  }

  /** The one who waits for this ref, who then waits no longer. */
  #answer(ref: unknown): Deferred<unknown> | undefined {
    const answer = this.#answers.get(ref as number);
    this.#answers.delete(ref as number);
    return answer;
  }

  readonly #noAnswer = (): void => this.#over(silent());

  #watchFor(waitMs: number, then: () => void): void {
    this.#unwatch();
    if (!this.#isOver) this.#unwatch = alarm(waitMs, then);
  }

  #over(why: HandoverError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#unwatch();
    // Whatever ended the connection, it says nothing about what was asked on it: that is for the next one.
    const unanswered = lost(why.detail);
    for (const answer of this.#answers.values()) answer.reject(unanswered);
    this.#answers.clear();
    this.#end.resolve(why);
    this.#socket.close();
  }
}
