/**
 * The HTTP side of x0's wire: one address, 200 for whatever is asked.
 * @module
 */
import type { Socket } from "node:net";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import Type from "typebox";
import { HandoverError } from "../../errors.ts";
import { parse } from "../../protocol.ts";
import type { Exchange, X0Post, X0Transport } from "../x0.ts";
import { hashOf } from "./event.ts";
import type { Connection } from "./processed.ts";

const PATH = "/python/MsgHandler.py";
const SESSION_PATH = "/x0/session";
const METHODS = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"];
/** As x0's own server has them. Every page may ask: who may do what is in the session value, there are no cookies. */
const CORS_HEADERS = { "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*" };
const CONTENT_TYPE = "application/json; charset=UTF-8";
const MAX_NAME = 64;

const pageRequest = Type.Object({ session_src: Type.String({ minLength: 1, maxLength: 8_192, description: "session" }) });

/** What is known of each connection, as long as there is something that knows the connection. */
const connections = new WeakMap<Socket, Connection>();

/**
 * Adds the address to a server. To be registered as a plugin of its own, so that what it does to headers and errors stays with it.
 * @param readError  what the HTTP server makes of its own refusals
 */
export function x0Route(app: FastifyInstance, x0: X0Transport, readError: (thrown: unknown) => HandoverError): void {
  app.addHook("onRequest", async (_request, reply) => {
    reply.headers(CORS_HEADERS);
  });
  app.addHook("onSend", async (_request, reply) => {
    // What was asked before the server was told to stop is answered with it too: the next request goes to the next server.
    if (x0.isDraining) reply.header("Connection", "close");
  });
  app.setErrorHandler((thrown, _request, reply) => {
    const error = readError(thrown);
    reply.headers(CORS_HEADERS);
    // As for the other routes: Fastify would cut the connection under a client that is still sending.
    if (error.code === "too-large") reply.removeHeader("connection");
    return respond(x0.refuse(error), reply);
  });
  // Neither the allow-list of the other routes nor their names of this machine hold here.
  const config = { cors: false, hasAnyHost: true };
  app.post(PATH, { config }, (request, reply) => respond(x0.post({ ...postOf(request), body: request.body }), reply));
  app.route({
    method: METHODS,
    url: PATH,
    config,
    exposeHeadRoute: false,
    // Half of all requests are preflights, so they get by with little; and the rest x0's client never sends. Whatever body they have is not read.
    onRequest: async (request, reply) => {
      if (request.method === "OPTIONS") x0.preflight(postOf(request));
      return empty(reply);
    },
    handler: (_request, reply) => empty(reply),
  });
}

/**
 * Adds what the script in x0's pages asks first (src/client/x0): whether its page may use `/v1` at all, and with which token. To be registered as a
 * plugin of its own too.
 * @param mayUse  whether pages of this origin may use `/v1`, asked for under this `Host`
 */
export function x0SessionRoute(app: FastifyInstance, x0: X0Transport, mayUse: (origin: string, host: string | undefined) => boolean): void {
  const config = { cors: false, hasAnyHost: true };
  app.addHook("onRequest", async (_request, reply) => {
    reply.headers(CORS_HEADERS);
  });
  app.options(SESSION_PATH, { config }, (_request, reply) =>
    reply.code(204).headers({ "Access-Control-Allow-Methods": "POST", "Access-Control-Max-Age": "7200" }).send(),
  );
  app.post(SESSION_PATH, { config }, async ({ headers: { origin, host }, body }, reply) => {
    if (origin !== undefined && !mayUse(origin, host))
      throw new HandoverError("forbidden", `Pages of ${origin.slice(0, 200)} may not use /v1 here. Name their origin in HANDOVER_ORIGINS.`);
    const made = await x0.pageToken(parse(pageRequest, body, "The request").session_src);
    return made ? reply.code(201).send(made) : reply.code(204).send();
  });
}

function empty(reply: FastifyReply): FastifyReply {
  return reply.code(200).type(CONTENT_TYPE).header("Content-Length", "0").send();
}

function postOf(request: FastifyRequest): Omit<X0Post, "body"> {
  const name = (request.query as Record<string, unknown>).a__;
  return {
    request: typeof name === "string" && name !== "" && name.length <= MAX_NAME ? name : undefined,
    // A hash, since many are remembered and a User-Agent may be long.
    browser: hashOf(request.ip, request.headers["user-agent"] ?? ""),
    connection: connectionOf(request.raw.socket),
  };
}

function connectionOf(socket: Socket): Connection {
  const known = connections.get(socket);
  if (known) return known;
  const connection: Connection = { isOpen: true, wasReset: false, carried: new WeakSet() };
  connections.set(socket, connection);
  socket.once("close", (hadError) => {
    connection.isOpen = false;
    connection.wasReset = hadError;
  });
  return connection;
}

async function respond(exchange: Exchange, reply: FastifyReply): Promise<FastifyReply> {
  reply.raw.once("finish", exchange.written);
  reply.raw.once("close", exchange.abandon);
  return reply
    .code(200)
    .type(CONTENT_TYPE)
    .send(await exchange.answer);
}
