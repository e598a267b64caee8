/**
 * The descriptions are valid, whole, and say the same as the server's routes, its frames and PROTOCOL.md.
 * @module
 */
import { readFileSync } from "node:fs";
import specs from "@asyncapi/specs";
import { Validator } from "@seriousme/openapi-schema-validator";
import { Ajv } from "ajv";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { ANSWERS } from "../../src/answers.ts";
import { FRAMES, parse, SCHEMAS } from "../../src/protocol.ts";
import { at, Described, follow, type Json, refsOf, Schemas } from "../support/described.ts";
import { type Started, start } from "../support/started.ts";

const added = vi.hoisted(() => [] as { readonly method: string | string[]; readonly url: string }[]);
vi.mock("fastify", async (importOriginal) => {
  const original = await importOriginal<typeof import("fastify")>();
  return {
    ...original,
    default(options: Parameters<typeof original.default>[0]) {
      const app = original.default(options);
      app.addHook("onRoute", (route) => void added.push(route));
      return app;
    },
  };
});

const PROTOCOL = readFileSync(new URL("../../PROTOCOL.md", import.meta.url), "utf8");

let started: Started;
let openapi: Json;
let asyncapi: Json;
let described: Described;
beforeAll(async () => {
  started = await start("memory");
  openapi = (await (await fetch(`${started.url}/openapi.json`)).json()) as Json;
  asyncapi = (await (await fetch(`${started.url}/asyncapi.json`)).json()) as Json;
  described = new Described(openapi);
});
afterAll(() => started.stop());

test("[A13] /openapi.json is OpenAPI 3.1 and /asyncapi.json AsyncAPI 3, every reference in them leads somewhere, and nothing in them is unused", async () => {
  expect(await new Validator().validate(structuredClone(openapi))).toMatchObject({ valid: true });
  expect(openapi.openapi).toMatch(/^3\.1\./);
  const ajv = new Ajv({ allErrors: true, strict: false, validateFormats: false });
  expect(ajv.validate({ ...specs.schemasWithoutId["3.0.0"] } as object, asyncapi), ajv.errorsText()).toBe(true);
  for (const document of [openapi, asyncapi]) {
    const references = refsOf(document);
    expect(references.length).toBeGreaterThan(50);
    for (const [, reference] of references) follow(document, { $ref: reference } as unknown as Json);
    const components = at(document, "components");
    for (const [kind, members] of Object.entries(components)) {
      if (kind === "securitySchemes") continue;
      for (const name of Object.keys(members)) {
        expect(
          references.some(([, reference]) => reference === `#/components/${kind}/${name}`),
          `${kind}/${name} is used`,
        ).toBe(true);
      }
    }
  }
  // What AsyncAPI's schema cannot say: an operation's messages are those of its channel.
  for (const [id, operation] of Object.entries(at(asyncapi, "operations"))) {
    const channel = String(at(operation, "channel").$ref);
    const replied = operation.reply ? Object.values(at(operation.reply, "messages")) : [];
    for (const message of [...Object.values(at(operation, "messages")), ...replied])
      expect(String(message.$ref), id).toMatch(new RegExp(`^${channel}/messages/`));
  }
  expect(JSON.stringify(openapi).length).toBeLessThan(50_000);
  expect(JSON.stringify(asyncapi).length).toBeLessThan(40_000);
});

test("[A14] every route of the server is in /openapi.json, and every path of it is a route", () => {
  const routes = added.flatMap(({ method, url }) => [method].flat().map((each) => `${each} ${url.replace(/:(\w+)/g, "{$1}")}`));
  expect(routes.length).toBeGreaterThan(15);
  // HEAD comes with GET; the upgrade to WebSocket is Node's, not a route of Fastify's.
  const expected = [...routes.filter((route) => !route.startsWith("HEAD ")), "GET /v1/ws"];
  expect(
    described
      .operations()
      .map(({ method, path }) => `${method.toUpperCase()} ${path}`)
      .sort(),
  ).toEqual(expected.sort());
});

/** The frames of a set of schemas, by `op`. */
const opsOf = (schemas: object) =>
  Object.values(schemas as Record<string, { properties?: { op?: { const?: string } } }>).flatMap(({ properties }) => properties?.op?.const ?? []);

test("[A15] every op of the protocol is in /asyncapi.json, in its direction, and no other; so is every error with its close code", () => {
  const actions = Object.entries(at(asyncapi, "operations")).filter(([id]) => id.startsWith("webSocket."));
  const withAction = (action: string) => actions.filter(([, operation]) => String(operation.action) === action).map(([id]) => id.split(".")[1]);
  expect(withAction("receive").sort()).toEqual(opsOf(SCHEMAS).sort());
  expect(withAction("send").sort()).toEqual([...new Set([...opsOf(FRAMES), ...opsOf(ANSWERS)])].sort());
  expect(Object.keys(at(asyncapi, "channels", "webSocket", "messages")).sort()).toEqual(actions.map(([id]) => id.split(".")[1]).sort());
  const described = Object.entries(at(asyncapi, "channels", "webSocket", "x-close-codes")).flatMap(([close, errors]) =>
    Object.values(errors).map(({ code }) => `${String(code)} ${close}`),
  );
  const table = [...PROTOCOL.matchAll(/^\| `([a-z-]+)` \| \d{3} \| (4\d{3}) \|/gm)].map(([, code, close]) => `${code} ${close}`);
  expect(described.sort()).toEqual(table.sort());
});

