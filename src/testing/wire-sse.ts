/**
 * Server-sent events as a client sees them: a stream to receive by, requests beside it to acknowledge and to send.
 * @module
 */
import { ERRORS, type Problem } from "../errors.ts";
import { call, type Delivered, type Forms, field, Inbox, type ReceiverOptions, type ToldGap, type Wire, type WireReceiver } from "./wire.ts";
import { LONG_POLLING } from "./wire-poll.ts";

/** One event as an EventSource would give it, and what it said about coming back. */
export interface StreamEvent {
  /** `message` for the default event. */
  readonly name: string;
  readonly data: string;
  /** The last id that the stream has said by then. */
  readonly id: string;
  /** ms, when the event itself had one. */
  readonly retry: number | undefined;
}

/** Reads a stream of events. @see HTML standard, section 9.2.6 "Interpreting an event stream" */
export class EventStreamParser {
  readonly events: StreamEvent[] = [];
  comments = 0;
  #rest = "";
  #endedWithReturn = false;
  #name = "";
  #data = "";
  #id = "";
  #retry: number | undefined;

  /** Takes what came next, as text without the byte order mark. */
  push(text: string): void {
    if (text === "") return;
    // The line feed of a CR LF that came in two parts.
    const next = this.#endedWithReturn && text.startsWith("\n") ? text.slice(1) : text;
    this.#endedWithReturn = text.endsWith("\r");
    const lines = (this.#rest + next).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#take(line);
  }

  #take(line: string): void {
    const [, name = "", value = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (line === "") this.#dispatch();
    else if (name === "event") this.#name = value;
    else if (name === "data") this.#data += `${value}\n`;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.#retry = Number(value);
    else if (name === "") this.comments += 1;
  }

  #dispatch(): void {
    if (this.#data !== "") this.events.push({ name: this.#name || "message", data: this.#data.slice(0, -1), id: this.#id, retry: this.#retry });
    this.#name = "";
    this.#data = "";
    this.#retry = undefined;
  }
}

export interface StreamOptions {
  readonly url: string;
  readonly token: string;
  /** Parameters of the address; those that are undefined are left out. */
  readonly query?: Readonly<Record<string, string | number | undefined>>;
  readonly lastEventId?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A stream, event by event. */
export class EventStream {
  readonly inbox = new Inbox();
  readonly headers: Headers;
  /** All of it, as it came. */
  text = "";
  readonly #parser = new EventStreamParser();
  readonly #stop: AbortController;
  /** Resolves when the connection is over. */
  readonly ended: Promise<void>;
  #seen = 0;
  #paused: Promise<void> | undefined;
  #resume: () => void = () => {};

  private constructor(response: Response, stop: AbortController, { epoch, cursor }: NonNullable<StreamOptions["query"]>) {
    if (typeof epoch === "string") this.inbox.epoch = epoch;
    if (typeof cursor === "number") this.inbox.cursor = cursor;
    this.headers = response.headers;
    this.#stop = stop;
    this.ended = this.#read(response);
  }

  /** Opens it; resolves at `ready`. @throws Error with the problem when it was refused */
  static async open({ url, token, query = {}, lastEventId, headers = {} }: StreamOptions): Promise<EventStream> {
    const stop = new AbortController();
    const given = Object.entries(query).filter(([, value]) => value !== undefined);
    const address = new URL("/v1/events", url);
    for (const [name, value] of given) address.searchParams.append(name, String(value));
    const response = await fetch(address, {
      headers: {
        Accept: "text/event-stream",
        Authorization: `Bearer ${token}`,
        ...(lastEventId === undefined ? {} : { "Last-Event-ID": lastEventId }),
        ...headers,
      },
      signal: stop.signal,
    });
    if (response.status !== 200) throw new Error(`The stream was refused: ${await response.text()}`);
    const stream = new EventStream(response, stop, query);
    const first = await stream.event(({ name }) => name === "ready" || name === "problem", "ready");
    if (first.name === "problem") throw new Error(`The stream was refused: ${first.data}`);
    return stream;
  }

  get events(): readonly StreamEvent[] {
    return this.#parser.events;
  }
  get comments(): number {
    return this.#parser.comments;
  }
  /** The name that the server gave, or took. */
  get receiver(): string {
    return String(field(JSON.parse(this.events[0]?.data ?? "{}"), "receiver"));
  }

