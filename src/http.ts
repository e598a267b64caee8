/**
 * The routes. Each validates what comes in, asks the hub, and writes the answer; every error is a problem document (RFC 9457).
 * @module
 */
import { isUtf8 } from "node:buffer";
import { createServer, type IncomingMessage, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import cors from "@fastify/cors";
import fastify, { type FastifyBaseLogger, type FastifyInstance, type FastifyReply, type FastifyRequest, LogController } from "fastify";
import { type Authenticator, requireService } from "./auth.ts";
import { bearerToken, cookieRemovalRoute, cookieRoute, cookieToken } from "./cookie.ts";
import { asHandoverError, HandoverError } from "./errors.ts";
import type { Hub } from "./hub.ts";
import { unquotedKey } from "./message.ts";
import { corsOptions, isAllowedOrigin, isOpenPath } from "./origin.ts";
import { type Identity, type MessageId, PROTOCOL, parse, parseJson, type ReceiverId, SCHEMAS, type SessionId, type UserId } from "./protocol.ts";
import { holdPoll } from "./transports/poll.ts";
import { asksForStream, beginAnswer, STREAM_HEADERS, whenGone } from "./transports/sse/answer.ts";
import { writeRefusal } from "./transports/sse/event.ts";
import { openStream, parseStreamRequest } from "./transports/sse.ts";
import type { WebSocketTransport } from "./transports/websocket.ts";

const MAX_HEADERS = 100;
const EVENTS = "/v1/events";
/** Headers that mean something here, and would mean two things when they came twice. */
const SINGLE_HEADERS = new Set("host content-type content-length authorization origin idempotency-key ttl topic urgency last-event-id".split(" "));
const MAX_SESSION_SECONDS = 31_536_000;

export interface HttpOptions {
  readonly hub: Hub;
  readonly authenticator: Authenticator;
  readonly webSocket: WebSocketTransport;
  /** Whether the store takes mail: the answer of `/readyz`. */
  readonly isReady: () => boolean;
  /** Exact origins whose pages may use this server; empty: same origin only. */
  readonly origins: readonly string[];
  /** Without such a list, whether pages of every origin may use `/v1`: with a bearer token, never with the cookie. */
  readonly isOpen: boolean;
  /** Names that `Host` may have; empty: any. Development mode names loopback only, so that no other site's name can be pointed here. */
  readonly hosts: readonly string[];
  readonly sessionTtlMs: number;
  readonly maxConnections: number;
  /** Addresses and networks whose `X-Forwarded-For` is believed. */
  readonly trustedProxies: readonly string[];
  readonly log: FastifyBaseLogger;
}

declare module "fastify" {
  interface FastifyRequest {
    /** Who is asking; of requests for `/v1/…` only, where it is known before the body is read. */
    identity: Identity;
  }
  interface FastifyContextConfig {
    /** `Host` may be any name, in development mode too. */
    hasAnyHost?: boolean;
  }
}

/** Makes the HTTP server, not yet listening. */
export async function httpServer(options: HttpOptions): Promise<FastifyInstance> {
  const app = fastify({
    loggerInstance: options.log,
    logController: new LogController({ disableRequestLogging: true }),
    // A logger of its own for each request, which nobody would use, is memory for each that is held.
    childLoggerFactory: (parent) => parent,
    bodyLimit: PROTOCOL.maxFrameBytes,
    // The longest name of the protocol.
    routerOptions: { maxParamLength: 128 },
    // Connections that idle between requests are closed at once when the server stops; drain has let go of the others by then.
    forceCloseConnections: "idle",
    return503OnClosing: false,
    trustProxy: options.trustedProxies.length > 0 && [...options.trustedProxies],
    clientErrorHandler: badHttp,
    // An address that cannot be decoded never reaches a route or the error handler.
    frameworkErrors: (thrown, _request, reply: FastifyReply) => void sendProblem(reply, fromFastify(thrown)),
    serverFactory(handler) {
      // Fastify's own options would leave slow requests without a limit; Node's are set here, and checked every second.
      const server = createServer(
        {
          headersTimeout: 10_000,
          requestTimeout: 20_000,
          keepAliveTimeout: 15_000,
          connectionsCheckingInterval: 1_000,
          maxHeaderSize: 8_192,
          // Ours refuses it too, with a problem document.
          requireHostHeader: false,
          joinDuplicateHeaders: false,
          // Any other offer, as of h2c by Java's client, is ignored (RFC 9110, section 7.8). Node before 24.9 cannot, and refuses it.
          shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === "websocket",
        },
        handler,
      );
      // One more than is allowed, so that too many are seen and refused, not silently cut.
      server.maxHeadersCount = MAX_HEADERS + 1;
      server.maxConnections = options.maxConnections;
      server.on("upgrade", (request, socket, head) => upgrade(options, request, socket, head));
      return server;
    },
  });

  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "buffer" }, (_request, body, done) => {
    try {
      // Many clients say so of every request, those without a body too.
      done(null, body.length === 0 ? undefined : parseBody(body as Buffer));
    } catch (thrown) {
      done(asHandoverError(thrown));
    }
  });
  const crossOrigin = corsOptions(options.origins, options.isOpen);
  if (crossOrigin) await app.register(cors, crossOrigin);
  // With `done`, as the next one: a promise for each request would be one more thing to make.
  app.addHook("onRequest", (request, reply, done) => {
    checkRequest(request.routeOptions.config.hasAnyHost ? [] : hostsFor(options, request.url), request.raw);
    if (options.hub.isDraining) reply.header("Connection", "close");
    reply.header("X-Content-Type-Options", "nosniff").header("Cache-Control", "no-store");
    done();
  });
  app.setErrorHandler((thrown, request, reply) => {
    const error = fromFastify(thrown);
    // Fastify would cut the connection under a client that is still sending, which then sees a reset instead of the answer.
    if (error.code === "too-large") reply.removeHeader("connection");
    if (error.status === 500) app.log.error({ err: error.cause ?? error }, "a request failed inside the server");
    if (error.retryable && request.routeOptions.url === EVENTS && asksForStream(request.headers)) {
      return reply.code(200).headers(STREAM_HEADERS).send(writeRefusal(error));
    }
    return sendProblem(reply, error);
  });
  app.setNotFoundHandler((request, reply) =>
    sendProblem(
      reply,
      new HandoverError(
        "unknown",
        `${request.method} ${request.url.split("?", 1)[0]?.slice(0, 200)} is not an address of this server; PROTOCOL.md lists them.`,
      ),
    ),
  );

  healthRoutes(app, options);
  cookieRemovalRoute(app, options.origins);
  await app.register((v1, _options, done) => {
    v1.decorateRequest("identity");
    v1.addHook("onRequest", (request, _reply, done) => {
      const isKnown = (identity: Identity) => {
        request.identity = identity;
        done();
      };
      const identity = identify(options, request);
      if (identity instanceof Promise) identity.then(isKnown, done);
      else isKnown(identity);
    });
    messageRoutes(v1, options);
    receivingRoutes(v1, options);
    sessionRoutes(v1, options);
    cookieRoute(v1, options.origins);
    done();
  });
  return app;
}

