/**
 * Servers of a few lines, to compare with. With what is idle they do what Handover does. `node bench/bare.ts relay | socketio | fastify | poll | sse | x0`; prints its address.
 * They store nothing, but where a folder is named behind it: then `relay` and `fastify` answer, or hand on, behind a sync of what came.
 * @module
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import Database from "better-sqlite3";
import fastify from "fastify";
import { type WebSocket, WebSocketServer } from "ws";
import { pause } from "./measure.ts";
import { peer } from "./wires/packages.ts";

interface X0Request {
  readonly type?: string;
  readonly SessionData: { readonly Value: string };
  readonly RequestData: { readonly FormlistSelectDstUser: { readonly DstUserSession: string }; readonly FormlistExchangeData: object };
}

const X0_SLEEP_MS = 1_000;
/** As Handover has it: how often a peer is asked whether it is there, and how long a stream lasts. */
const PING_MS = 20_000;
const COMMENT_MS = 15_000;
const MIN_STREAM_MS = 23_000;
const MAX_STREAM_MS = 28_000;
const host = "127.0.0.1";
const say = (port: number) => console.log(`http://${host}:${port}`);

function listen(respond: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer({ keepAliveTimeout: 0 }, respond).listen(0, host, () => say((server.address() as AddressInfo).port));
  return server;
}

function whole(request: IncomingMessage, take: (text: string) => void): void {
  let text = "";
  request.on("data", (part) => {
    text += part;
  });
  request.on("end", () => take(text));
}

interface IoSocket {
  readonly handshake: { readonly auth: { readonly user: string } };
  on(event: string, heard: (to: string, data: unknown, done: () => void) => void): void;
  emit(event: string, data: unknown, done: () => void): void;
}

/** Stores texts in SQLite, those of one turn in one commit, and says when they are synced; without a folder, nothing, and at once. */
function makeStore(folder: string | undefined): (text: string, stored: () => void) => void {
  if (folder === undefined) return (_text, stored) => stored();
  const db = new Database(join(folder, "store.db"));
  db.pragma("journal_mode = WAL");
  db.pragma("synchronous = FULL");
  db.exec("CREATE TABLE texts (n INTEGER PRIMARY KEY, text TEXT NOT NULL)");
  const add = db.prepare("INSERT INTO texts (text) VALUES (?)");
  const addAll = db.transaction((texts: readonly string[]) => {
    for (const text of texts) add.run(text);
  });
  let waiting: { readonly text: string; readonly stored: () => void }[] = [];
  return (text, stored) => {
    waiting.push({ text, stored });
    if (waiting.length > 1) return;
    setImmediate(() => {
      const all = waiting;
      waiting = [];
      addAll(all.map((each) => each.text));
      for (const each of all) each.stored();
    });
  };
}

const [, , name = "", folder] = process.argv;
const servers: Record<string, () => void> = {
  /** Hands each frame to whom it names. */
  relay() {
    const sockets = new Map<string, WebSocket>();
    const store = makeStore(folder);
    const server = new WebSocketServer({ server: listen((_request, response) => response.end()), perMessageDeflate: false });
    server.on("connection", (socket, { url }) => {
      sockets.set((url ?? "").slice(1), socket);
      socket.on("message", (data) => {
        const text = String(data);
        const to = sockets.get((JSON.parse(text) as { to: string }).to);
        store(text, () => to?.send(text));
      });
    });
    setInterval(() => {
      for (const socket of server.clients) socket.ping();
    }, PING_MS);
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
    const store = makeStore(folder);
    let id = 0;
    server.post("/messages", (request, reply) => {
      id += 1;
      const answer = { id: `${id}`, recipients: ["receiver"] };
      if (folder === undefined) return reply.code(201).send(answer);
      store(JSON.stringify(request.body), () => void reply.code(201).send(answer));
      return reply;
    });
    server.listen({ host, port: 0 }, () => say((server.server.address() as AddressInfo).port));
  },
  /** Holds every poll for as many seconds as it asks for, and has nothing for it then. */
  poll() {
    listen((request, response) =>
      whole(request, (text) => {
        const { wait } = JSON.parse(text) as { wait: number };
        setTimeout(() => response.writeHead(204).end(), wait * 1_000);
      }),
    );
  },
  sse() {
    listen((_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" }).write(": here\n\n");
      const beat = setInterval(() => response.write(":\n\n"), COMMENT_MS);
      const end = setTimeout(() => response.end(), MIN_STREAM_MS + Math.random() * (MAX_STREAM_MS - MIN_STREAM_MS));
      response.on("close", () => {
        clearInterval(beat);
        clearTimeout(end);
      });
    });
  },
  /**
   * A model of x0's message server as its wire was observed: one thread that answers one request after the other and sleeps a second in each; a poll is
   * ten rounds of asking it, with a second between them.
   */
  x0() {
    const mailboxes = new Map<string, unknown[]>();
    let turn = Promise.resolve();
    const daemon = <T>(what: () => T): Promise<T> => {
      const done = turn.then(() => pause(X0_SLEEP_MS)).then(what);
      turn = done.then(() => {});
      return done;
    };
    const answer = async (asked: X0Request): Promise<object> => {
      const { Value: session } = asked.SessionData;
      if (asked.type !== "GET") {
        const { FormlistSelectDstUser: to, FormlistExchangeData: payload } = asked.RequestData;
        const message = { "msg-type": "net-message", "method-id": "set-data", "dst-object": "FormlistExchangeData", payload, session_src: session };
        return daemon(() => {
          mailboxes.set(to.DstUserSession, [...(mailboxes.get(to.DstUserSession) ?? []), message]);
          return { messages: null, status: "ok" };
        });
      }
      for (let round = 0; round < 10; round++) {
        const messages = await daemon(() => {
          const all = mailboxes.get(session);
          mailboxes.delete(session);
          return all;
        });
        if (messages) return { messages };
        await pause(X0_SLEEP_MS);
      }
      return { messages: null };
    };
    listen((request, response) =>
      whole(request, (text) => {
        response.setHeader("Access-Control-Allow-Origin", "*").setHeader("Content-Type", "application/json; charset=UTF-8");
        if (request.method !== "POST") response.end();
        else void answer(JSON.parse(text) as X0Request).then((body) => response.end(JSON.stringify(body)));
      }),
    );
  },
};

servers[name]?.();
