/**
 * A proxy that blocks a transport in mid-stream: what is open stays open and is silent, as where something on the way buffers or swallows, and
 * new ones are refused.
 * @module
 */
import { Agent, createServer, request } from "node:http";
import type { Socket } from "node:net";
import { type Opened, open, passUpgrade } from "./forward.ts";

export interface BlockingProxy extends Opened {
  block(what: "websocket" | "sse"): void;
}

export async function openBlockingProxy(target: string): Promise<BlockingProxy> {
  const server = new URL(target);
  const { hostname, port } = server;
  const agent = new Agent({ keepAlive: true });
  const blocked = new Set<string>();
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
    const far = passUpgrade(server, asked, near, head);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const)
      one.on("data", (part) => blocked.has("websocket") || other.write(part));
  });
  const { url, close } = await open(proxy, agent);
  return { url, close, block: (what) => void blocked.add(what) };
}
