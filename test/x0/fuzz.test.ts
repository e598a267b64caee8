/**
 * Whatever is asked of x0's address: 200 and an object, nothing of anybody else, nothing that runs in a page, and no answer at once to who would ask
 * again at once. 2,000 requests here, 200,000 with `npm run soak -- x0`; HANDOVER_SEED sends the same ones again.
 * @module
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import fc from "fast-check";
import { expect, test } from "vitest";
import { call } from "../../src/testing/wire.ts";
import { played } from "../support/soak.ts";
import { start } from "../support/started.ts";
import { MARK, type Shot, shots } from "./shots.ts";
import { formOf, pollOf, Tab } from "./tab.ts";

const REQUESTS = Number(process.env.HANDOVER_RUNS ?? 2_000);
/** As many connections; most of the time each waits for the second that it is held. */
const AT_ONCE = 400;
const SEED = Number(process.env.HANDOVER_SEED ?? Date.now() % 2 ** 31);
const PATH = "/python/MsgHandler.py";
/** Mail of a session that nobody of these guesses. */
const SECRET = "what only its receiver may see";
const VICTIM = "victim-5d1c0f4e-not-guessed";

interface Answer {
  readonly status: number;
  readonly head: string;
  readonly text: string;
  readonly tookMs: number;
}

