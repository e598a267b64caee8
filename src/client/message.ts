/**
 * What applications send and receive.
 * @module
 */
import { garbled, HandoverError } from "./error.ts";
import { isRecord } from "./json.ts";
import { randomId } from "./random.ts";

/** RFC 8030's words for how soon a person should be told. */
export type Urgency = "very-low" | "low" | "normal" | "high";

/** A message as handlers get it: a CloudEvent, who sent it, and how often it was handed out. */
export interface Message<T = unknown> {
  /** With `source`, names the message for ever. */
  readonly id: string;
  /** `/users/{user}` or `/services/{name}`; set by the server. */
  readonly source: string;
  /** The sending user; undefined when a service sent it. */
  readonly from: string | undefined;
  readonly type: string;
  /** When the server accepted it, RFC 3339. */
  readonly time: string;
  readonly data: T;
  readonly subject?: string;
  readonly correlationid?: string;
  readonly replyto?: string;
  readonly topic?: string;
  readonly urgency?: Urgency;
  /** End of its time to live, RFC 3339. */
  readonly expirytime?: string;
  /** 1, and one more each time a handler had failed. */
  readonly deliveryCount: number;
}

/** Who a message is for: one user, several, the members of a group, or (services only) one session. */
export type Address = { readonly user: string } | { readonly users: readonly string[] } | { readonly group: string } | { readonly session: string };

export interface SendOptions {
  /** How long it waits for its recipients, in seconds; 7 days unless said. 0: only for those who are connected now. */
  readonly ttl?: number;
  /** Replaces an earlier message of this sender with the same topic, if the recipient has not had it. 1–32 of `[A-Za-z0-9_-]`. */
  readonly topic?: string;
  readonly urgency?: Urgency;
  readonly subject?: string;
  /** Ties an answer to its question. */
  readonly correlationid?: string;
  /** Where answers go. */
  readonly replyto?: string;
  /** Two sends with the same key and content are one message, for 24 h. Unless said, each call has its own. */
  readonly idempotencyKey?: string;
  /**
   * Called when it waits for a connection and is kept in this browser: it will be sent by itself, by the next page of this user too. What waits in a
   * page that keeps nothing is lost with it.
   */
  readonly onQueued?: () => void;
  /** Ends the waiting. What was already on its way may have been accepted all the same. */
  readonly signal?: AbortSignal;
}

/** The server has the message on its disk. */
export interface Sent {
  readonly id: string;
  /** When it was accepted, RFC 3339. */
  readonly time: string;
  /** Granted time to live in seconds. */
  readonly ttl: number;
  /** Users in whose mailbox it is. */
  readonly recipients: readonly string[];
  /** Users whose mailbox was full, if any. */
  readonly refused?: readonly string[];
}

/** A message that was kept, and can not be sent any more. */
export interface Unsent {
  /** What `send` was given, with its idempotency key. */
  readonly message: { readonly to: Address; readonly type: string; readonly data?: unknown } & Omit<SendOptions, "signal" | "onQueued">;
  readonly error: HandoverError;
}

/** What became of a sent message, for each recipient. */
export interface MessageState {
  readonly id: string;
  readonly recipients: readonly {
    readonly user: string;
    readonly state: "waiting" | "acked" | "expired" | "replaced" | "evicted" | "dead";
    /** RFC 3339; absent while it waits. */
    readonly endedAt?: string;
  }[];
}

/** Reads a CloudEvent; undefined when it lacks what every message has. */
export function readMessage(event: unknown, deliveryCount: unknown): Message | undefined {
  if (!isRecord(event)) return undefined;
  const { id, source, type } = event;
  if (typeof id !== "string" || typeof source !== "string" || typeof type !== "string") return undefined;
  const from = source.startsWith("/users/") ? source.slice(7) : undefined;
  return { ...event, from, deliveryCount: typeof deliveryCount === "number" ? deliveryCount : 1 } as unknown as Message;
}

/** Reads the body of a 201, or a result of a frame. @throws HandoverError connection-lost, when it is none */
export function readSent(value: unknown): Sent {
  if (!isRecord(value) || typeof value.id !== "string") throw garbled("send");
  const { ref: _ref, status: _status, ...sent } = value;
  return sent as unknown as Sent;
}

/**
 * Writes a request to send, as JSON text, with an idempotency key.
 * @throws HandoverError bad-request, when the data cannot be written as JSON
 */
export function writeMessage(to: string | Address, type: string, data: unknown, options: Omit<SendOptions, "signal" | "onQueued">): string {
  try {
    return JSON.stringify({ to: typeof to === "string" ? { user: to } : to, type, data, idempotencyKey: randomId(), ...options });
  } catch (cause) {
    throw new HandoverError("bad-request", `No JSON: ${String(cause)}`, { cause });
  }
}

/** Where a message's state is. */
export const statePath = (id: string): string => `/v1/messages/${encodeURIComponent(id)}`;

/** Reads a message's state. @throws HandoverError connection-lost, when it is none */
export function readState(state: unknown): MessageState {
  if (!isRecord(state) || !Array.isArray(state.recipients)) throw garbled("state");
  return state as unknown as MessageState;
}
