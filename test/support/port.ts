/**
 * Ports of this machine, for what tests and benchmarks start.
 * @module
 */
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";

/** A port that was free a moment ago, so that a server can be started on it again and again. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Whether somebody takes connections there. */
export function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}
