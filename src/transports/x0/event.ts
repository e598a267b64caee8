/**
 * x0's messages as events of our mailboxes, and back. Two types, because they may do different things to the page that gets them:
 *
 * - `x0.set-data`, data `{"dst-object", "payload"}`: values for a form. Anybody may send it to whom they may send.
 * - `x0.message`, data any message of x0: some kinds run code or markup in the page (`net-phone`, unknown `txt-id`, `fire-events`,
 *   `switch-screen-id`), so only services may send it, and tokens with the scope `x0:any` (auth.ts).
 *
 * What an event becomes depends on its type alone, so it does not matter which way it came in.
 * @module
 */
import { createHash } from "node:crypto";
import { type Delivery, type Seq, writeData, X0 } from "../../protocol.ts";
import type { X0Message } from "./wire.ts";

const SET_DATA_FIELDS = new Set(["msg-type", "method-id", "dst-object", "payload"]);

/** The type and data of the event that a message becomes. @param source  the sender's session value, where its id does not say it */
export function eventOf(message: X0Message, source: string | undefined): { readonly type: string; readonly data: object } {
  const said = source === undefined ? {} : { session_src: source };
  if (!isSetData(message)) return { type: X0.message, data: { ...message, ...said } };
  return { type: X0.setData, data: { "dst-object": message["dst-object"], payload: message.payload, ...said } };
}

/** A message that has come for a page. */
export interface Incoming {
  readonly seq: Seq;
  /** As x0's client gets it, JSON; undefined when the event is none of x0's. */
  readonly text: string | undefined;
  /** ms since the Unix epoch. */
  readonly expiresAtMs: number;
}

/** Reads a delivery of the hub. */
export function readDelivery({ seq, text }: Delivery): Incoming {
  // Written by this server, not by a client: see message.ts.
  const { event } = JSON.parse(text) as { event: { type: string; source: string; expirytime: string; data?: unknown } };
  const message = messageOf(event.type, event.data);
  const expiresAtMs = Date.parse(event.expirytime);
  if (!message) return { seq, text: undefined, expiresAtMs };
  return { seq, text: writeData({ ...message, session_src: publicName(event.source, event.data) }), expiresAtMs };
}

function messageOf(type: string, data: unknown): X0Message | undefined {
  if (typeof data !== "object" || data === null || Array.isArray(data)) return undefined;
  if (type === X0.message) return data as X0Message;
  const message = { "msg-type": "net-message", "method-id": "set-data", ...pick(data, "dst-object"), ...pick(data, "payload") };
  return type === X0.setData && isSetData(message) ? message : undefined;
}

/** Values for an object of the page, and not a word more: whatever x0's client understands besides is not among it. */
function isSetData(message: X0Message): boolean {
  const { payload } = message;
  return (
    message["msg-type"] === "net-message" &&
    message["method-id"] === "set-data" &&
    typeof message["dst-object"] === "string" &&
    typeof payload === "object" &&
    payload !== null &&
    !Array.isArray(payload) &&
    Object.keys(message).every((field) => SET_DATA_FIELDS.has(field))
  );
}

/**
 * Who sent it, for the page: the user's id, never a credential; for a service its source, which no user's id can be like. Where ids were made
 * from session values ({@link idOf}) it is the value, if the id was really made from it.
 */
function publicName(source: string, data: unknown): string {
  const user = /^\/users\/(.*)$/.exec(source)?.[1];
  if (user === undefined) return source;
  const { session_src: said } = pick(data as object, "session_src") as { session_src?: unknown };
  return typeof said === "string" && idOf(said) === user ? said : user;
}

function pick(from: object, field: string): Record<string, unknown> {
  return Object.hasOwn(from, field) ? { [field]: (from as Record<string, unknown>)[field] } : {};
}

const PLAIN = /^[A-Za-z0-9._:@-]{1,128}$/;
const HASHED = /^x0:[A-Za-z0-9_-]{43}$/;

/** Whether a text can be an id of the protocol as it is. */
export function isId(text: string): boolean {
  return PLAIN.test(text);
}

/** An id of the protocol for any text: the text itself where it can be one, else its hash. No two texts have the same id. */
export function idOf(text: string): string {
  return PLAIN.test(text) && !HASHED.test(text) ? text : `x0:${hashOf(text)}`;
}

export function hashOf(...texts: readonly string[]): string {
  const hash = createHash("sha256");
  // With its length before each, so that no two lists read the same.
  for (const text of texts) hash.update(`${text.length}:`).update(text, "utf16le");
  return hash.digest("base64url");
}
