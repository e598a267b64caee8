/**
 * The wires of the bare servers (bare.ts): a relay by `ws`, Socket.IO, a POST to fastify, polls and streams in which nothing comes.
 * @module
 */
import { once } from "node:events";
import { WebSocket } from "ws";
import type { Body, Hearing, Receiver, Sender, Wire } from "../wire.ts";
import { follow, HttpConnection, pollOn } from "./http.ts";
import { peer } from "./packages.ts";

async function open(address: string, user: string): Promise<WebSocket> {
  const socket = new WebSocket(`${address.replace("http", "ws")}/${user}`, { perMessageDeflate: false });
  await once(socket, "open");
  return socket;
}

/** One frame a message, relayed to the receiver; its acknowledgement is relayed back, and that is the accept. */
export const relay: Wire = {
  async sender(address, pair, accepted): Promise<Sender> {
    const socket = await open(address, `sender-${pair}`);
    socket.on("message", () => accepted(1));
    return {
      send(bodies) {
        for (const body of bodies) socket.send(`{"to":"receiver-${pair}","from":"sender-${pair}","data":${body}}`);
      },
      close: () => socket.terminate(),
    };
  },
  async receiver(address, pair, hearing): Promise<Receiver> {
    const socket = await open(address, `receiver-${pair}`);
    socket.on("message", (text) => {
      const { data } = JSON.parse(String(text)) as { data: Body };
      hearing.delivered([data]);
      socket.send(`{"to":"sender-${pair}","ack":${data.n}}`);
      hearing.acknowledged(1);
    });
    return { close: () => socket.terminate() };
  },
};

interface IoSocket {
  on(event: string, heard: (...values: never[]) => void): void;
  emit(event: string, ...values: unknown[]): void;
  disconnect(): void;
}
interface IoClient {
  io(url: string, options: object): IoSocket;
}

async function openIo(address: string, user: string): Promise<IoSocket> {
  const socket = peer<IoClient>("socket.io-client").io(address, { transports: ["websocket"], forceNew: true, auth: { user } });
  await new Promise<void>((resolve) => socket.on("connect", resolve));
  return socket;
}

/** The receiver's acknowledgement callback is the accept, by way of the server. */
export const socketIo: Wire = {
  async sender(address, pair, accepted): Promise<Sender> {
    const socket = await openIo(address, `sender-${pair}`);
    return {
      send(bodies) {
        // Parsed again: Socket.IO writes what it sends by itself.
        for (const body of bodies) socket.emit("send", `receiver-${pair}`, JSON.parse(body), () => accepted(1));
      },
      close: () => socket.disconnect(),
    };
  },
  async receiver(address, pair, hearing: Hearing): Promise<Receiver> {
    const socket = await openIo(address, `receiver-${pair}`);
    socket.on("message", (data: Body, acknowledge: () => void) => {
      hearing.delivered([data]);
      acknowledge();
      hearing.acknowledged(1);
    });
    return { close: () => socket.disconnect() };
  },
};

/** What an HTTP server costs that stores nothing: the reference of one message a request. */
export const plainPost: Wire = {
  async sender(address, _pair, accepted): Promise<Sender> {
    const idle: HttpConnection[] = [];
    const send = async (body: string) => {
      const connection = idle.pop() ?? (await HttpConnection.open(address));
      const { status, text } = await connection.post("/messages", `{"to":{"user":"receiver"},"type":"bench","data":${body}}`);
      if (status !== 201) throw new Error(`${status} ${text}`);
      JSON.parse(text);
      idle.push(connection);
      accepted(1);
    };
    return {
      send(bodies) {
        for (const body of bodies) void send(body);
      },
      close() {
        for (const connection of idle) connection.close();
      },
    };
  },
};

/** Asks again at once, on the same connection. */
const polling = (wait: number): Wire => ({
  async receiver(address): Promise<Receiver> {
    const connection = await HttpConnection.open(address);
    return pollOn(connection, async () => {
      const { status, text } = await connection.post("/poll", `{"receiver":"bench","wait":${wait}}`);
      if (status !== 204) throw new Error(`${status} ${text}`);
    });
  },
});
export const poll = polling(10);
export const longestPoll = polling(60);

export const sse: Wire = {
  receiver: (address) =>
    follow(
      () => ({ url: `${address}/events`, headers: {} }),
      () => {},
    ),
};
