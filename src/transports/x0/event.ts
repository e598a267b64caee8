/**
 * Ids of the protocol for x0's session values, and what a delivery of the hub is to a page.
 * @module
 */
import { createHash } from "node:crypto";
import { type Delivery, type Seq, writeData } from "../../protocol.ts";
import { isHashedId, messageOf, type X0Event } from "../../x0.ts";

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
  const { event } = JSON.parse(text) as { event: X0Event & { expirytime: string } };
  const message = messageOf(event, (value, user) => idOf(value) === user);
  return { seq, text: message && writeData(message), expiresAtMs: Date.parse(event.expirytime) };
}

const PLAIN = /^[A-Za-z0-9._:@-]{1,128}$/;

/** Whether a text can be an id of the protocol as it is. */
export function isId(text: string): boolean {
  return PLAIN.test(text);
}

/** An id of the protocol for any text: the text itself where it can be one, else its hash. No two texts have the same id. */
export function idOf(text: string): string {
  return isId(text) && !isHashedId(text) ? text : `x0:${hashOf(text)}`;
}

export function hashOf(...texts: readonly string[]): string {
  const hash = createHash("sha256");
  // With its length before each, so that no two lists read the same.
  for (const text of texts) hash.update(`${text.length}:`).update(text, "utf16le");
  return hash.digest("base64url");
}
