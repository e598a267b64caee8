/**
 * Whatever is asked of x0's address: 200 and an object, nothing of anybody else, nothing that runs in a page. 2,000 requests here, 200,000 with
 * X0_FUZZ=200000.
 * @module
 */
import { Agent, request } from "node:http";
import fc from "fast-check";
import { expect, test } from "vitest";
import { start } from "../support/started.ts";
import { directOf, formOf, pollOf, setDataOf } from "./tab.ts";

const REQUESTS = Number(process.env.X0_FUZZ ?? 2_000);
const AT_ONCE = 400;
/** Mail of a session that nobody of these guesses. */
const SECRET = "what only its receiver may see";
const VICTIM = "victim-5d1c0f4e-not-guessed";

interface Shot {
  readonly method: string;
  readonly name: string | undefined;
  readonly type: string;
  readonly body: string | undefined;
}

/** Half of them polls, sends and DELs among a few sessions, so that mail is really there; each with something changed, or not. */
function shots(session: fc.Arbitrary<string>, to: fc.Arbitrary<string>): fc.Arbitrary<Shot> {
  const anything = fc.anything({ maxDepth: 3, withBigInt: false, withMap: false, withSet: false, withDate: false, withTypedArray: false });
  const field = fc.constantFrom(
    ..."msg-type method-id dst-object payload session_src txt-id phonenr-src fire-events switch-screen-id notify-id __proto__ constructor n".split(
      " ",
    ),
  );
  const script = fc.constantFrom("<img src=x onerror=alert(1)>", "net-phone", "set-data", "net-message", "Event1");
  const payload = fc.oneof(
    fc.dictionary(fc.string({ maxLength: 8 }), fc.oneof(fc.string(), fc.boolean(), fc.double(), anything), { maxKeys: 4 }),
    fc.dictionary(field, fc.oneof(script, anything), { maxKeys: 6 }),
  );
  const right = fc.oneof(
    session.map(pollOf),
    session.map((value) => ({ type: "DEL", session_src: value })),
    fc.tuple(session, to, payload).map(([from, to, values]) => formOf(from, to, values)),
    fc.tuple(session, to, payload).map(([from, to, values]) => directOf(from, to, setDataOf(values))),
    fc.tuple(session, to, payload).map(([from, to, values]) => directOf(from, to, { ...setDataOf({ n: 1 }), ...(values as object) })),
    fc.tuple(session, to, payload).map(([from, to, values]) => directOf(from, to, values)),
  );
  const changed = fc.tuple(right, fc.array(fc.tuple(fc.nat(3), fc.nat(30), anything), { maxLength: 2 })).map(([body, changes]) => {
    const copy = structuredClone(body) as Record<string, unknown>;
    for (const [depth, index, value] of changes) {
      let place: Record<string, unknown> = copy;
      for (let level = 0; level < depth; level++) {
        const next = Object.values(place).find((each) => typeof each === "object" && each !== null);
        if (next) place = next as Record<string, unknown>;
      }
      const names = Object.keys(place);
      const name = names[index % Math.max(1, names.length)];
      if (name === undefined) continue;
      if (index % 5 === 0) delete place[name];
      else place[name] = value;
    }
    return copy;
  });
  const text = fc.oneof(
    { weight: 4, arbitrary: right.map((body) => JSON.stringify(body)) },
    { weight: 4, arbitrary: changed.map((body) => JSON.stringify(body)) },
    { weight: 1, arbitrary: anything.map((body) => JSON.stringify(body) ?? "") },
    { weight: 1, arbitrary: fc.string() },
    {
      weight: 2,
      arbitrary: fc.tuple(changed, fc.nat(), fc.string({ maxLength: 3 })).map(([body, at, noise]) => cutAt(JSON.stringify(body), at, noise)),
    },
  );
  return fc.record({
    method: fc.oneof(
      { weight: 20, arbitrary: fc.constant("POST") },
      { weight: 1, arbitrary: fc.constantFrom("OPTIONS", "GET", "PUT", "DELETE", "PATCH") },
    ),
    name: fc.option(fc.oneof(fc.stringMatching(/^[0-9]{10,20}$/), fc.string({ maxLength: 70 }), fc.constantFrom("1", "2", "3")), { nil: undefined }),
    type: fc.oneof(
      { weight: 30, arbitrary: fc.constant("application/json; charset=UTF-8") },
      { weight: 1, arbitrary: fc.constantFrom("text/plain", "application/json; charset=latin1", "multipart/form-data", "") },
    ),
    body: fc.option(text, { nil: undefined, freq: 30 }),
  });
}

