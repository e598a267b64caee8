/**
 * A proxy that blocks a transport in mid-stream: what is open stays open and is silent, as where something on the way buffers or swallows, and
 * new ones are refused.
 * @module
 */
import { once } from "node:events";
import { Agent, createServer, request } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";

export interface BlockingProxy {
  readonly url: string;
  block(what: "websocket" | "sse"): void;
  close(): Promise<void>;
}

export async function openBlockingProxy(target: string): Promise<BlockingProxy> {
  const { hostname, port } = new URL(target);
  const agent = new Agent({ keepAlive: true });
  const blocked = new Set<string>();
  const sockets = new Set<Socket>();
  const proxy = createServer((asked, answer) => {
    const isStream = asked.url?.startsWith("/v1/events") ?? false;
    if (isStream && blocked.has("sse")) {
      answer.writeHead(403).end("No streams here.");
      return;
    }
    const asking = request({ hostname, port, method: asked.method, path: asked.url, headers: asked.headers, agent }, (got) => {
      answer.writeHead(got.statusCode ?? 500, got.headers);
      if (isStream) {
        got.on("data", (part) => blocked.has("sse") || answer.write(part));
        got.on("end", () => answer.end());
      } else got.pipe(answer);
    });
    asking.on("error", () => answer.destroy());
    answer.on("close", () => asking.destroy());
    asked.pipe(asking);
  });
  proxy.on("upgrade", (asked, near: Socket, head) => {
    near.on("error", () => {});
    if (blocked.has("websocket")) {
      near.end("HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n");
      return;
    }
    const far = connect(Number(port), hostname);
    const lines = asked.rawHeaders.flatMap((name, at) => (at % 2 === 0 ? `${name}: ${asked.rawHeaders[at + 1]}` : []));
    far.write(`GET ${asked.url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
    far.write(head);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.on("data", (part) => blocked.has("websocket") || other.write(part));
      one.on("error", () => {});
      one.on("close", () => other.destroy());
    }
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  return {
    url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    block: (what) => void blocked.add(what),
    async close() {
      const closed = once(proxy, "close");
      proxy.close();
      for (const socket of sockets) socket.destroy();
      proxy.closeAllConnections();
      agent.destroy();
      await closed;
    },
  };
}