function healthRoutes(app: FastifyInstance, { hub, isReady }: HttpOptions): void {
  app.get("/livez", async () => ({ status: "live" }));
  app.get("/readyz", async () => {
    if (hub.isDraining) throw hub.draining();
    if (hub.isStoreFull) throw new HandoverError("store-unavailable", "The disk of the store is full: mail can be acknowledged, not sent.");
    if (!isReady()) throw new HandoverError("store-unavailable", "The store does not take messages; the log says why.");
    return { status: "ready" };
  });
}

function messageRoutes(app: FastifyInstance, { hub }: HttpOptions): void {
  app.post("/v1/messages", async (request, reply) => {
    const { identity } = request;
    if (Array.isArray(request.body)) {
      const messages = parse(SCHEMAS.messages, request.body, "The array of messages");
      const results = await hub.sendAll(identity, withHeaders(request, messages));
      const refusals = results.filter((result) => result instanceof HandoverError);
      // Those that were good are refused for the others' sake only.
      const refused = refusals.find(({ code }) => code !== "invalid") ?? refusals[0];
      if (!refused) return sendJson(reply.code(201), results);
      // All or none: the first refusal is the answer's, and the results say which message it was.
      return sendProblem(reply, refused, { results: results.map((result) => (result instanceof HandoverError ? result.problem() : result)) });
    }
    const [message] = withHeaders(request, [request.body]);
    const result = await hub.send(identity, message);
    if (result instanceof HandoverError) throw result;
    return sendJson(reply.code(201).header("Location", `/v1/messages/${result.id}`), result);
  });

  app.get<{ Params: { id: string } }>("/v1/messages/:id", async (request, reply) => {
    const id = request.params.id as MessageId;
    const state = await hub.state(request.identity, id);
    const recipients = state.recipients.map(({ user, state: word, endedAtMs }) => ({
      user,
      state: word,
      ...(endedAtMs === undefined ? {} : { endedAt: new Date(endedAtMs).toISOString() }),
    }));
    return sendJson(reply, { id, recipients });
  });

  app.delete<{ Params: { id: string } }>("/v1/messages/:id", async (request, reply) => {
    const evicted = await hub.takeBack(request.identity, request.params.id as MessageId);
    return sendJson(reply, { evicted });
  });
}

