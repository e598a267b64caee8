/**
 * Goes through the journal: all of it, to put a mailbox together; or once from its head, to clean it. Always on channels of its own: when the
 * broker closes one (its consumer timeout, say), publishing goes on, and what the channel held is in the queue again.
 * @module
 */
import type { AsyncMessage, Channel, Connection } from "rabbitmq-client";
import { unavailable } from "./failure.ts";
import { Replay } from "./record.ts";

/** Most that AMQP lets one channel hold unacknowledged. */
const MAX_PREFETCH = 65_535;
/** How long a channel that is being read may be silent before the reading counts as failed. */
const SILENCE_MS = 15_000;
const LAP_BATCH = 100;
const ASK_AGAIN_MS = 100;

export class Reader {
  readonly #connection: Connection;
  readonly #queue: string;
  readonly #noteError: (cause: unknown) => void;

  constructor(connection: Connection, queue: string, noteError: (cause: unknown) => void) {
    this.#connection = connection;
    this.#queue = queue;
    this.#noteError = noteError;
  }

  async #acquire(): Promise<Channel> {
    const channel = await this.#connection.acquire({ emitErrorsFromChannel: true });
    channel.on("error", (cause: unknown) => this.#noteError(cause));
    return channel;
  }

  /** How many records nobody holds. */
  async count(channel: Channel): Promise<number> {
    for (;;) {
      const { messageCount } = await channel.queueDeclare({ queue: this.#queue, passive: true });
      if (messageCount > 0) return messageCount;
      // RabbitMQ counts 0 also when the queue's leader did not answer within 250 ms (rabbit_quorum_queue:stat). A get waits for the leader.
      const message = await channel.basicGet({ queue: this.#queue, noAck: false });
      if (!message) return 0;
      channel.basicNack({ deliveryTag: message.deliveryTag, requeue: true });
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
    }
  }

  /** Reads the whole journal and leaves it as it is. @param counter  a channel that consumes nothing */
  async readAll(counter: Channel): Promise<Replay> {
    const replay = new Replay();
    const channels: Channel[] = [];
    try {
      // Until none is left: what a dead connection held may come back a moment later.
      for (;;) {
        const left = await this.count(counter);
        if (left === 0) break;
        const channel = await this.#acquire();
        channels.push(channel);
        await this.#take(channel, Math.min(left, MAX_PREFETCH), async (messages) => {
          for (const { body } of messages) replay.add(body);
          return true;
        });
      }
    } finally {
      // Closing a channel puts back what it held.
      for (const channel of channels) await channel.close();
    }
    return replay;
  }

  /** @see Journal.lap */
  async lap(clean: (bodies: readonly unknown[]) => Promise<Iterable<Buffer> | undefined>, publish: (body: Buffer) => Promise<void>): Promise<number> {
    const channel = await this.#acquire();
    let passed = 0;
    try {
      const count = await this.count(channel);
      await this.#take(
        channel,
        count,
        async (messages) => {
          const left = await clean(messages.map(({ body }) => body));
          if (left === undefined) return false;
          // What it held is in the queue again, and comes in the next lap.
          if (!channel.active) throw unavailable("RabbitMQ closed the channel on which the journal was cleaned.");
          for (const body of left) await publish(body);
          channel.basicAck({ deliveryTag: messages.at(-1)?.deliveryTag ?? 0, multiple: true });
          passed += messages.length;
          return true;
        },
        2 * LAP_BATCH,
      );
    } finally {
      await channel.close();
    }
    return passed;
  }

  /** Consumes `count` records on a channel, some at a time, until `each` says false. Acknowledges nothing. */
  async #take(channel: Channel, count: number, each: (messages: readonly AsyncMessage[]) => Promise<boolean>, prefetch = count): Promise<void> {
    if (count === 0) return;
    const waiting: AsyncMessage[] = [];
    let wake = () => {};
    let isClosed = false;
    const close = () => {
      isClosed = true;
      wake();
    };
    channel.on("close", close);
    channel.on("basic.cancel", close);
    await channel.basicQos({ prefetchCount: Math.min(prefetch, MAX_PREFETCH) });
    await channel.basicConsume({ queue: this.#queue }, (message) => {
      waiting.push(message);
      wake();
    });
    for (let left = count; left > 0; ) {
      if (waiting.length === 0) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, SILENCE_MS);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        // Let what came with the same read of the socket gather.
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (isClosed || waiting.length === 0) throw unavailable("The journal could not be read to its end.");
      const messages = waiting.splice(0, Math.min(left, LAP_BATCH));
      left -= messages.length;
      if (!(await each(messages))) return;
    }
  }
}