function cutAt(text: string, at: number, noise: string): string {
  const place = at % (text.length + 1);
  return `${text.slice(0, place)}${noise}${text.slice(place + (at % 3))}`;
}

const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });

function shoot(url: string, { method, name, type, body }: Shot): Promise<{ status: number; text: string }> {
  const content = method === "GET" ? "" : (body ?? "");
  return new Promise((resolve, reject) => {
    const outgoing = request(
      `${url}/python/MsgHandler.py${name === undefined ? "" : `?a__=${encodeURIComponent(name.toWellFormed())}`}`,
      {
        method,
        agent,
        headers: { ...(type === "" ? {} : { "Content-Type": type }), "User-Agent": "one browser", "Content-Length": Buffer.byteLength(content) },
      },
      (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (part: string) => (text += part));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
      },
    );
    outgoing.on("error", reject);
    outgoing.end(content);
  });
}

/** What a page may be given from a browser: values for an object of it, and who sent them. */
function isHarmless(message: unknown): boolean {
  const { "msg-type": type, "method-id": method, "dst-object": object, payload, session_src: source, ...rest } = message as Record<string, unknown>;
  return (
    type === "net-message" &&
    method === "set-data" &&
    typeof object === "string" &&
    typeof payload === "object" &&
    typeof source === "string" &&
    Object.keys(rest).length === 0
  );
}

for (const x0 of ["demo", "registered"] as const) {
  test.concurrent(`[X56] ${x0}: of random and mutated requests none gets anything but 200 and an object, other people's mail, or a script`, {
    timeout: 60_000 + REQUESTS * 10,
  }, async () => {
    const server = await start("memory", { x0, mailboxMaxMessages: "200" });
    try {
      const victim = x0 === "demo" ? VICTIM : server.token(VICTIM);
      const own = ["a", "b", "c d"].map((name) => (x0 === "demo" ? name : server.token(name.replace(" ", "-"))));
      const guesses = ["a", "", "nobody", "victim", "e30.e30.e30", own[0]?.slice(0, -1) ?? ""];
      await shoot(server.url, {
        method: "POST",
        name: "1",
        type: "application/json",
        body: JSON.stringify(formOf(x0 === "demo" ? "a" : server.token("a"), VICTIM, { secret: SECRET })),
      });
      const others = fc.oneof(fc.constantFrom("a", "b", x0 === "demo" ? "c d" : "c-d"), fc.constantFrom(...guesses));
      const arbitrary = shots(
        fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...own) }, { weight: 1, arbitrary: fc.constantFrom(...guesses) }, fc.string()),
        others,
      );
      const seed = Number(process.env.X0_FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
      console.log(`${x0}: ${REQUESTS / 2} requests, X0_FUZZ_SEED=${seed}`);
      let given = 0;
      let accepted = 0;
      // Drawn in portions: what is drawn and not yet sent is in memory.
      for (let portion = 0; portion * 1_000 < REQUESTS / 2; portion++) {
        const drawn = fc.sample(arbitrary, { numRuns: Math.min(1_000, REQUESTS / 2), seed: seed + portion });
        const shoot1 = async () => {
          for (let shot = drawn.pop(); shot; shot = drawn.pop()) {
            const { status, text } = await shoot(server.url, shot);
            const shown = `${JSON.stringify(shot).slice(0, 500)} → ${status} ${text.slice(0, 500)}`;
            if (status !== 200) throw new Error(shown);
            if (shot.method !== "POST") {
              // Its content type can still be refused, as on every address.
              if (text !== "" && !text.includes('"exception_id":"unsupported-media"')) throw new Error(shown);
              continue;
            }
            const answer = JSON.parse(text);
            if (typeof answer !== "object" || answer === null || text.includes(SECRET)) throw new Error(shown);
            if (answer.status === "ok") accepted += 1;
            for (const message of answer.messages ?? []) {
              given += 1;
              if (!isHarmless(message)) throw new Error(shown);
              if (x0 === "registered" && !["a", "b", "c-d"].includes(message.session_src)) throw new Error(shown);
            }
          }
        };
        await Promise.all(Array.from({ length: AT_ONCE }, shoot1));
      }
      console.log(`${x0}: ${accepted} sends accepted, ${given} messages given`);
      expect(accepted).toBeGreaterThan(REQUESTS / 100);
      expect(given).toBeGreaterThan(REQUESTS / 100);
      const mine = await shoot(server.url, { method: "POST", name: undefined, type: "application/json", body: JSON.stringify(pollOf(victim)) });
      expect(mine.text).toContain(SECRET);
      expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
    } finally {
      await server.stop();
    }
  });
}