function receivingRoutes(app: FastifyInstance, { hub }: HttpOptions): void {
  app.post("/v1/poll", async (request, reply) => {
    const identity = hub.requireReceiver(request.identity);
    const poll = holdPoll(hub, identity, parse(SCHEMAS.poll, request.body, "The poll"));
    reply.raw.once("close", poll.abandon);
    const answer = await poll.answer;
    if (answer !== undefined) return reply.type("application/json; charset=utf-8").send(answer);
    if (hub.isDraining) writeRetryAfter(reply, hub.draining());
    return reply.code(204).send();
  });

  // HEAD would take the place of the receiver's stream, for nothing.
  app.get(EVENTS, { exposeHeadRoute: false }, async (request, reply) => {
    const identity = hub.requireReceiver(request.identity);
    const stream = openStream(hub, identity, parseStreamRequest(request.query, request.headers["last-event-id"]), () => {
      reply.hijack();
      return beginAnswer(reply.raw, reply.getHeaders());
    });
    whenGone(reply.raw, request.raw, stream.abandon);
    await stream.opened;
  });

  app.post("/v1/ack", async (request, reply) => {
    const identity = hub.requireReceiver(request.identity);
    const { receiver, epoch, cursor, ...forms } = parse(SCHEMAS.ack, request.body, "The acknowledgement");
    const acked = await hub.acknowledge(identity, { ...forms, receiver: receiver as ReceiverId, epoch: epoch ?? undefined, cursor: cursor ?? 0 });
    return sendJson(reply, { acked });
  });
}

function sessionRoutes(app: FastifyInstance, { hub, authenticator, sessionTtlMs }: HttpOptions): void {
  app.post("/v1/sessions", async (request, reply) => {
    requireService(request.identity);
    const { user, ttl, scope } = parse(SCHEMAS.session, request.body, "The session");
    if (ttl !== undefined && ttl > MAX_SESSION_SECONDS) {
      throw new HandoverError("invalid", `A session's token lives at most ${MAX_SESSION_SECONDS} seconds; ask for less.`);
    }
    const session = await authenticator.createSession(user as UserId, ttl ?? Math.ceil(sessionTtlMs / 1000), scope);
    // Known before the backend hears of it: it may address mail to it at once.
    await hub.sessions.admit({ user: user as UserId, session: session.session, expiresAtMs: Date.parse(session.expires) });
    return sendJson(reply.code(201), session);
  });

  app.delete("/v1/sessions/:id", async (request, reply) => {
    requireService(request.identity);
    await hub.endSession(parse(SCHEMAS.sessionPath, request.params, "The address").id as SessionId);
    return reply.code(204).send();
  });
}

/** Who is asking: by `Authorization`, or without one by the cookie. @throws HandoverError bad-request | token-invalid | token-expired | timeout | store-unavailable */
function identify({ hub, origins }: HttpOptions, { headers }: FastifyRequest): Identity | Promise<Identity> {
  if (headers.authorization !== undefined) return hub.authenticate(bearerToken(headers.authorization));
  return identifyByCookie(hub, cookieToken(origins, headers));
}

async function identifyByCookie(hub: Hub, token: string | undefined): Promise<Identity> {
  const identity = await hub.authenticate(token);
  if (identity.kind === "service") throw new HandoverError("token-invalid", "A service key is not for cookies; a user's token is.");
  return identity;
}