/** One connection that writes what it is told and reads answers one after the other. */
class Wire {
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #isOver = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (part: Buffer) => {
      this.#received = Buffer.concat([this.#received, part]);
      socket.emit("more");
    });
    socket.on("close", () => {
      this.#isOver = true;
      socket.emit("more");
    });
    // What was cut on purpose may be reset.
    socket.on("error", () => {});
  }

  static async open(url: string): Promise<Wire> {
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    await once(socket, "connect");
    return new Wire(socket);
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  write(bytes: Uint8Array): void {
    if (!this.#isOver) this.#socket.write(bytes);
  }

  /** The next answer; undefined when the connection ended before. @param hasBody  HEAD's has none, whatever its length says */
  async read(hasBody = true): Promise<Omit<Answer, "tookMs"> | undefined> {
    for (;;) {
      const end = this.#received.indexOf("\r\n\r\n");
      const head = end < 0 ? "" : this.#received.subarray(0, end).toString("latin1");
      const length = !hasBody ? 0 : Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0);
      if (end >= 0 && this.#received.length >= end + 4 + length) {
        const text = this.#received.subarray(end + 4, end + 4 + length).toString();
        this.#received = this.#received.subarray(end + 4 + length);
        return { status: Number(head.split(" ")[1]), head, text };
      }
      if (this.#isOver) return undefined;
      await new Promise((resolve) => this.#socket.once("more", resolve));
    }
  }

  cut(): void {
    this.#socket.destroy();
    this.#isOver = true;
  }
}

/** The bytes of a request, in the pieces in which they are written. */
function bytesOf({ method, name, hasPreflight, headers, body, sent, at }: Shot): Uint8Array[] {
  const target = `${PATH}${name === undefined ? "" : `?a__=${encodeURIComponent(name.toWellFormed())}`}`;
  const lines = (more: readonly (readonly [string, string])[]) =>
    [["User-Agent", "one browser"], ...(more.some(([field]) => field === "Host") ? [] : [["Host", "x0-msg-server.x0.localnet:8080"]]), ...more]
      .map(([field, value]) => `${field}: ${value}\r\n`)
      .join("");
  const lengths = { short: Math.floor(body.length / 2), long: body.length + 10 } as const;
  const framing: readonly [string, string] =
    sent === "chunked"
      ? ["Transfer-Encoding", "chunked"]
      : ["Content-Length", String(sent === "short" || sent === "long" ? lengths[sent] : body.length)];
  const head = Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines([...headers, framing])}\r\n`);
  const preflight = hasPreflight ? [Buffer.from(`OPTIONS ${target} HTTP/1.1\r\n${lines([])}\r\n`)] : [];
  if (sent === "chunked") {
    const size = 1 + (at % 4_000);
    const chunks: Uint8Array[] = [];
    for (let from = 0; from < body.length; from += size) {
      const chunk = body.subarray(from, from + size);
      chunks.push(Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from("\r\n"));
    }
    return [...preflight, Buffer.concat([head, ...chunks, Buffer.from("0\r\n\r\n")])];
  }
  const whole = Buffer.concat([head, body]);
  const place = at % whole.length;
  if (sent === "cut") return [...preflight, whole.subarray(0, place)];
  if (sent === "split") return [...preflight, whole.subarray(0, place), whole.subarray(place)];
  return [...preflight, whole];
}

/** Sends one request and reads its answer; undefined when there can be none. */
async function shoot(wire: Wire, shot: Shot): Promise<Answer | undefined> {
  const startedMs = performance.now();
  const [first, ...rest] = bytesOf(shot);
  if (first) wire.write(first);
  for (const piece of rest) {
    // Another turn, so that it is another packet.
    await new Promise((resolve) => setImmediate(resolve));
    wire.write(piece);
  }
  if (shot.sent === "cut" || shot.sent === "long") {
    await new Promise((resolve) => setTimeout(resolve, shot.at % 20));
    wire.cut();
    return undefined;
  }
  if (shot.hasPreflight && (await wire.read())?.status !== 200) throw new Error("the preflight was not answered");
  const answer = await wire.read(shot.method !== "HEAD");
  return answer && { ...answer, tookMs: performance.now() - startedMs };
}

/** What a page may be given from a browser: values for an object of it, and who sent them. */
function isHarmless(message: unknown): boolean {
  const { "msg-type": type, "method-id": method, "dst-object": object, payload, session_src: source, ...rest } = message as Record<string, unknown>;
  return (
    type === "net-message" &&
    method === "set-data" &&
    typeof object === "string" &&
    typeof payload === "object" &&
    payload !== null &&
    !Array.isArray(payload) &&
    typeof source === "string" &&
    Object.keys(rest).length === 0
  );
}

/** Whether it is a SET or a DEL, right or wrong. */
function isSetOrDel(asked: string): boolean {
  try {
    const { type, RequestData } = JSON.parse(asked);
    return type === "SET" || type === "DEL" || RequestData !== undefined;
  } catch {
    return false;
  }
}

for (const x0 of ["demo", "registered"] as const) {
  test.concurrent(`[X56] ${x0}: of random and mutated requests none gets anything but 200 and an object, other people's mail, or a script; who would ask again at once waits`, {
    timeout: 60_000 + REQUESTS * 10,
  }, async () => {
    const count = Math.ceil(REQUESTS / 2);
    const server = await start("memory", { x0, mailboxMaxMessages: "5000" });
    try {
      const users = ["a", "b", x0 === "demo" ? "c d" : "c-d"];
      const exp = Math.floor(Date.now() / 1000) + 24 * 3600;
      const values = new Map(users.map((user) => [user, x0 === "demo" ? user : server.token(user, { exp })]));
      const own = [...values.values()];
      const guesses = ["a", "", "nobody", "victim", "e30.e30.e30", "__proto__", own[0]?.slice(0, -1) ?? ""];
      expect((await new Tab(server.url).send(own[0] ?? "", VICTIM, { secret: SECRET })).body).toEqual({ messages: null, status: "ok" });
      const session = fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom(...own) },
        { weight: 1, arbitrary: fc.constantFrom(...guesses) },
        fc.string(),
        fc.string({ unit: "binary" }),
      );
      const requests = shots(session, fc.oneof(fc.constantFrom(...users), fc.constantFrom(...guesses)));

      const startedMs = performance.now();
      console.log(`${x0}: ${count} requests, HANDOVER_SEED=${SEED}`);
      const counted = { answered: 0, accepted: 0, given: 0, marks: 0, held: 0, refused: 0, cut: 0 };

      /** What must be so, whatever was asked. @throws Error */
      const judge = ({ method, name, sent, body }: Shot, { status, head, text, tookMs }: Answer) => {
        if (text.includes(SECRET)) throw new Error("another's mail");
        // Bytes that are no HTTP may be refused as such; the server's own fault they are not.
        if (sent === "hostile" || sent === "short") {
          if (status >= 500) throw new Error("a fault of the server");
          return;
        }
        if (status !== 200) throw new Error("not 200");
        if (!/^access-control-allow-origin: \*\r$/im.test(`${head}\r`)) throw new Error("no page could read this");
        // Its content type can still be refused, as on every address.
        if (method !== "POST" && (text === "" || text.includes('"exception_id":"'))) return;
        const answer = JSON.parse(text);
        if (typeof answer !== "object" || answer === null || Array.isArray(answer)) throw new Error("not an object");
        if (Object.keys(answer).some((key) => !["messages", "status", "error", "exception_id", "exception"].includes(key))) throw new Error("more");
        if (answer.exception_id === "internal") throw new Error("a fault of the server");
        if (answer.error === true) counted.refused += 1;
        if (answer.status === "ok") counted.accepted += 1;
        const asked = Buffer.from(body).toString();
        for (const message of answer.messages ?? []) {
          counted.given += 1;
          if (!isHarmless(message)) throw new Error("more than values for a form");
          if (x0 === "registered" && !users.includes(message.session_src)) throw new Error("from nobody");
          const to = message.payload[MARK];
          if (typeof to !== "string") continue;
          counted.marks += 1;
          const value = x0 === "demo" ? to : values.get(to);
          if (value === undefined || !asked.includes(JSON.stringify(value).slice(1, -1))) throw new Error(`for ${to}`);
        }
        // Who sends or settles waits for the answer; everybody else would ask again at once. (A poll that comes again under its name takes the place
        // of the first.)
        const mayBeReplaced = name !== undefined && name.length < 10;
        if ((answer.messages ?? []).length > 0 || answer.status === "ok" || isSetOrDel(asked) || mayBeReplaced) return;
        counted.held += 1;
        if (tookMs < 950) throw new Error(`answered after ${tookMs.toFixed(0)} ms, and asked again at once`);
      };

      // Drawn in portions: what is drawn and not yet sent is in memory.
      let portion = 0;
      let drawn: Shot[] = [];
      const next = () => {
        if (drawn.length === 0 && portion * 1_000 < count) {
          drawn = fc.sample(requests, { numRuns: Math.min(1_000, count - portion * 1_000), seed: SEED + portion });
          portion += 1;
        }
        return drawn.pop();
      };
      const shootAll = async () => {
        let wire: Wire | undefined;
        for (let shot = next(); shot; shot = next()) {
          if (!wire || wire.isOver) wire = await Wire.open(server.url);
          let answer: Answer | undefined;
          try {
            answer = await shoot(wire, shot);
            if (answer) judge(shot, answer);
            else if (["whole", "split", "chunked"].includes(shot.sent)) throw new Error("no answer");
          } catch (thrown) {
            const { body, ...rest } = shot;
            const shown = { ...rest, body: Buffer.from(body).toString("latin1").slice(0, 500), bytes: body.length };
            throw new Error(`${String(thrown)}\n${JSON.stringify(shown)}\n→ ${answer?.head} ${answer?.text.slice(0, 500)}\nHANDOVER_SEED=${SEED}`);
          }
          if (answer) counted.answered += 1;
          else counted.cut += 1;
          // What follows on such a connection is no request any more, or nobody's.
          if (shot.sent === "short" || shot.sent === "hostile" || /^connection: close$/im.test(answer?.head ?? "")) wire.cut();
        }
        wire?.cut();
      };
      await Promise.all(Array.from({ length: AT_ONCE }, shootAll));
      const seconds = ((performance.now() - startedMs) / 1_000).toFixed(0);
      const shown = Object.entries(counted).map(([what, times]) => `${times} ${what}`);
      played(`${x0}: ${count} requests in ${seconds} s: ${shown.join(", ")}`);
      for (const [what, least] of [
        ["accepted", 50],
        ["given", 200],
        ["marks", 400],
        ["held", 10],
        ["refused", 10],
      ] as const) {
        expect(counted[what], what).toBeGreaterThan(count / least);
      }
      const mine = await new Tab(server.url).poll(x0 === "demo" ? VICTIM : server.token(VICTIM));
      expect(mine.text).toContain(SECRET);
      expect((await call(`${server.url}/readyz`)).status).toBe(200);
    } finally {
      await server.stop();
    }
  });
}

