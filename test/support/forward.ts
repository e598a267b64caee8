/**
 * What proxies have in common that do something to HTTP and WebSockets on the way to a server.
 * @module
 */
import { once } from "node:events";
import type { Agent, IncomingMessage, Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";

export interface Opened {
  readonly url: string;
  close(): Promise<void>;
}

/** Lets a proxy listen. @param agent  what it asks with; it is ended with it */
export async function open(proxy: Server, agent: Agent): Promise<Opened> {
  const upgraded = new Set<Duplex>();
  proxy.on("upgrade", (_asked, near: Duplex) => {
    upgraded.add(near);
    near.once("close", () => upgraded.delete(near));
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  return {
    url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    async close() {
      const closed = once(proxy, "close");
      proxy.close();
      for (const near of upgraded) near.destroy();
      proxy.closeAllConnections();
      agent.destroy();
      await closed;
    },
  };
}

/** Asks the server for the WebSocket that a client asked for. @returns the connection to it; when one of the two goes, so does the other */
export function passUpgrade(target: URL, asked: IncomingMessage, near: Duplex, head: Buffer): Socket {
  const far = connect(Number(target.port), target.hostname);
  const lines = asked.rawHeaders.flatMap((name, at) => (at % 2 === 0 ? `${name}: ${asked.rawHeaders[at + 1]}` : []));
  far.write(`GET ${asked.url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
  far.write(head);
  for (const [one, other] of [
    [near, far],
    [far, near],
  ] as const) {
    one.on("error", () => {});
    one.on("close", () => other.destroy());
  }
  return far;
}
