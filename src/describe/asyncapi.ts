/**
 * /asyncapi.json: what goes over a connection, from the schemas that validate and the table of errors. The document speaks as the server:
 * it receives what clients send.
 * @see https://www.asyncapi.com/docs/reference/specification/v3.0.0
 * @module
 */
import { ERRORS } from "../errors.ts";
import { PROTOCOL } from "../protocol.ts";
import { Components, type Json, type Limits } from "./document.ts";
import { EVENTS, FRAMES, type Message } from "./messages.ts";

const HERE = { host: "{host}", variables: { host: { default: "localhost:8080", description: "name and port" } } } as const;
const HANDSHAKE = {
  type: "object",
  properties: { "Sec-WebSocket-Protocol": { type: "string", const: PROTOCOL.subprotocol } },
  required: ["Sec-WebSocket-Protocol"],
} as const;

/** Writes the description. The same limits give the same document. */
export function asyncapi(limits: Limits): Json {
  const components = new Components();
  const messages = { ...messagesOf("webSocket", FRAMES, components), ...messagesOf("events", EVENTS, components) };
  return {
    asyncapi: "3.0.0",
    info: {
      title: "Handover",
      version: limits.version,
      license: { name: "MIT" },
      description:
        "What goes over a connection, as the server sees it: it receives what clients send. PROTOCOL.md is the same in prose, /openapi.json is HTTP. " +
        `A message has at most ${limits.maxMessageBytes} bytes as an event. The server's frames may gain fields: pass over those that you do not know.`,
    },
    defaultContentType: "application/json",
    servers: {
      webSocket: { ...HERE, protocol: "wss", description: "Where this document came from; `ws` without TLS." },
      http: { ...HERE, protocol: "https", description: "The same; `http` without TLS." },
    },
    channels: {
      webSocket: {
        address: "/v1/ws",
        title: "WebSocket",
        description: `Subprotocol \`${PROTOCOL.subprotocol}\`. Frames are JSON text of at most ${PROTOCOL.maxFrameBytes} bytes, with \`op\`. The token is in \`hello\`, never in the address.`,
        servers: [{ $ref: "#/servers/webSocket" }],
        messages: refsOf("webSocket", FRAMES),
        bindings: { ws: { method: "GET", headers: HANDSHAKE, bindingVersion: "0.1.0" } },
        "x-close-codes": closeCodes(),
      },
      events: {
        address: "/v1/events",
        title: "Server-sent events",
        description:
          "An answer of the type `text/event-stream`; the data of each event is one line of JSON. /openapi.json says what the request is. A comment comes every 15 seconds while nothing else waits to be read.",
        servers: [{ $ref: "#/servers/http" }],
        messages: refsOf("events", EVENTS),
      },
    },
    operations: { ...operationsOf("webSocket", FRAMES), ...operationsOf("events", EVENTS) },
    components: { messages, schemas: components.all() },
  };
}

function messagesOf(channel: string, messages: Readonly<Record<string, Message>>, components: Components): Json {
  const entries = Object.entries(messages).map(([name, { schema, summary, example }]) => [
    `${channel}.${name}`,
    { name, title: name, summary, contentType: "application/json", payload: components.ref(schema), examples: [{ name, payload: example }] },
  ]);
  return Object.fromEntries(entries);
}

function refsOf(channel: string, messages: Readonly<Record<string, Message>>): Json {
  return Object.fromEntries(Object.keys(messages).map((name) => [name, { $ref: `#/components/messages/${channel}.${name}` }]));
}

/** One operation per message, named after it; a client's with its answers. */
function operationsOf(channel: string, messages: Readonly<Record<string, Message>>): Json {
  const at = (op: string) => ({ $ref: `#/channels/${channel}/messages/${op}` });
  const entries = Object.entries(messages).map(([op, { from, summary, answer }]) => [
    `${channel}.${op}`,
    {
      action: from === "client" ? "receive" : "send",
      summary,
      channel: { $ref: `#/channels/${channel}` },
      messages: [at(op)],
      ...(answer ? { reply: { channel: { $ref: `#/channels/${channel}` }, messages: [at(answer), at("error")] } } : {}),
    },
  ]);
  return Object.fromEntries(entries);
}

/** With which code the server closes, for which errors: 44xx, stop until something changes; 45xx, come back. */
function closeCodes(): Json {
  const codes: Record<string, { code: string; title: string; comeBack: boolean }[]> = {};
  for (const [code, { close, title }] of Object.entries(ERRORS)) {
    codes[close] = [...(codes[close] ?? []), { code, title, comeBack: close >= 4500 }];
  }
  return codes;
}
