/**
 * A proxy that loses answers after the server has done what was asked, cuts others in their middle, and passes requests on twice.
 * @module
 */
import { Agent, createServer, type IncomingHttpHeaders, type IncomingMessage, request, type ServerResponse } from "node:http";
import { type Opened, open, passUpgrade } from "../support/forward.ts";

export interface LossyProxy extends Opened {
  readonly lost: number;
  readonly cut: number;
  readonly repeated: number;
  /** Bodies of sends that went through it, as they were. */
  readonly sends: readonly string[];
}

/** @param random  gives numbers from 0 to 1; of five answers one is lost, of twenty one is cut, of ten requests one is made twice */
export async function openLossyProxy(target: string, random: () => number): Promise<LossyProxy> {
  const server = new URL(target);
  const { hostname, port } = server;
  const agent = new Agent({ keepAlive: true });
  const counts = { lost: 0, cut: 0, repeated: 0 };
  const sends: string[] = [];
  const ask = (method: string, path: string, headers: IncomingHttpHeaders, body: Buffer) =>
    new Promise<{ status: number; headers: IncomingHttpHeaders; body: Buffer; stream?: IncomingMessage }>((resolve, reject) => {
      const asking = request({ hostname, port, method, path, headers, agent }, async (answer) => {
        const parts: Buffer[] = [];
        if (answer.headers["content-type"]?.startsWith("text/event-stream")) {
          resolve({ status: 200, headers: answer.headers, body: Buffer.of(), stream: answer });
          return;
        }
        try {
          for await (const part of answer) parts.push(part as Buffer);
          resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: Buffer.concat(parts) });
        } catch (error) {
          reject(error);
        }
      });
      asking.on("error", reject);
      asking.end(body);
    });
  const proxy = createServer(async (asked, answer) => {
    try {
      const parts: Buffer[] = [];
      for await (const part of asked) parts.push(part as Buffer);
      const body = Buffer.concat(parts);
      const { method = "GET", url = "/", headers } = asked;
      if (url === "/v1/messages") sends.push(body.toString());
      const isTwice = random() < 0.1;
      if (isTwice) counts.repeated += 1;
      const again = isTwice ? ask(method, url, headers, body).catch(() => undefined) : undefined;
      const got = await ask(method, url, headers, body);
      (await again)?.stream?.destroy();
      const fate = random();
      if (got.stream) passStream(got.stream, got.headers, answer);
      else if (fate < 0.2) {
        counts.lost += 1;
        asked.socket.destroy();
      } else if (fate < 0.25 && got.body.length > 1) {
        counts.cut += 1;
        answer.writeHead(got.status, got.headers);
        answer.write(got.body.subarray(0, got.body.length / 2), () => asked.socket.destroy());
      } else answer.writeHead(got.status, got.headers).end(got.body);
    } catch {
      asked.socket.destroy();
    }
  });
  /** A stream breaks after some of it, in the middle of an event. */
  const passStream = (stream: IncomingMessage, headers: IncomingHttpHeaders, answer: ServerResponse) => {
    let left = 8_000 + random() * 40_000;
    answer.writeHead(200, headers);
    stream.on("data", (part: Buffer) => {
      if (left <= 0) return;
      answer.write(part.subarray(0, left));
      left -= part.length;
      if (left > 0) return;
      counts.cut += 1;
      stream.destroy();
      answer.destroy();
    });
    stream.on("error", () => answer.destroy());
    stream.on("end", () => answer.end());
    answer.on("close", () => stream.destroy());
  };
  // A WebSocket breaks after some of what the server said: what was asked before is done, and its answer is lost.
  proxy.on("upgrade", (asked, near, head) => {
    const far = passUpgrade(server, asked, near, head);
    let left = 8_000 + random() * 40_000;
    near.pipe(far);
    far.on("data", (part) => {
      left -= part.length;
      if (left >= 0) near.write(part);
      else if (!near.destroyed) {
        counts.lost += 1;
        near.destroy();
      }
    });
  });
  const { url, close } = await open(proxy, agent);
  return {
    url,
    get lost() {
      return counts.lost;
    },
    get cut() {
      return counts.cut;
    },
    get repeated() {
      return counts.repeated;
    },
    sends,
    close,
  };
}
