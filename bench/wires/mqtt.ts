/**
 * MQTT 3.1.1 with QoS 1 over WebSocket, as far as the driver needs it. Packets that are ready in one turn share a frame.
 * @see OASIS MQTT 3.1.1, sections 2 and 3
 * @module
 */
import { once } from "node:events";
import { WebSocket } from "ws";
import type { Body, Hearing, Receiver, Sender, Wire } from "../wire.ts";

const CONNACK = 2;
const PUBLISH = 3;
const PUBACK = 4;
const SUBACK = 9;

/** The length of what follows, in 7 bits a byte (section 2.2.3). */
function lengthBytes(length: number): number[] {
  const bytes: number[] = [];
  let rest = length;
  do {
    bytes.push((rest % 128) | (rest >= 128 ? 128 : 0));
    rest = Math.floor(rest / 128);
  } while (rest > 0);
  return bytes;
}

function packet(first: number, ...parts: readonly Buffer[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([Buffer.from([first, ...lengthBytes(length)]), ...parts]);
}

function number16(value: number): Buffer {
  return Buffer.from([value >> 8, value & 255]);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([number16(bytes.length), bytes]);
}

type Hear = (connection: Connection, type: number, flags: number, body: Buffer) => void;

class Connection {
  readonly #socket: WebSocket;
  readonly #hear: Hear;
  #rest: Buffer = Buffer.alloc(0);
  #outgoing: Buffer[] = [];

  private constructor(socket: WebSocket, hear: Hear) {
    this.#socket = socket;
    this.#hear = hear;
    socket.on("message", (data: Buffer) => this.#received(data));
  }

  /** @param user  RabbitMQ wants one; Mosquitto is asked without */
  static async open(address: string, client: string, isClean: boolean, hear: Hear): Promise<Connection> {
    const { username, password } = new URL(address);
    const socket = new WebSocket(address, "mqtt", { perMessageDeflate: false });
    await once(socket, "open");
    let isKnown = false;
    const connack = Promise.withResolvers<void>();
    const connection = new Connection(socket, (of, type, flags, body) => {
      // A persistent session is given what waits at once.
      if (isKnown) return hear(of, type, flags, body);
      if (type !== CONNACK || body[1] !== 0) return connack.reject(new Error(`MQTT: ${type} ${body.toString("hex")}`));
      isKnown = true;
      connack.resolve();
    });
    const flags = (isClean ? 2 : 0) | (username === "" ? 0 : 0xc0);
    const user = username === "" ? [] : [text(username), text(password)];
    connection.write(packet(0x10, text("MQTT"), Buffer.from([4, flags, 0, 0]), text(client), ...user));
    await connack.promise;
    return connection;
  }

  write(bytes: Buffer): void {
    if (this.#outgoing.length === 0) queueMicrotask(() => this.#flush());
    this.#outgoing.push(bytes);
  }

  close(): void {
    this.#socket.terminate();
  }

  #flush(): void {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(Buffer.concat(this.#outgoing));
    this.#outgoing = [];
  }

  #received(data: Buffer): void {
    let all = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    while (all.length >= 2) {
      let length = 0;
      let at = 1;
      let shift = 1;
      for (;;) {
        const byte = all[at++];
        if (byte === undefined) break;
        length += (byte & 127) * shift;
        shift *= 128;
        if (byte < 128) break;
      }
      if (all.length < at + length) break;
      this.#hear(this, (all[0] ?? 0) >> 4, (all[0] ?? 0) & 15, all.subarray(at, at + length));
      all = all.subarray(at + length);
    }
    this.#rest = all;
  }
}

async function publisher(address: string, client: string, topic: string, accepted: (count: number) => void): Promise<Sender> {
  let count = 0;
  const connection = await Connection.open(address, client, true, (_connection, type) => {
    if (type !== PUBACK) return;
    if (count === 0) {
      queueMicrotask(() => {
        const all = count;
        count = 0;
        accepted(all);
      });
    }
    count += 1;
  });
  const name = text(topic);
  let id = 0;
  return {
    send(bodies) {
      for (const body of bodies) {
        id = (id % 65_535) + 1;
        connection.write(packet(0x32, name, number16(id), Buffer.from(body, "latin1")));
      }
    },
    close: () => connection.close(),
  };
}

async function subscriber(address: string, pair: number, hearing: Hearing): Promise<Receiver> {
  const subscribed = Promise.withResolvers<void>();
  let bodies: Body[] = [];
  const tell = () => {
    const all = bodies;
    bodies = [];
    hearing.delivered(all);
    hearing.acknowledged(all.length);
  };
  const connection = await Connection.open(address, `receiver-${pair}`, false, (of, type, _flags, body) => {
    if (type === SUBACK) {
      if ((body[2] ?? 128) > 1) subscribed.reject(new Error(`MQTT: SUBACK ${body.toString("hex")}`));
      subscribed.resolve();
    }
    if (type !== PUBLISH) return;
    const at = 2 + body.readUInt16BE(0);
    of.write(packet(0x40, body.subarray(at, at + 2)));
    if (bodies.length === 0) queueMicrotask(tell);
    bodies.push(JSON.parse(body.toString("latin1", at + 2)) as Body);
  });
  for (const topic of [`bench/${pair}`, "bench/all"]) connection.write(packet(0x82, number16(1), text(topic), Buffer.from([1])));
  await subscribed.promise;
  return { close: () => connection.close() };
}

export const mqtt: Wire = {
  sender: (address, pair, accepted) => publisher(address, `sender-${pair}`, `bench/${pair}`, accepted),
  receiver: subscriber,
  fanOut: (address, _pairs, accepted) => publisher(address, "sender-all", "bench/all", accepted),
  // A persistent session that is away: what is published for it is kept.
  async absent(address, pair) {
    const subscribed = Promise.withResolvers<void>();
    const connection = await Connection.open(address, `receiver-${pair}`, false, (_connection, type) => {
      if (type === SUBACK) subscribed.resolve();
    });
    connection.write(packet(0x82, number16(1), text(`bench/${pair}`), Buffer.from([1])));
    await subscribed.promise;
    connection.close();
  },
};