/** Headers of RFC 8030 and of the Idempotency-Key draft stand for fields of the body; both and different is refused. */
function withHeaders(request: FastifyRequest, messages: readonly unknown[]): unknown[] {
  const fields: Record<string, unknown> = {};
  const header = (name: string) => {
    const value = request.headers[name];
    return typeof value === "string" ? value : undefined;
  };
  const key = header("idempotency-key");
  if (key !== undefined) fields.idempotencyKey = unquotedKey(key);
  const ttl = header("ttl");
  if (ttl !== undefined) {
    if (!/^\d+$/.test(ttl)) throw new HandoverError("bad-request", "The header TTL is a whole number of seconds.");
    // More than the field takes means as long as this server grants.
    fields.ttl = Math.min(Number(ttl), 2_147_483_647);
  }
  const topic = header("topic");
  if (topic !== undefined) fields.topic = topic;
  const urgency = header("urgency");
  if (urgency !== undefined) fields.urgency = urgency;
  if (fields.idempotencyKey !== undefined && messages.length > 1) {
    throw new HandoverError("bad-request", "With an array, each message has its own field idempotencyKey; the header would name them all the same.");
  }
  return messages.map((message) => {
    if (typeof message !== "object" || message === null) return message;
    for (const [field, value] of Object.entries(fields)) {
      const written = (message as Record<string, unknown>)[field];
      const inBody = field === "idempotencyKey" && typeof written === "string" ? unquotedKey(written) : written;
      if (inBody !== undefined && inBody !== value) {
        throw new HandoverError("bad-request", `The header and the field say different things for ${field}; send one of them.`);
      }
    }
    return { ...message, ...fields };
  });
}

/** @throws HandoverError bad-request */
function parseBody(body: Buffer): unknown {
  if (!isUtf8(body)) throw new HandoverError("bad-request", "The body is not UTF-8.");
  return parseJson(body.toString(), "The body");
}

/** The names that `Host` may have for this address. */
function hostsFor({ hosts, isOpen }: HttpOptions, url: string | undefined): readonly string[] {
  return isOpen && isOpenPath(url) ? [] : hosts;
}

/** What every request must be, upgrades included. @throws HandoverError bad-request | headers-too-large | unsupported-media | forbidden */
function checkRequest(hosts: readonly string[], request: IncomingMessage): void {
  const { rawHeaders, headers } = request;
  if (rawHeaders.length / 2 > MAX_HEADERS) throw new HandoverError("headers-too-large", `At most ${MAX_HEADERS} headers are accepted.`);
  // As a rule there are as many names as headers, and none can have come twice.
  if (Object.keys(headers).length < rawHeaders.length / 2) requireSingle(rawHeaders);
  // An absolute target would name another host than Host does (RFC 9112, section 3.2.2); no client of a server, as opposed to a proxy, sends one.
  if (!request.url?.startsWith("/") || request.httpVersionMajor !== 1) {
    throw new HandoverError("bad-request", "A request is HTTP/1.1 and names a path, as in GET /livez HTTP/1.1.");
  }
  // RFC 9112, section 3.2.
  if (headers.host === undefined || !/^[A-Za-z0-9._~-]+(:\d{1,5})?$|^\[[0-9A-Fa-f:.]+\](:\d{1,5})?$/.test(headers.host ?? "")) {
    throw new HandoverError("bad-request", "A request has exactly one Host header, with a name or an address.");
  }
  const hostName = (headers.host ?? "").replace(/:\d+$/, "").toLowerCase();
  if (hosts.length > 0 && !hosts.includes(hostName)) {
    throw new HandoverError("forbidden", `This server is in development mode and answers to ${hosts.join(", ")} only.`);
  }
  const charset = /;\s*charset\s*=\s*"?([^\s";]+)/i.exec(headers["content-type"] ?? "")?.[1];
  if (charset !== undefined && charset.toLowerCase() !== "utf-8") throw new HandoverError("unsupported-media", "Send the body as UTF-8.");
  const encoding = headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity")
    throw new HandoverError("unsupported-media", "Bodies are not decompressed; send plain JSON.");
}

/** @throws HandoverError bad-request */
function requireSingle(rawHeaders: readonly string[]): void {
  const seen = new Set<string>();
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]?.toLowerCase() ?? "";
    if (SINGLE_HEADERS.has(name) && seen.has(name)) throw new HandoverError("bad-request", `The header ${name} comes once; which of them is meant?`);
    seen.add(name);
  }
}