  /** Waits for the first event that fits. */
  async event(fits: (event: StreamEvent) => boolean, what: string): Promise<StreamEvent> {
    let found: StreamEvent | undefined;
    await this.inbox.until(() => {
      found = this.events.find(fits);
      return found !== undefined || this.inbox.end !== undefined;
    }, what);
    if (!found) throw new Error(`The stream ended with ${this.inbox.end} before ${what}: ${JSON.stringify(this.events.slice(-3))}`);
    return found;
  }

  /** Stops reading, as a stuck peer does. */
  pause(): void {
    this.#paused = new Promise((resolve) => {
      this.#resume = resolve;
    });
  }

  resume(): void {
    this.#paused = undefined;
    this.#resume();
  }

  /** Goes away without a word. */
  async leave(): Promise<void> {
    this.resume();
    this.#stop.abort();
    await this.ended;
  }

  async #read(response: Response): Promise<void> {
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
        this.text += part.value;
        this.#parser.push(part.value);
        this.#take();
        await this.#paused;
      }
    } catch (thrown) {
      // Broken, from here or from there.
      if (!(thrown instanceof Error)) throw thrown;
    }
    this.inbox.end ??= 1006;
    this.inbox.changed();
  }

  #take(): void {
    const { inbox } = this;
    for (; this.#seen < this.events.length; this.#seen++) {
      const { name, data } = this.events[this.#seen] as StreamEvent;
      const value: unknown = JSON.parse(data);
      if (name === "ready") this.#begin(value as { epoch: string; head: number });
      else if (name === "message") inbox.take({ deliveries: [value as Delivered] });
      else if (name === "settled") inbox.take({ settled: (value as { seqs: number[] }).seqs });
      else if (name === "gap") inbox.take({ gaps: [value as ToldGap] });
      else if (name === "problem") inbox.end = ERRORS[(value as Problem).code].close;
      else if (name === "drain") inbox.end = ERRORS.draining.close;
    }
    inbox.changed();
  }

  #begin({ epoch, head }: { epoch: string; head: number }): void {
    const { inbox } = this;
    // Other numbers begin here.
    if (inbox.epoch !== undefined && inbox.epoch !== epoch) inbox.cursor = 0;
    inbox.epoch = epoch;
    inbox.head = head;
  }
}

class StreamReceiver implements WireReceiver {
  readonly receiver: string;
  readonly #stream: EventStream;
  readonly #options: ReceiverOptions;

  constructor(stream: EventStream, options: ReceiverOptions) {
    this.receiver = options.receiver;
    this.#stream = stream;
    this.#options = options;
  }

  get epoch(): string | undefined {
    return this.#stream.inbox.epoch;
  }
  get head(): number {
    return this.#stream.inbox.head;
  }
  get cursor(): number {
    return this.#stream.inbox.cursor;
  }
  get deliveries(): readonly Delivered[] {
    return this.#stream.inbox.deliveries;
  }
  get settled(): readonly number[] {
    return this.#stream.inbox.settled;
  }
  get gaps(): readonly ToldGap[] {
    return this.#stream.inbox.gaps;
  }
  get end(): number | undefined {
    return this.#stream.inbox.end;
  }

  until(condition: () => boolean, what: string, withinMs?: number): Promise<void> {
    return this.#stream.inbox.until(condition, what, withinMs);
  }

  async ack(forms: Forms, epoch: string | null = this.epoch ?? null): Promise<number> {
    const { url, token, receiver } = this.#options;
    const answer = await call(`${url}/v1/ack`, { token, body: { receiver, epoch, cursor: this.cursor, ...forms } });
    if (answer.status !== 200) throw new Error(`The acknowledgement was refused: ${JSON.stringify(answer.body)}`);
    return field(answer.body, "acked") as number;
  }

  leave(): Promise<void> {
    return this.#stream.leave();
  }
}

export const SSE: Wire = {
  kind: "sse",
  async openReceiver(options) {
    const { url, token, receiver, epoch, cursor, window } = options;
    return new StreamReceiver(await EventStream.open({ url, token, query: { receiver, epoch, cursor, window } }), options);
  },
  // A stream goes one way: sending is HTTP's, as with polling.
  openSender: LONG_POLLING.openSender,
};
