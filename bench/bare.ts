/**
 * Servers of a few lines that store nothing, to compare with. `node bench/bare.ts relay | socketio | fastify | poll | sse`; prints its address.
 * @module
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import fastify from "fastify";
import { type WebSocket, WebSocketServer } from "ws";
import { peer } from "./wires/packages.ts";

const host = "127.0.0.1";
const say = (port: number) => console.log(`http://${host}:${port}`);

function listen(respond: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer({ keepAliveTimeout: 0 }, respond).listen(0, host, () => say((server.address() as AddressInfo).port));
  return server;
}

interface IoSocket {
  readonly handshake: { readonly auth: { readonly user: string } };
  on(event: string, heard: (to: string, data: unknown, done: () => void) => void): void;
  emit(event: string, data: unknown, done: () => void): void;
}

const servers: Record<string, () => void> = {
  /** Hands each frame to whom it names. */
  relay() {
    const sockets = new Map<string, WebSocket>();
    const server = new WebSocketServer({ server: listen((_request, response) => response.end()), perMessageDeflate: false });
    server.on("connection", (socket, { url }) => {
      sockets.set((url ?? "").slice(1), socket);
      socket.on("message", (data) => {
        const text = String(data);
        sockets.get((JSON.parse(text) as { to: string }).to)?.send(text);
      });
    });
  },
  socketio() {
    const { Server } = peer<{ Server: new (server: object, options: object) => { on(event: string, heard: (socket: IoSocket) => void): void } }>(
      "socket.io",
    );
    const sockets = new Map<string, IoSocket>();
    const server = new Server(
      listen((_request, response) => response.end()),
      { transports: ["websocket"], serveClient: false },
    );
    server.on("connection", (socket) => {
      sockets.set(socket.handshake.auth.user, socket);
      socket.on("send", (to, data, done) => sockets.get(to)?.emit("message", data, done));
    });
  },
  fastify() {
    const server = fastify();
    let id = 0;
    server.post("/messages", (_request, reply) => {
      id += 1;
      return reply.code(201).send({ id: `${id}`, recipients: ["receiver"] });
    });
    server.listen({ host, port: 0 }, () => say((server.server.address() as AddressInfo).port));
  },
  /** Holds every poll, as a server does in which nothing happens. */
  poll() {
    listen((request) => request.resume());
  },
  sse() {
    listen((_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(": here\n\n");
    });
  },
};

servers[process.argv[2] ?? ""]?.();