test("[A17] the described schema of a request and the server's own agree on whatever is asked", () => {
  const schemas = new Schemas(openapi, false);
  const frames = new Schemas(asyncapi, false);
  const value = fc.oneof(
    {
      weight: 2,
      arbitrary: fc.constantFrom<unknown>("bob", "a b", "", "é\u0000", 0, 1, -1, 1.5, 2 ** 53, true, null, [], {}, "low", "t".repeat(300)),
    },
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom<unknown>(
      { user: "bob" },
      { users: ["bob"] },
      { users: [] },
      { user: "bob", users: ["bob"] },
      [1, 2],
      [{ seq: 1 }],
      [{ seq: 1, retryAfter: 2 }],
    ),
  );
  const pairs = [
    [schemas, "Message", SCHEMAS.message, { to: { user: "bob" }, type: "t" }],
    [schemas, "Poll", SCHEMAS.poll, { receiver: "r" }],
    [schemas, "Ack", SCHEMAS.ack, { receiver: "r", epoch: "e" }],
    [schemas, "SessionRequest", SCHEMAS.session, { user: "bob" }],
    [frames, "HelloFrame", SCHEMAS.hello, { op: "hello", token: "t" }],
    [frames, "AckFrame", SCHEMAS.ackFrame, { op: "ack", epoch: null }],
    [frames, "AuthFrame", SCHEMAS.authFrame, { op: "auth", token: "t" }],
  ] as const;
  for (const [described, name, schema, good] of pairs) {
    const fields = [...Object.keys(schema.properties), "unheard-of"];
    let accepted = 0;
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...fields), value), { maxLength: 3 }), (changes) => {
        const body = { ...good, ...Object.fromEntries(changes) };
        let isTaken = true;
        try {
          parse(schema, body, name);
        } catch {
          isTaken = false;
        }
        accepted += Number(isTaken);
        expect(described.fault({ $ref: `#/components/schemas/${name}` } as unknown as Json, body) === "", JSON.stringify(body)).toBe(isTaken);
      }),
      { numRuns: 500 },
    );
    expect(accepted, name).toBeGreaterThan(20);
  }
});

test("[A18] PROTOCOL.md names the same addresses, frames and events as the descriptions", () => {
  const addresses = [...PROTOCOL.matchAll(/^\| `([A-Z]+)` \| `([^`]+)` \|/gm)].map(([, method, path]) => `${method} ${path}`);
  // The page is for development mode, and no interface.
  const paths = described.operations().map(({ method, path }) => `${method.toUpperCase()} ${path}`);
  expect(addresses.filter((address) => address !== "GET /").sort()).toEqual(paths.sort());

  const section = (title: string) => PROTOCOL.split(/^##+ /m).find((text) => text.startsWith(title)) ?? "";
  const [, fromClient = "", fromServer = ""] = /\| from the client \|([\s\S]*?)\| from the server \|([\s\S]*?)\n\n/.exec(section("WebSocket")) ?? [];
  const named = (text: string) => [...text.matchAll(/^\| `\{"op": "(\w+)"/gm)].map(([, op]) => op);
  const operations = Object.entries(at(asyncapi, "operations"));
  const ids = (channel: string, action: string) =>
    operations.flatMap(([id, operation]) =>
      id.startsWith(`${channel}.`) && String(operation.action) === action ? id.slice(channel.length + 1) : [],
    );
  expect(named(fromClient).sort()).toEqual(ids("webSocket", "receive").sort());
  expect(named(fromServer).sort()).toEqual(ids("webSocket", "send").sort());

  const events = [...section("Server-sent events").matchAll(/^\| (?:`(\w+)`|a delivery)/gm)].map(([, name = "message"]) => name);
  expect(events.sort()).toEqual(ids("events", "send").sort());
});

test("[H89] the descriptions are open to everybody, and asked for again they cost nothing", async () => {
  for (const path of ["/openapi.json", "/asyncapi.json"]) {
    const answer = await fetch(started.url + path, { headers: { Origin: "https://tools.example" } });
    expect([answer.status, answer.headers.get("content-type"), answer.headers.get("access-control-allow-origin")]).toEqual([
      200,
      "application/json",
      "*",
    ]);
    const again = await fetch(started.url + path, { headers: { "If-None-Match": answer.headers.get("etag") ?? "" } });
    expect([again.status, await again.text()]).toEqual([304, ""]);
  }
});
