/**
 * A server that says what a test wants to see a client's answer to: things that the real one says only when much has gone wrong.
 * @module
 */
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Asked {
  /** E.g. `POST /v1/poll`. */
  readonly what: string;
  readonly query: URLSearchParams;
  /** The value of `Idempotency-Key`, as header or field. */
  readonly key: unknown;
  readonly token: string;
  // biome-ignore format: one line says it
  readonly body: { readonly receiver?: string; readonly epoch?: string; readonly cursor?: number; readonly seqs?: number[]; readonly ack?: { readonly seqs?: number[] } };
  readonly atMs: number;
}

export interface FakeServer {
  readonly url: string;
  /** What was asked so far. */
  readonly asked: Asked[];
  of(what: string): Asked[];
  close(): Promise<void>;
}

/** @param answer  is told how many requests of that kind there were before this one */
export async function startFake(answer: (asked: Asked, before: number, response: ServerResponse) => void): Promise<FakeServer> {
  const asked: Asked[] = [];
  const of = (what: string) => asked.filter((each) => each.what === what);
  const server = createServer((request, response) => {
    let text = "";
    request.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    request.on("end", () => {
      const url = new URL(request.url ?? "", "http://fake");
      const body = text === "" ? {} : JSON.parse(text);
      const what = `${request.method} ${url.pathname}`;
      const before = of(what).length;
      const key = request.headers["idempotency-key"] ?? body.idempotencyKey;
      const one = { what, query: url.searchParams, key, token: request.headers.authorization ?? "", body, atMs: performance.now() };
      asked.push(one);
      answer(one, before, response);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    of,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

export const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}) =>
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));

export const refuse = (response: ServerResponse, status: number, code: string, retryable: boolean, headers: Record<string, string> = {}) =>
  json(response, status, { type: "x", title: code, status, detail: `What to do about ${code}.`, code, retryable }, headers);

/** An event of a stream. */
export const event = (name: string | undefined, data: unknown, id?: string) =>
  `${name ? `event: ${name}\n` : ""}${id ? `id: ${id}\n` : ""}data: ${JSON.stringify(data)}\n\n`;

/** A delivery as both transports carry it. */
export const delivery = (seq: number, id: string) => ({
  seq,
  deliveryCount: 1,
  event: { specversion: "1.0", id, source: "/users/alice", type: "form.data", data: id },
});

/** What both transports say in their own form. */
export interface Told {
  readonly epoch: string;
  readonly deliveries?: readonly ReturnType<typeof delivery>[];
  readonly gap?: { readonly from: number; readonly to: number; readonly reason: string };
  readonly cursor: number;
}

/** Answers a poll, or begins a stream and leaves it open (or ends it, as asked). */
export function tell(asked: Asked, response: ServerResponse, { epoch, deliveries = [], gap, cursor }: Told, end = true): void {
  if (asked.what === "POST /v1/poll") {
    json(response, 200, { epoch, cursor, head: cursor, deliveries, settled: [], gaps: gap ? [gap] : [] });
    return;
  }
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write(`:\n\n${event("ready", { receiver: "r", epoch, head: cursor })}`);
  if (gap) response.write(event("gap", gap, `${epoch}:${gap.to}`));
  for (const each of deliveries) response.write(event(undefined, each, `${epoch}:${each.seq}`));
  if (end) response.end();
}
