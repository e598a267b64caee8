/**
 * NATS over WebSocket with JetStream: publishing with an answer, push consumers with explicit acknowledgement. Commands of one turn share a frame.
 * @see docs.nats.io, client protocol; JetStream wire API
 * @module
 */
import { once } from "node:events";
import { WebSocket } from "ws";
import { type Body, type Hearing, type Receiver, RUN, type Sender, type Wire } from "../wire.ts";

type Hear = (subject: string, reply: string | undefined, text: string) => void;

class Connection {
  readonly #socket: WebSocket;
  readonly #hear: Hear;
  #rest = "";
  #outgoing: string[] = [];

  private constructor(socket: WebSocket, hear: Hear) {
    this.#socket = socket;
    this.#hear = hear;
    socket.on("message", (data: Buffer) => this.#received(data.toString("latin1")));
  }

  static async open(address: string, hear: Hear): Promise<Connection> {
    const socket = new WebSocket(address, { perMessageDeflate: false });
    const connection = new Connection(socket, hear);
    await once(socket, "open");
    connection.write('CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1","protocol":1}\r\n');
    return connection;
  }

  write(command: string): void {
    if (this.#outgoing.length === 0) queueMicrotask(() => this.#flush());
    this.#outgoing.push(command);
  }

  publish(subject: string, text: string, reply = ""): void {
    this.write(`PUB ${subject} ${reply === "" ? "" : `${reply} `}${text.length}\r\n${text}\r\n`);
  }

  close(): void {
    this.#socket.terminate();
  }

  #flush(): void {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(this.#outgoing.join(""));
    this.#outgoing = [];
  }

  /** One byte is one letter: all that the driver sends is ASCII. */
  #received(part: string): void {
    const all = this.#rest + part;
    let at = 0;
    for (;;) {
      const end = all.indexOf("\r\n", at);
      if (end < 0) break;
      const line = all.slice(at, end);
      if (line.startsWith("MSG ")) {
        const words = line.split(" ");
        const length = Number(words.at(-1));
        if (all.length < end + 4 + length) break;
        this.#hear(words[1] ?? "", words.length === 5 ? words[3] : undefined, all.slice(end + 2, end + 2 + length));
        at = end + 4 + length;
        continue;
      }
      if (line === "PING") this.write("PONG\r\n");
      else if (line.startsWith("-ERR")) throw new Error(`NATS: ${line}`);
      at = end + 2;
    }
    this.#rest = all.slice(at);
  }
}

let asked = 0;

/** Asks JetStream's API once. @returns why it refused; undefined when it did what was asked */
async function tryAsk(address: string, subject: string, request: object): Promise<string | undefined> {
  const answered = Promise.withResolvers<string>();
  // Of its own: whoever listens there hears every answer.
  const inbox = `_INBOX.${RUN}.${asked++}`;
  const connection = await Connection.open(address, (_subject, _reply, text) => answered.resolve(text));
  connection.write(`SUB ${inbox} 1\r\n`);
  connection.publish(subject, JSON.stringify(request), inbox);
  const answer = JSON.parse(await answered.promise) as { error?: { description: string } };
  connection.close();
  return answer.error?.description;
}

async function ask(address: string, subject: string, request: object): Promise<void> {
  const refusal = await tryAsk(address, subject, request);
  if (refusal !== undefined) throw new Error(`NATS: ${refusal}`);
}

let stream: Promise<void> | undefined;

/** One stream on disk; a message goes when it was acknowledged. */
function makeStream(address: string): Promise<void> {
  stream ??= ask(address, "$JS.API.STREAM.CREATE.BENCH", { name: "BENCH", subjects: ["bench.>"], storage: "file", retention: "workqueue" });
  return stream;
}

async function sender(address: string, pair: number, accepted: (count: number) => void): Promise<Sender> {
  await makeStream(address);
  const inbox = `_INBOX.${RUN}.s${pair}`;
  let count = 0;
  const connection = await Connection.open(address, (_subject, _reply, text) => {
    if ((JSON.parse(text) as { error?: object }).error) throw new Error(`NATS: ${text}`);
    if (count === 0) {
      queueMicrotask(() => {
        const all = count;
        count = 0;
        accepted(all);
      });
    }
    count += 1;
  });
  connection.write(`SUB ${inbox} 1\r\n`);
  return {
    send(bodies) {
      for (const body of bodies) connection.publish(`bench.${pair}`, body, inbox);
    },
    close: () => connection.close(),
  };
}

async function receiver(address: string, pair: number, hearing: Hearing): Promise<Receiver> {
  await makeStream(address);
  let bodies: Body[] = [];
  const tell = () => {
    const all = bodies;
    bodies = [];
    hearing.delivered(all);
    hearing.acknowledged(all.length);
  };
  const subject = `to.${RUN}.${pair}`;
  const connection: Connection = await Connection.open(address, (_subject, reply, text) => {
    if (reply) connection.publish(reply, "+ACK");
    if (bodies.length === 0) queueMicrotask(tell);
    bodies.push(JSON.parse(text) as Body);
  });
  connection.write(`SUB ${subject} 1\r\n`);
  // An acknowledgement is not confirmed: those on their way when the load before this one ended are lost with its connections, and their messages would
  // come again.
  await tryAsk(address, `$JS.API.CONSUMER.DELETE.BENCH.c${pair}`, {});
  await ask(address, "$JS.API.STREAM.PURGE.BENCH", { filter: `bench.${pair}` });
  await ask(address, `$JS.API.CONSUMER.DURABLE.CREATE.BENCH.c${pair}`, {
    stream_name: "BENCH",
    config: {
      durable_name: `c${pair}`,
      deliver_subject: subject,
      deliver_policy: "all",
      ack_policy: "explicit",
      ack_wait: 30_000_000_000,
      max_ack_pending: 2_000,
      filter_subject: `bench.${pair}`,
    },
  });
  return { close: () => connection.close() };
}

export const nats: Wire = { sender, receiver };
