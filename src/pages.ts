/**
 * The files that the server serves: the SDK at `/handover.js` and the descriptions always; in development mode the demonstration page as well, with the
 * little backend that it needs. A real application has that backend itself: it knows its users, and makes their sessions.
 * @module
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import Type from "typebox";
import type { Authenticator } from "./auth.ts";
import { asyncapi } from "./describe/asyncapi.ts";
import type { Limits } from "./describe/document.ts";
import { openapi } from "./describe/openapi.ts";
import { HandoverError } from "./errors.ts";
import type { Hub } from "./hub.ts";
import { parse, type UserId } from "./protocol.ts";

/** The package's own folder: this file is in `src/` or in `dist/`. */
const PACKAGE = new URL("../", import.meta.url);

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  svg: "image/svg+xml",
};

const PAGE_HEADERS = {
  // Nothing inline, nothing from elsewhere: what a message brings can be text only.
  "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
  "Referrer-Policy": "no-referrer",
};

const DEMO_USERS = ["user1", "user2", "user3"] as const;
const demoRequest = Type.Object({ user: Type.Optional(Type.Union(DEMO_USERS.map((user) => Type.Literal(user)))) }, { additionalProperties: false });

/** Serves the SDK, and its part that only pages need. To whatever page: x0's ask under any name of the server's. */
export function sdkRoute(app: FastifyInstance): void {
  for (const file of ["handover.js", "handover-page.js"])
    serve(app, `/${file}`, new URL(`dist/client/${file}`, PACKAGE), { "Access-Control-Allow-Origin": "*" }, file !== "handover.js");
}

/** Serves the script that x0's pages add with one line: to whatever page, under whatever name it is asked for. */
export function x0ScriptRoute(app: FastifyInstance): void {
  serve(app, "/x0/handover.js", new URL("dist/client/x0.js", PACKAGE), { "Access-Control-Allow-Origin": "*" }, true);
}

/** Serves what describes the server to programs: to anybody, since it says nothing that PROTOCOL.md does not. */
export function descriptionRoutes(app: FastifyInstance, limits: Limits): void {
  for (const [path, document] of [
    ["/openapi.json", openapi(limits)],
    ["/asyncapi.json", asyncapi(limits)],
  ] as const) {
    const content = Buffer.from(JSON.stringify(document));
    app.get(path, async (request, reply) => sendTagged(request, reply.header("Access-Control-Allow-Origin", "*"), "application/json", content));
  }
}

/** Serves Example 10 and its backend: development mode only, since it makes a session for whoever asks. */
export function demoRoutes(app: FastifyInstance, hub: Hub, authenticator: Authenticator, sessionTtlMs: number): void {
  const folder = new URL("examples/example10/", PACKAGE);
  serve(app, "/", new URL("index.html", folder), PAGE_HEADERS);
  // x0's address form: /python/Index.py?appid=example10
  serve(app, "/python/Index.py", new URL("index.html", folder), PAGE_HEADERS);
  for (const file of ["page.css", "page.js", "icon.svg"]) serve(app, `/example10/${file}`, new URL(file, folder), PAGE_HEADERS);

  const givenAtMs = new Map<string, number>();
  app.post("/demo/session", async (request, reply) => {
    const asked = parse(demoRequest, request.body, "The request").user;
    const user = (asked ?? pickUser(hub, givenAtMs)) as UserId;
    givenAtMs.set(user, performance.now());
    const { token, expires } = await authenticator.createSession(user, Math.ceil(sessionTtlMs / 1000));
    return reply.code(201).send({ user, token, expires, users: DEMO_USERS });
  });
}

/**
 * The first demo user whom nobody is at the moment, so that two tabs are two users, each with the other as the first that it can send to; and who
 * closes a tab and opens one is the same again, and finds its mail. Where all are somebody, the one who became it longest ago.
 */
function pickUser(hub: Hub, givenAtMs: ReadonlyMap<string, number>): string {
  const givenAt = (user: string) => givenAtMs.get(user) ?? Number.NEGATIVE_INFINITY;
  // A page that is just loading has its user, but is not connected yet.
  const isTaken = (user: string) => hub.isLive(user as UserId) || performance.now() - givenAt(user) < 3_000;
  const oldest = [...DEMO_USERS].sort((one, other) => givenAt(one) - givenAt(other))[0];
  return DEMO_USERS.find((user) => !isTaken(user)) ?? oldest ?? DEMO_USERS[0];
}

function serve(app: FastifyInstance, path: string, file: URL, headers: Readonly<Record<string, string>>, hasAnyHost = false): void {
  const type = CONTENT_TYPES[file.pathname.split(".").at(-1) ?? ""] ?? "application/octet-stream";
  // Who may load these has nothing to do with who may use the server: the SDK is for every page, the demonstration for its own.
  app.get(path, { config: { cors: false, hasAnyHost } }, async (request, reply) => {
    let content: Buffer;
    try {
      content = await readFile(file);
    } catch (cause) {
      throw new HandoverError("unknown", `${path} is not built; run \`npm run build\`.`, { cause });
    }
    return sendTagged(request, reply.headers(headers), type, content);
  });
}

/** Sends what a client may keep, as long as it asks whether it is still the same. */
function sendTagged(request: FastifyRequest, reply: FastifyReply, type: string, content: Buffer): FastifyReply {
  const tag = `"${createHash("sha256").update(content).digest("base64url").slice(0, 22)}"`;
  reply.header("ETag", tag).header("Cache-Control", "no-cache");
  if (request.headers["if-none-match"] === tag) return reply.code(304).send();
  return reply.type(type).send(content);
}
