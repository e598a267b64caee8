/**
 * What there is over HTTP, an entry per route: the text of /openapi.json that is not in the schemas.
 * @module
 */
import type { ErrorCode } from "../errors.ts";
import { FRAMES, PROTOCOL, SCHEMAS } from "../protocol.ts";
import type { Name } from "./document.ts";
import { EXAMPLES } from "./example.ts";

export interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly required?: boolean;
  readonly description?: string;
  readonly schema: unknown;
}

export interface Success {
  readonly description: string;
  /** Several: one of them. */
  readonly body?: Name | readonly Name[];
  /** `application/json` unless said. */
  readonly type?: string;
  readonly examples?: Readonly<Record<string, unknown>>;
  /** By name: what it says. */
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Operation {
  readonly method: "get" | "post" | "delete";
  readonly path: string;
  readonly id: string;
  readonly tag: "sending" | "receiving" | "identity" | "operation";
  readonly summary: string;
  readonly description?: string;
  /** Who may ask; nothing: anybody. */
  readonly asks?: readonly ("token" | "serviceKey" | "cookie")[];
  readonly parameters?: readonly Parameter[];
  readonly body?: { readonly schema: Name | readonly Name[]; readonly examples: Readonly<Record<string, unknown>> };
  readonly answers: Readonly<Record<number, Success>>;
  /** What may go wrong here, beside what may go wrong with any HTTP request. */
  readonly problems: readonly ErrorCode[];
}

/** Whoever asks with a token is looked up: with the identity provider, and in the store. */
const IDENTITY = [
  "bad-request",
  "token-invalid",
  "token-expired",
  "timeout",
  "store-unavailable",
  "store-full",
] as const satisfies readonly ErrorCode[];
const BODY = ["too-large", "unsupported-media"] as const satisfies readonly ErrorCode[];

const { idempotencyKey, topic, urgency } = SCHEMAS.message.properties;
const header = (name: string, description: string, schema: unknown): Parameter => ({ name, in: "header", description, schema });
const SEND_HEADERS = [
  header(
    "Idempotency-Key",
    "For 24 hours, per source: the same key with the same content gets the first answer again. With an array it is a field of each message.",
    idempotencyKey,
  ),
  header("TTL", "Seconds; as the field ttl.", { type: "integer", minimum: 0 }),
  header("Topic", "As the field topic.", topic),
  header("Urgency", "As the field urgency.", urgency),
];
const ID: Parameter = {
  name: "id",
  in: "path",
  required: true,
  description: "the message's id",
  schema: { type: "string", minLength: 1, maxLength: 128 },
};
/** As SCHEMAS.events, which reads the absence of an epoch from JSON too. */
const STREAM_QUERY = { ...SCHEMAS.events.properties, epoch: FRAMES.ready.properties.epoch };
const SUBPROTOCOL: Parameter = {
  name: "Sec-WebSocket-Protocol",
  in: "header",
  required: true,
  description: "names, among others, the subprotocol",
  schema: { type: "string", pattern: PROTOCOL.subprotocol.replaceAll(".", "\\.") },
};

const cached: Readonly<Record<number, Success>> = { 304: { description: "As before (`If-None-Match`)." } };

export const OPERATIONS: readonly Operation[] = [
  {
    method: "post",
    path: "/v1/messages",
    id: "send",
    tag: "sending",
    summary: "Send a message, or several",
    description: `201 means that it is on disk. An array of up to ${PROTOCOL.maxMessagesPerBatch} messages is one commit, all or none.`,
    asks: ["token", "serviceKey", "cookie"],
    parameters: SEND_HEADERS,
    body: {
      schema: ["Message", "Messages"],
      examples: { one: EXAMPLES.message, everything: EXAMPLES.messageWithEverything, several: EXAMPLES.messages },
    },
    answers: {
      201: {
        description: "Stored, or stored before under the same idempotency key.",
        body: ["Accepted", "AcceptedList"],
        examples: { one: EXAMPLES.accepted, several: [EXAMPLES.accepted, EXAMPLES.accepted] },
        headers: { Location: "of one message: where its state is" },
      },
    },
    problems: [...IDENTITY, ...BODY, "forbidden", "unknown", "in-progress", "key-reuse", "invalid", "unsupported", "draining", "mailbox-full"],
  },
  {
    method: "get",
    path: "/v1/messages/{id}",
    id: "state",
    tag: "sending",
    summary: "What became of a message",
    description: "For its sender and for services, until 24 hours after its last ending.",
    asks: ["token", "serviceKey", "cookie"],
    parameters: [ID],
    answers: { 200: { description: "Its state for each recipient.", body: "MessageState", examples: { one: EXAMPLES.messageState } } },
    problems: [...IDENTITY, "unknown", "unsupported"],
  },
  {
    method: "delete",
    path: "/v1/messages/{id}",
    id: "takeBack",
    tag: "sending",
    summary: "Take a message back from everyone who has not settled it",
    asks: ["token", "serviceKey", "cookie"],
    parameters: [ID],
    answers: { 200: { description: "For how many recipients.", body: "TakenBack", examples: { one: EXAMPLES.takenBack } } },
    problems: [...IDENTITY, "unknown", "unsupported"],
  },
  {
    method: "post",
    path: "/v1/poll",
    id: "poll",
    tag: "receiving",
    summary: "Long polling: acknowledge, then get what waits, or wait for it",
    asks: ["token", "cookie"],
    body: { schema: "Poll", examples: { newReceiver: EXAMPLES.newPoll, next: EXAMPLES.poll } },
    answers: {
      200: { description: "Deliveries, gaps or endings; or where to go on.", body: "Polled", examples: { one: EXAMPLES.polled } },
      204: {
        description: "Nothing came, a newer poll of this receiver took over, or the server is about to stop.",
        headers: { "Retry-After": "seconds; only when the server is about to stop" },
      },
    },
    problems: [...IDENTITY, ...BODY, "forbidden", "rate-limited", "draining"],
  },
  {
    method: "post",
    path: "/v1/ack",
    id: "acknowledge",
    tag: "receiving",
    summary: "Acknowledge, beside a poll or a stream, or from a page that is being left",
    asks: ["token", "cookie"],
    body: { schema: "Ack", examples: { one: EXAMPLES.ack } },
    answers: { 200: { description: "On disk.", body: "Acked", examples: { one: EXAMPLES.acked } } },
    problems: [...IDENTITY, ...BODY, "forbidden", "rate-limited"],
  },
  {
    method: "get",
    path: "/v1/events",
    id: "events",
    tag: "receiving",
    summary: "Server-sent events: an answer that does not end, with one event per delivery",
    description: "Acknowledge with POST /v1/ack, under the receiver and epoch of the event `ready`. /asyncapi.json says what the events are.",
    asks: ["token", "cookie"],
    parameters: [
      ...Object.entries(STREAM_QUERY).map(([name, schema]): Parameter => ({ name, in: "query", schema })),
      header("Last-Event-ID", "The `id` of the last event that came: where to go on. It wins over epoch and cursor, and acknowledges nothing.", {
        type: "string",
        pattern: "^[A-Za-z0-9_-]{1,64}:[0-9]{1,15}$",
      }),
    ],
    answers: {
      200: {
        description:
          "Events follow. To a client whose Accept names text/event-stream, a refusal that is retryable is one too: the event `problem` alone.",
        type: "text/event-stream",
      },
    },
    problems: [...IDENTITY, "forbidden", "rate-limited", "draining"],
  },
  {
    method: "get",
    path: "/v1/ws",
    id: "webSocket",
    tag: "receiving",
    summary: "WebSocket: send and receive on one connection",
    description: "The token is in the first frame. /asyncapi.json says what goes over it.",
    parameters: [SUBPROTOCOL],
    answers: { 101: { description: "Frames follow." } },
    problems: ["bad-request", "forbidden", "draining"],
  },
  {
    method: "post",
    path: "/v1/sessions",
    id: "createSession",
    tag: "identity",
    summary: "Make a session and its token, for a user whom the backend names",
    asks: ["serviceKey"],
    body: { schema: "SessionRequest", examples: { one: EXAMPLES.sessionRequest } },
    answers: { 201: { description: "A new session.", body: "Session", examples: { one: EXAMPLES.session } } },
    problems: [...IDENTITY, ...BODY, "forbidden", "invalid", "unsupported"],
  },
  {
    method: "delete",
    path: "/v1/sessions/{id}",
    id: "endSession",
    tag: "identity",
    summary: "End a session for ever",
    description:
      "Its connections are closed, its tokens refused, and mail addressed to it ends as evicted. Whether it was known or not; repeats are harmless.",
    asks: ["serviceKey"],
    parameters: [{ ...ID, description: "the session", schema: SCHEMAS.sessionPath.properties.id }],
    answers: { 204: { description: "It has ended, durably." } },
    problems: [...IDENTITY, "forbidden"],
  },
  {
    method: "post",
    path: "/v1/cookie",
    id: "keepToken",
    tag: "identity",
    summary: "Keep the request's bearer token in the browser, for EventSource and sendBeacon",
    asks: ["token"],
    answers: { 204: { description: "Kept until the token ends.", headers: { "Set-Cookie": "the cookie `handover`, HttpOnly, for /v1" } } },
    problems: [...IDENTITY, "forbidden", "invalid"],
  },
  {
    method: "delete",
    path: "/v1/cookie",
    id: "forgetToken",
    tag: "identity",
    summary: "Remove the cookie",
    answers: { 204: { description: "Removed.", headers: { "Set-Cookie": "the cookie `handover`, empty and over" } } },
    problems: ["forbidden", "invalid"],
  },
  {
    method: "get",
    path: "/livez",
    id: "isLive",
    tag: "operation",
    summary: "Whether the process lives",
    answers: { 200: { description: "It does.", body: "Health", examples: { one: { status: "live" } } } },
    problems: [],
  },
  {
    method: "get",
    path: "/readyz",
    id: "isReady",
    tag: "operation",
    summary: "Whether it takes mail",
    answers: { 200: { description: "It does.", body: "Health", examples: { one: { status: "ready" } } } },
    problems: ["draining", "store-unavailable"],
  },
  {
    method: "get",
    path: "/metrics",
    id: "metrics",
    tag: "operation",
    summary: "Numbers for Prometheus",
    description: "To this machine and to service keys, unless configured otherwise; 404 where it is switched off.",
    asks: ["serviceKey"],
    answers: { 200: { description: "Prometheus' text format.", type: "text/plain" } },
    problems: [...IDENTITY.filter((code) => code !== "bad-request"), "forbidden", "unknown"],
  },
  {
    method: "get",
    path: "/v1/backup",
    id: "backup",
    tag: "operation",
    summary: "A copy of the store, made while it goes on",
    description: "To service keys, and to this machine only. `handover backup` asks for it and looks whether it is whole.",
    asks: ["serviceKey"],
    answers: { 200: { description: "An SQLite database.", type: "application/vnd.sqlite3" } },
    problems: [...IDENTITY.filter((code) => code !== "bad-request"), "forbidden", "unsupported", "rate-limited"],
  },
  {
    method: "get",
    path: "/openapi.json",
    id: "openapi",
    tag: "operation",
    summary: "This description",
    answers: { 200: { description: "OpenAPI 3.1.", type: "application/json" }, ...cached },
    problems: [],
  },
  {
    method: "get",
    path: "/asyncapi.json",
    id: "asyncapi",
    tag: "operation",
    summary: "What goes over WebSocket and server-sent events",
    answers: { 200: { description: "AsyncAPI 3.0.", type: "application/json" }, ...cached },
    problems: [],
  },
  {
    method: "get",
    path: "/handover.js",
    id: "sdk",
    tag: "operation",
    summary: "The SDK for browsers, as a classic script",
    answers: { 200: { description: "JavaScript; it defines `Handover`.", type: "text/javascript" }, ...cached },
    problems: [],
  },
  {
    method: "get",
    path: "/handover-page.js",
    id: "sdkPage",
    tag: "operation",
    summary: "The SDK's part that only pages need, which it loads itself",
    answers: { 200: { description: "JavaScript, a module.", type: "text/javascript" }, ...cached },
    problems: [],
  },
];
