/**
 * Long polling as a client sees it: one poll after another as long as there is room in its window, acknowledgements beside them.
 * @module
 */
import { call, type Delivered, type Forms, field, Inbox, type ReceiverOptions, type ToldGap, type Wire, type WireReceiver } from "./wire.ts";

const POLL_WAIT_S = 10;

class PollReceiver implements WireReceiver {
  readonly receiver: string;
  readonly #options: ReceiverOptions;
  readonly #inbox = new Inbox();
  readonly #stop = new AbortController();
  readonly #inFlight = new Set<number>();
  #running: Promise<void> = Promise.resolve();

  constructor(options: ReceiverOptions) {
    this.receiver = options.receiver;
    this.#options = options;
    this.#inbox.epoch = options.epoch;
    this.#inbox.cursor = options.cursor ?? 0;
  }

  get epoch(): string | undefined {
    return this.#inbox.epoch;
  }
  get head(): number {
    return this.#inbox.head;
  }
  get cursor(): number {
    return this.#inbox.cursor;
  }
  get deliveries(): readonly Delivered[] {
    return this.#inbox.deliveries;
  }
  get settled(): readonly number[] {
    return this.#inbox.settled;
  }
  get gaps(): readonly ToldGap[] {
    return this.#inbox.gaps;
  }
  get end(): number | undefined {
    return this.#inbox.end;
  }

  until(condition: () => boolean, what: string, withinMs?: number): Promise<void> {
    return this.#inbox.until(condition, what, withinMs);
  }

  async start(): Promise<void> {
    await this.#poll(0);
    this.#running = this.#run();
  }

  async ack(forms: Forms, epoch: string | null = this.epoch ?? null): Promise<number> {
    const { url, token, receiver } = this.#options;
    const body = { receiver, epoch, cursor: this.cursor, ...forms };
    const answer = await call(`${url}/v1/ack`, { token, body });
    if (answer.status !== 200) throw new Error(`The acknowledgement was refused: ${JSON.stringify(answer.body)}`);
    const done = [...(forms.seqs ?? []), ...(forms.hold ?? []), ...[...(forms.nack ?? []), ...(forms.reject ?? [])].map(({ seq }) => seq)];
    for (const seq of done) this.#inFlight.delete(seq);
    for (const seq of this.#inFlight) if (seq <= (forms.upto ?? 0)) this.#inFlight.delete(seq);
    this.#inbox.changed();
    return field(answer.body, "acked") as number;
  }

  async leave(): Promise<void> {
    this.#stop.abort();
    this.#inbox.end ??= 1006;
    this.#inbox.changed();
    await this.#running;
  }

  /** Polls as long as there is room in the window. */
  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted && this.#inbox.end === undefined) {
      await this.#inbox.until(() => this.#room() > 0 || this.#inbox.end !== undefined, "room in the window", 2_147_483_647);
      if (this.#inbox.end === undefined) await this.#poll(POLL_WAIT_S);
    }
  }

  #room(): number {
    return (this.#options.window ?? 32) - this.#inFlight.size;
  }

  async #poll(wait: number): Promise<void> {
    const { url, token, receiver } = this.#options;
    const inbox = this.#inbox;
    const body = { receiver, ...(inbox.epoch === undefined ? {} : { epoch: inbox.epoch }), cursor: inbox.cursor, max: this.#room(), wait };
    const startedMs = performance.now();
    try {
      const answer = await call(`${url}/v1/poll`, { token, body, signal: this.#stop.signal });
      if (answer.status === 200) this.#take(answer.body as PollAnswer);
      else if (answer.status !== 204) inbox.end = 4000 + answer.status;
      else if (wait > 0 && performance.now() - startedMs < wait * 1000 - 500) inbox.end = 4409;
    } catch (thrown) {
      if (!this.#stop.signal.aborted) inbox.end = 1006;
      else if (!(thrown instanceof Error)) throw thrown;
    }
    inbox.changed();
  }

  #take(answer: PollAnswer): void {
    const inbox = this.#inbox;
    // Under a new epoch, or when the cursor was not taken up, the numbers start again.
    if (inbox.epoch !== answer.epoch || answer.cursor < inbox.cursor) inbox.cursor = 0;
    inbox.epoch = answer.epoch;
    inbox.head = answer.head;
    for (const { seq } of answer.deliveries) this.#inFlight.add(seq);
    for (const seq of answer.settled) this.#inFlight.delete(seq);
    inbox.take(answer);
    inbox.cursor = answer.cursor;
  }
}

interface PollAnswer {
  readonly epoch: string;
  readonly cursor: number;
  readonly head: number;
  readonly deliveries: readonly Delivered[];
  readonly settled: readonly number[];
  readonly gaps: readonly ToldGap[];
}

export const LONG_POLLING: Wire = {
  kind: "poll",
  async openReceiver(options) {
    const receiver = new PollReceiver(options);
    await receiver.start();
    return receiver;
  },
  async openSender(url, token) {
    return {
      async send(message) {
        const { status, body } = await call(`${url}/v1/messages`, { token, body: message });
        return { ...(body as object), status };
      },
      close: () => Promise.resolve(),
    };
  },
};