function upgrade(options: HttpOptions, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  // Until ws has taken over, nobody listens: a peer that goes away now must not end the process.
  const onError = () => socket.destroy();
  socket.on("error", onError);
  try {
    checkRequest(hostsFor(options, request.url), request);
    if (request.url?.split("?", 1)[0] !== "/v1/ws") throw new HandoverError("unknown", "WebSocket lives at /v1/ws.");
    const { origin, host } = request.headers;
    // Without `Origin` it is not a page's; it needs a token like any other.
    if (origin !== undefined && !options.isOpen && !isAllowedOrigin(options.origins, origin, host)) {
      throw new HandoverError("forbidden", "Pages of this origin may not connect here; HANDOVER_ORIGINS lists those that may.");
    }
    if (options.hub.isDraining) throw options.hub.draining();
    const protocols = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((name) => name.trim());
    if (!protocols.includes(PROTOCOL.subprotocol)) {
      throw new HandoverError("bad-request", `The WebSocket subprotocol is ${PROTOCOL.subprotocol}; the request must offer it.`);
    }
    socket.off("error", onError);
    options.webSocket.upgrade(request, socket, head);
  } catch (thrown) {
    endSocket(socket, asHandoverError(thrown));
  }
}

/** HTTP that is not HTTP: answered with a problem document and closed. */
function badHttp(this: FastifyInstance, error: Error & { code?: string }, socket: Duplex): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
  } else if (error.code === "HPE_HEADER_OVERFLOW") {
    endSocket(socket, new HandoverError("headers-too-large", "The headers are larger than 8 KiB."));
  } else if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") {
    endSocket(socket, new HandoverError("timeout", "The request did not arrive in time: headers within 10 seconds, all of it within 20."));
  } else {
    endSocket(socket, new HandoverError("bad-request", "This is not an HTTP/1.1 request."));
  }
}

function endSocket(socket: Duplex, error: HandoverError): void {
  const body = JSON.stringify(error.problem());
  const status = error.code === "timeout" ? 408 : error.status;
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: application/problem+json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    () => socket.destroy(),
  );
}

/** Fastify's own refusals in our words. */
export function fromFastify(thrown: unknown): HandoverError {
  const code = thrown instanceof Error && "code" in thrown ? thrown.code : undefined;
  switch (code) {
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return new HandoverError("too-large", `A request body has at most ${PROTOCOL.maxFrameBytes} bytes.`, { cause: thrown });
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return new HandoverError("unsupported-media", "Send the body as application/json.", { cause: thrown });
    case "FST_ERR_CTP_EMPTY_JSON_BODY":
    case "FST_ERR_CTP_INVALID_JSON_BODY":
    case "FST_ERR_CTP_INVALID_CONTENT_LENGTH":
    case "FST_ERR_BAD_URL":
    case "FST_ERR_MAX_PARAM_LENGTH":
      return new HandoverError("bad-request", "The request is not what HTTP or JSON allows.", { cause: thrown });
    case "ECONNRESET":
      return new HandoverError("bad-request", "The request ended in its middle.", { cause: thrown });
    default:
      return asHandoverError(thrown);
  }
}

function writeRetryAfter(reply: FastifyReply, { retryAfterMs }: HandoverError): void {
  if (retryAfterMs !== undefined) reply.header("Retry-After", Math.ceil(retryAfterMs / 1000));
}

function sendProblem(reply: FastifyReply, error: HandoverError, more: object = {}): FastifyReply {
  reply.code(error.status).type("application/problem+json");
  if (error.status === 401) reply.header("WWW-Authenticate", "Bearer");
  writeRetryAfter(reply, error);
  // draft-ietf-httpapi-ratelimit-headers: nothing left, and for how long.
  if (error.code === "rate-limited") reply.header("RateLimit", `"default";r=0;t=${Math.ceil((error.retryAfterMs ?? 0) / 1000)}`);
  return reply.send(JSON.stringify({ ...error.problem(), ...more }));
}

function sendJson(reply: FastifyReply, value: unknown): FastifyReply {
  return reply.type("application/json; charset=utf-8").send(JSON.stringify(value));
}
