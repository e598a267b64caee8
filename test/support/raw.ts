/**
 * HTTP written by hand, for what `fetch` refuses to send.
 * @module
 */
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { expect } from "vitest";
import { ERRORS, type ErrorCode } from "../../src/errors.ts";
import { type Answer, field } from "../../src/testing/wire.ts";

const DEADLINE_MS = 5_000;

/** Sends bytes, and reads until there is one whole answer, or the end. @returns status 0 when the connection ended without an answer */
export function raw(url: string, request: string | readonly (string | Uint8Array)[]): Promise<Answer> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    let received = Buffer.alloc(0);
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`No answer within ${DEADLINE_MS} ms; so far: ${received.toString().slice(0, 200)}`));
    }, DEADLINE_MS);
    const finish = (answer: Answer) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    socket.on("connect", () => {
      for (const part of typeof request === "string" ? [request] : request) socket.write(part);
    });
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      const answer = answerOf(received);
      if (answer) finish(answer);
    });
    socket.on("close", () => finish(answerOf(received) ?? { status: 0, headers: new Headers(), body: undefined }));
    // A server that has answered may cut what it does not want to read.
    socket.on("error", () => {});
  });
}

function answerOf(received: Buffer): Answer | undefined {
  const end = received.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [first = "", ...lines] = received.subarray(0, end).toString().split("\r\n");
  const headers = new Headers(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()] as [string, string]));
  const body = received.subarray(end + 4);
  if (body.length < Number(headers.get("content-length") ?? 0)) return undefined;
  const text = body.toString();
  return { status: Number(first.split(" ")[1]), headers, body: text === "" ? undefined : JSON.parse(text) };
}

export interface Asked {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string | undefined>>;
  readonly body?: unknown;
}

/** One request by hand: `fetch` would not send an `Origin` or a `Host` of ours as it stands. */
export function ask(
  server: { readonly url: string },
  { method = "POST", path = "/v1/poll", headers = {}, body = { receiver: "r", wait: 0 } }: Asked,
): Promise<Answer> {
  const text = method === "POST" && path !== "/v1/cookie" ? JSON.stringify(body) : undefined;
  const all: Record<string, string | undefined> = {
    Host: new URL(server.url).host,
    ...(text === undefined ? {} : { "Content-Type": "application/json", "Content-Length": String(Buffer.byteLength(text)) }),
    ...headers,
  };
  const lines = Object.entries(all).flatMap(([name, value]) => (value === undefined ? [] : [`${name}: ${value}\r\n`]));
  return raw(server.url, `${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n${text ?? ""}`);
}

/** Expects the problem document of that code, whole and in the right type. @param status  where it is not the table's */
export function expectProblem(answer: Answer, code: ErrorCode, what = "", status: number = ERRORS[code].status): void {
  const { title, retryable } = ERRORS[code];
  const shown = `${what} → ${answer.status} ${JSON.stringify(answer.body)?.slice(0, 300)}`;
  expect([answer.status, field(answer.body, "code")], shown).toEqual([status, code]);
  expect(answer.headers.get("content-type"), shown).toMatch(/^application\/problem\+json/);
  expect(answer.body, shown).toMatchObject({ type: `urn:handover:error:${code}`, title, status: ERRORS[code].status, retryable });
  expect(String(field(answer.body, "detail")).length, shown).toBeGreaterThan(10);
  if (ERRORS[code].status === 401) expect(answer.headers.get("www-authenticate"), shown).toBe("Bearer");
}

/** A peer that has asked and reads nothing. */
export interface DeafPeer {
  /** Bytes that have arrived for it and that it has not read, as Linux counts them. */
  unread(): number;
  /** Goes away, without having read anything. */
  leave(): void;
}

/** Sends a request, and reads nothing of the answer. Resolves when all of it was handed to the network. */
export async function askDeaf(url: string, request: string | Uint8Array): Promise<DeafPeer> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  // Before it is connected: else Node reads into a buffer of its own.
  socket.pause();
  socket.on("error", () => {});
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.write(request, () => resolve());
  });
  const { localPort = 0 } = socket;
  const hex = (number: string | number) => Number(number).toString(16).toUpperCase().padStart(4, "0");
  // Another connection of this machine may have the same port here, to another one there.
  const place = new RegExp(`^ *\\d+: [0-9A-F]{8}:${hex(localPort)} [0-9A-F]{8}:${hex(port)} \\S+ [0-9A-F]+:([0-9A-F]+) `, "m");
  return {
    unread: () => Number.parseInt(place.exec(readFileSync("/proc/net/tcp", "utf8"))?.[1] ?? "0", 16),
    leave: () => void socket.destroy(),
  };
}

/** A request as text, for {@link askDeaf} and {@link raw}. */
export function writeRequest(method: "GET" | "POST", path: string, token: string, body?: object): string {
  const text = body === undefined ? "" : JSON.stringify(body);
  const head = `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${token}\r\n`;
  return body === undefined ? `${head}\r\n` : `${head}Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
}

/** The upgrade to a WebSocket with its first frame behind it, for {@link askDeaf}. @see RFC 6455, sections 4.1 and 5.2 */
export function writeWebSocket(first: object): Buffer {
  const key = Buffer.alloc(16).toString("base64");
  const head = `GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n`;
  const payload = Buffer.from(JSON.stringify(first));
  // A whole frame of text with a length of 16 bits, under a mask of zeros.
  const frame = Buffer.from([0x81, 0x80 | 126, payload.length >> 8, payload.length & 0xff, 0, 0, 0, 0]);
  return Buffer.concat([Buffer.from(`${head}Sec-WebSocket-Protocol: handover.v1.json\r\n\r\n`), frame, payload]);
}
