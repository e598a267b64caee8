/**
 * AMQP 0.9.1 to RabbitMQ, with amqplib: persistent messages to a quorum queue of each pair, publisher confirms, acknowledgements of one turn in one frame.
 * @module
 */
import type { Body, Hearing, Receiver, Sender, Wire } from "../wire.ts";
import { peer } from "./packages.ts";

interface Message {
  readonly content: Buffer;
}
interface Channel {
  assertQueue(queue: string, options: object): Promise<unknown>;
  assertExchange(exchange: string, type: string, options: object): Promise<unknown>;
  bindQueue(queue: string, exchange: string, pattern: string): Promise<unknown>;
  prefetch(count: number): Promise<unknown>;
  publish(exchange: string, key: string, content: Buffer, options: object, confirmed: (error: Error | null) => void): boolean;
  consume(queue: string, heard: (message: Message | null) => void): Promise<unknown>;
  ack(message: Message, upTo: boolean): void;
}
interface Connection {
  createChannel(): Promise<Channel>;
  createConfirmChannel(): Promise<Channel>;
  close(): Promise<void>;
}
interface Amqplib {
  connect(url: string, options: object): Promise<Connection>;
}

const queueOf = (pair: number) => `bench.${pair}`;
const QUORUM = { durable: true, arguments: { "x-queue-type": "quorum" } };
const FAN_OUT = "bench.all";

const connect = (address: string) => peer<Amqplib>("amqplib").connect(address, { noDelay: true });
const closing = (connection: Connection) => () => void connection.close().catch(() => {});

async function publisher(address: string, exchange: string, pair: number, accepted: (count: number) => void): Promise<Sender> {
  const connection = await connect(address);
  const channel = await connection.createConfirmChannel();
  if (exchange === "") await channel.assertQueue(queueOf(pair), QUORUM);
  else await channel.assertExchange(exchange, "fanout", { durable: true });
  let count = 0;
  const confirmed = (error: Error | null) => {
    if (error) throw error;
    if (count === 0) {
      queueMicrotask(() => {
        const all = count;
        count = 0;
        accepted(all);
      });
    }
    count += 1;
  };
  return {
    send(bodies) {
      for (const body of bodies) channel.publish(exchange, queueOf(pair), Buffer.from(body), { persistent: true, mandatory: true }, confirmed);
    },
    close: closing(connection),
  };
}

async function receiver(address: string, pair: number, hearing: Hearing): Promise<Receiver> {
  const connection = await connect(address);
  const channel = await connection.createChannel();
  await channel.assertQueue(queueOf(pair), QUORUM);
  await channel.assertExchange(FAN_OUT, "fanout", { durable: true });
  await channel.bindQueue(queueOf(pair), FAN_OUT, "");
  await channel.prefetch(1_000);
  let messages: Message[] = [];
  const tell = () => {
    const all = messages;
    messages = [];
    const last = all.at(-1);
    if (!last) return;
    hearing.delivered(all.map(({ content }) => JSON.parse(content.toString("latin1")) as Body));
    channel.ack(last, true);
    hearing.acknowledged(all.length);
  };
  await channel.consume(queueOf(pair), (message) => {
    if (!message) throw new Error("RabbitMQ ended the consumer.");
    if (messages.length === 0) setImmediate(tell);
    messages.push(message);
  });
  return { close: closing(connection) };
}

export const amqp: Wire = {
  sender: (address, pair, accepted) => publisher(address, "", pair, accepted),
  receiver,
  fanOut: (address, _pairs, accepted) => publisher(address, FAN_OUT, 0, accepted),
};