test("[X56] pipelined requests are answered in their order, polls among them too", async () => {
  const server = await start("memory", { x0: "demo" });
  try {
    const wire = await Wire.open(server.url);
    const ask = (body: object): Shot => ({
      method: "POST",
      name: undefined,
      hasPreflight: true,
      headers: [["Content-Type", "application/json"]],
      body: Buffer.from(JSON.stringify(body)),
      sent: "whole",
      at: 0,
    });
    const bodies = [formOf("a", "b", { n: 1 }), pollOf("b"), { type: "DEL", session_src: "b" }, formOf("a", "b", { n: 2 }), pollOf("b")];
    wire.write(Buffer.concat(bodies.flatMap((body) => bytesOf(ask(body)))));
    const texts: string[] = [];
    while (texts.length < 2 * bodies.length) texts.push((await wire.read())?.text ?? "no answer");
    const posts = texts.filter((_, index) => index % 2 === 1);
    expect([posts[0], posts[2], posts[3]]).toEqual(['{"messages":null,"status":"ok"}', '{"messages":null}', '{"messages":null,"status":"ok"}']);
    // What was on its way together was not processed: the second poll may be given the first message again, and is not made to wait.
    for (const text of [posts[1], posts[4]]) expect(text).toMatch(/^\{"messages":\[\{.*"n":[12]/);
    wire.cut();
  } finally {
    await server.stop();
  }
});
