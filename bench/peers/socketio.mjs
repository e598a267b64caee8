// Socket.IO, three ways that its documentation shows: connection state recovery with the sessions in memory, the same with sessions and messages in
// Redis, and with the database and the offset of its tutorial (steps 6 to 8), which is code of the application: the server's part of it is below.
import { createServer } from "node:http";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { io } from "socket.io-client";
import { redis } from "./redis.mjs";

const common = {
  async openPage({ url, user, handle }) {
    const socket = io(url, { auth: { user, serverOffset: 0 } });
    socket.on("message", async ({ n }, serverOffset) => {
      await handle(n);
      if (serverOffset !== undefined) socket.auth.serverOffset = serverOffset;
    });
    // It begins by polling and changes to WebSocket soon; a page that is open for long is one that has.
    await new Promise((resolve) => {
      socket.once("connect", () => (socket.io.engine.transport.name === "websocket" ? resolve() : socket.io.engine.once("upgrade", resolve)));
      setTimeout(resolve, 5_000);
    });
    return { drop: () => socket.disconnect() };
  },
  async openSender(url) {
    // What the documentation names for "at least once" from a client ("Delivery guarantees"), with the tutorial's numbers.
    const socket = io(url, { auth: {}, retries: 3, ackTimeout: 10_000 });
    let sent = 0;
    return {
      send: (user, message) =>
        new Promise((resolve, reject) => socket.emit("send", user, message, `${sent++}`, (error) => (error ? reject(error) : resolve()))),
      close: () => socket.disconnect(),
    };
  },
};

/** @param minutes  how long a session is kept. 2 are the example of the documentation, and the default */
const server = (port, way, minutes, where) => ({
  command: process.execPath,
  args: ["--no-warnings", import.meta.filename, `${port}`, way, `${minutes * 60_000}`, `${where}`],
  port,
});

export const peers = [
  {
    ...common,
    title: "Socket.IO, connection state recovery, 2 minutes, in memory",
    packages: ["socket.io", "socket.io-client"],
    processes: (port) => [server(port, "memory", 2, "")],
  },
  {
    ...common,
    title: "Socket.IO, connection state recovery, 24 hours, Redis Streams adapter",
    packages: ["socket.io", "socket.io-client", "@socket.io/redis-streams-adapter", "redis"],
    programs: [["redis-server", "--version"]],
    processes: (port, dir, anotherPort) => [redis(anotherPort, dir), server(port, "redis", 24 * 60, anotherPort)],
  },
  {
    ...common,
    title: "Socket.IO, connection state recovery, and the tutorial's database and offset",
    packages: ["socket.io", "socket.io-client"],
    processes: (port, dir) => [server(port, "database", 2, join(dir, "chat.db"))],
  },
];

if (process.argv[1] === import.meta.filename) {
  const [port, way, maxDisconnectionDuration, where] = process.argv.slice(2);
  const http = createServer();
  const options = { connectionStateRecovery: { maxDisconnectionDuration: Number(maxDisconnectionDuration) } };
  if (way === "redis") {
    const client = createClient({ url: `redis://127.0.0.1:${where}` });
    await client.connect();
    options.adapter = createAdapter(client);
  }
  const database = way === "database" ? openDatabase(where) : undefined;
  const server = new Server(http, options);
  server.on("connection", (socket) => {
    const { user, serverOffset } = socket.handshake.auth;
    if (user && !socket.recovered) socket.join(user);
    if (user && !socket.recovered)
      for (const { id, content } of database?.after(user, serverOffset) ?? []) socket.emit("message", JSON.parse(content), id);
    socket.on("send", (to, message, clientOffset, done) => {
      const id = database?.add(to, message, clientOffset);
      if (id !== null) server.to(to).emit("message", message, id);
      done();
    });
  });
  http.listen(Number(port), "127.0.0.1");
}

/** The table of the tutorial, with a column more for the user. Its file is synced with every message, as is SQLite's way unless told otherwise. */
function openDatabase(file) {
  const database = new DatabaseSync(file);
  database.exec("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT UNIQUE, user TEXT, content TEXT)");
  const insert = database.prepare("INSERT INTO messages (client_offset, user, content) VALUES (?, ?, ?)");
  const select = database.prepare("SELECT id, content FROM messages WHERE user = ? AND id > ? ORDER BY id");
  return {
    after: (user, id) => select.all(user, id ?? 0),
    /** @returns its id, or null when it is there already */
    add(user, message, clientOffset) {
      try {
        return Number(insert.run(clientOffset, user, JSON.stringify(message)).lastInsertRowid);
      } catch (error) {
        if (String(error).includes("UNIQUE")) return null;
        throw error;
      }
    },
  };
}
