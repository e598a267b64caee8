/**
 * The wire, version 1: what goes in, as schemas that validate, and what goes out to receivers, with the functions that write it. Answers to
 * requests are in answers.ts.
 * PROTOCOL.md says the same in prose. Everything that comes from outside passes {@link parse} once, where it enters.
 * @module
 */
import Type, { type Static, type TSchema } from "typebox";
import { Compile, type Validator } from "typebox/compile";
import { HandoverError } from "./errors.ts";

declare const brand: unique symbol;
type Branded<T, B extends string> = T & { readonly [brand]: B };

/** The application's name for a person or worker: the token's `sub`. */
export type UserId = Branded<string, "UserId">;
/** One login of a user: the token's `sid`. */
export type SessionId = Branded<string, "SessionId">;
/** A reader's own name, within its session. */
export type ReceiverId = Branded<string, "ReceiverId">;
export type MessageId = Branded<string, "MessageId">;
/** Names a run of sequence numbers of one mailbox; a new one means that the numbers start anew. */
export type Epoch = Branded<string, "Epoch">;
/** Position in a mailbox, from 1; 0 is before the first. */
export type Seq = number;

/** Who is asking, as the token or the service key says. */
export type Identity = UserIdentity | ServiceIdentity;
export interface UserIdentity {
  readonly kind: "user";
  readonly user: UserId;
  readonly session: SessionId;
  readonly scopes: readonly string[];
  /** ms since the Unix epoch. */
  readonly expiresAtMs: number;
  /** The same by `performance.now()`, as it was when the token was looked at: what is open lasts that long, however the time of day jumps. */
  readonly goodUntilMs?: number;
}
/** How long the token is good still, ms; 0 or less: it has ended. What is open follows no jump of the time of day. */
export function leftMsOf({ expiresAtMs, goodUntilMs }: UserIdentity): number {
  return goodUntilMs === undefined ? expiresAtMs - Date.now() : goodUntilMs - performance.now();
}

export interface ServiceIdentity {
  readonly kind: "service";
  readonly name: string;
}

/** Sizes and numbers that are part of the protocol and not configurable. */
export const PROTOCOL = {
  subprotocol: "handover.v1.json",
  maxFrameBytes: 1_048_576,
  maxMessagesPerBatch: 100,
  maxRecipients: 1_000,
  maxDepth: 32,
  defaultWindow: 32,
  maxWindow: 1_000,
  defaultPollMax: 100,
  defaultPollWaitMs: 10_000,
  maxPollWaitMs: 60_000,
  defaultTtlSeconds: 7 * 24 * 3600,
  /** How long a message with TTL 0 waits for the receivers that were live at its acceptance. */
  ttlZeroMs: 30_000,
} as const;

const NAME = "^[A-Za-z0-9._:@-]{1,128}$";
const closed = { additionalProperties: false } as const;
export const name = (description: string) => Type.String({ pattern: NAME, description });
/** Text for one line: no control characters, no half of a surrogate pair (patterns are read with the flag u). */
const line = (maxLength: number, description: string) =>
  Type.String({ minLength: 1, maxLength, pattern: "^[^\\u0000-\\u001f\\u007f\\ud800-\\udfff]+$", description });
export const seq = Type.Integer({
  minimum: 0,
  maximum: Number.MAX_SAFE_INTEGER,
  description: "position in a mailbox, from 1; 0 is before the first",
});
const EPOCH = "^[A-Za-z0-9_-]{1,64}$";
const seqs = Type.Array(seq, { maxItems: 10_000 });
const epoch = Type.Union([Type.String({ pattern: EPOCH }), Type.Null()], {
  description: "epoch of the cursor; none or null: a new receiver, from the start",
});
export const ref = Type.Union([Type.String({ maxLength: 128 }), Type.Integer()], { description: "comes back in the answer" });

const address = Type.Object(
  {
    user: Type.Optional(name("one user")),
    users: Type.Optional(Type.Array(name("a user"), { minItems: 1, maxItems: PROTOCOL.maxRecipients })),
    group: Type.Optional(name("the members of a group")),
    session: Type.Optional(name("one session; services only")),
  },
  { ...closed, minProperties: 1, maxProperties: 1, description: "exactly one of user, users, group, session" },
);

const message = {
  to: address,
  type: line(255, "the CloudEvents type; those that begin with handover. are the server's"),
  data: Type.Optional(Type.Unknown({ description: "any JSON value" })),
  subject: Type.Optional(line(255, "CloudEvents subject")),
  correlationid: Type.Optional(line(255, "ties an answer to its question")),
  replyto: Type.Optional(line(255, "where answers go")),
  receipt: Type.Optional(Type.Boolean({ description: "write handover.receipt into the sender's mailbox at each ending" })),
  idempotencyKey: Type.Optional(line(255, "as the header Idempotency-Key")),
  ttl: Type.Optional(Type.Integer({ minimum: 0, maximum: 2_147_483_647, description: "seconds; as the header TTL" })),
  topic: Type.Optional(Type.String({ pattern: "^[A-Za-z0-9_-]{1,32}$", description: "as the header Topic (RFC 8030, section 5.4)" })),
  urgency: Type.Optional(
    Type.Union([Type.Literal("very-low"), Type.Literal("low"), Type.Literal("normal"), Type.Literal("high")], {
      description: "as the header Urgency (RFC 8030, section 5.3)",
    }),
  ),
};

const acknowledgement = {
  upto: Type.Optional(seq),
  seqs: Type.Optional(seqs),
  nack: Type.Optional(
    Type.Array(Type.Object({ seq, retryAfter: Type.Optional(Type.Number({ minimum: 0, maximum: 86_400, description: "seconds" })) }, closed), {
      maxItems: 1_000,
    }),
  ),
  reject: Type.Optional(Type.Array(Type.Object({ seq, reason: Type.Optional(Type.String({ maxLength: 1_000 })) }, closed), { maxItems: 1_000 })),
  hold: Type.Optional(seqs),
};

const window = Type.Integer({ minimum: 1, maximum: 1_000_000, description: `most deliveries in flight; at most ${PROTOCOL.maxWindow} are granted` });

/** Schemas of everything that comes from outside, by the name used in error messages. */
export const SCHEMAS = {
  message: Type.Object(message, closed),
  /** One of a `send` frame, which has checked its `ref`. */
  framedMessage: Type.Object({ ref, ...message }, closed),
  messages: Type.Array(Type.Unknown(), { minItems: 1, maxItems: PROTOCOL.maxMessagesPerBatch, description: "each one a message" }),
  poll: Type.Object(
    {
      receiver: name("the receiver's own id"),
      epoch: Type.Optional(epoch),
      cursor: Type.Optional(seq),
      ack: Type.Optional(Type.Object(acknowledgement, closed)),
      max: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
      wait: Type.Optional(Type.Number({ minimum: 0, maximum: PROTOCOL.maxPollWaitMs / 1000, description: "seconds" })),
    },
    closed,
  ),
  ack: Type.Object({ receiver: name("the receiver's own id"), epoch, cursor: Type.Optional(seq), ...acknowledgement }, closed),
  /** The query of `GET /v1/events`; the texts of cursor and window are read as numbers before. */
  events: Type.Object(
    {
      receiver: Type.Optional(name("the receiver's own id; none: the server makes one")),
      epoch: Type.Optional(epoch),
      cursor: Type.Optional(seq),
      window: Type.Optional(window),
    },
    closed,
  ),
  session: Type.Object(
    {
      user: name("whose session it is"),
      ttl: Type.Optional(Type.Integer({ minimum: 1, maximum: 2_147_483_647, description: "seconds" })),
      scope: Type.Optional(Type.String({ maxLength: 4096, description: "as in OAuth: words with spaces between" })),
    },
    closed,
  ),
  sessionPath: Type.Object({ id: name("the session to end") }, closed),
  /** What every frame of a client has; the rest is for the schema of its op. */
  frame: Type.Object({ op: Type.String(), ref: Type.Optional(ref) }),
  hello: Type.Object(
    {
      op: Type.Literal("hello"),
      token: Type.String({ minLength: 1, maxLength: 16_384 }),
      receiver: Type.Optional(name("the receiver's own id; none: the server makes one")),
      epoch: Type.Optional(epoch),
      cursor: Type.Optional(seq),
      window: Type.Optional(window),
    },
    closed,
  ),
  /** Each message is validated by itself: one that is not valid takes none of the others with it. */
  sendFrame: Type.Object(
    { op: Type.Literal("send"), messages: Type.Array(Type.Object({ ref }), { minItems: 1, maxItems: PROTOCOL.maxMessagesPerBatch }) },
    closed,
  ),
  ackFrame: Type.Object({ op: Type.Literal("ack"), ref: Type.Optional(ref), epoch, ...acknowledgement }, closed),
  authFrame: Type.Object({ op: Type.Literal("auth"), token: Type.String({ minLength: 1, maxLength: 16_384 }) }, closed),
} as const;

export type MessageRequest = Static<typeof SCHEMAS.message>;
export type PollRequest = Static<typeof SCHEMAS.poll>;
type AckRequest = Static<typeof SCHEMAS.ack>;
export type HelloFrame = Static<typeof SCHEMAS.hello>;
export type SendFrame = Static<typeof SCHEMAS.sendFrame>;
export type AckFrame = Static<typeof SCHEMAS.ackFrame>;

export type AnyFrame = Static<typeof SCHEMAS.frame>;
/** The forms of acknowledgement, the same on every transport. */
export type AckForms = Pick<AckRequest, "upto" | "seqs" | "nack" | "reject" | "hold">;
export type Ref = Static<typeof ref>;

interface WritableEntry {
  readonly seq: Seq;
  readonly id: MessageId;
  readonly deliveryCount: number;
  readonly event: string;
  readonly session?: SessionId | undefined;
}

/** One delivery, written once for all receivers of the mailbox: `text` is `{"seq":…,"deliveryCount":…,"event":{…}}`. */
export interface Delivery {
  readonly seq: Seq;
  readonly text: string;
  /** When the message was accepted, ms since the Unix epoch; undefined when it comes again, after a nack. */
  readonly acceptedAtMs?: number | undefined;
  /** The only session that it is for. */
  readonly session?: SessionId | undefined;
}

/** What the server tells a receiver beside its deliveries, as frames. On long polling and SSE it goes out in that transport's form. */
export const FRAMES = {
  ready: Type.Object({
    op: Type.Literal("ready"),
    receiver: Type.Unsafe<ReceiverId>(name("the receiver's name")),
    epoch: Type.Unsafe<Epoch>(Type.String({ pattern: EPOCH, description: "names the run of numbers" })),
    head: seq,
  }),
  settled: Type.Object({
    op: Type.Literal("settled"),
    seqs: Type.Unsafe<readonly Seq[]>(Type.Array(seq, { description: "ended, but not by this receiver: a hint" })),
  }),
  gap: Type.Object({
    op: Type.Literal("gap"),
    from: seq,
    to: seq,
    reason: Type.Enum(["expired", "replaced", "evicted", "dead", "unknown"], {
      description: "how what was in it ended; unknown: too long ago to say",
    }),
  }),
  drain: Type.Object({
    op: Type.Literal("drain"),
    delay: Type.Number({ minimum: 0, description: "seconds over which clients spread their return" }),
  }),
} as const;

/** Frames that the server sends to a receiver. */
export type ServerFrame =
  | { readonly op: "deliver"; readonly deliveries: readonly Delivery[] }
  | { [K in keyof typeof FRAMES]: Readonly<Static<(typeof FRAMES)[K]>> }[keyof typeof FRAMES];

const validators = new Map<TSchema, Validator>();

/**
 * Checks a value that came from outside.
 * @param what  how the error names it, e.g. `The poll`
 * @throws HandoverError bad-request, naming the place and what is expected there
 */
export function parse<S extends TSchema>(schema: S, value: unknown, what: string): Static<S> {
  let validator = validators.get(schema);
  if (!validator) {
    validator = Compile(schema);
    validators.set(schema, validator);
  }
  if (validator.Check(value)) return value as Static<S>;
  throw new HandoverError("bad-request", `${what} ${explain(validator, value)}.`);
}

function explain(validator: Validator, value: unknown): string {
  const errors = [...validator.Errors(value)];
  const unknownFields = errors.find((error) => error.keyword === "additionalProperties");
  const error = unknownFields ?? errors[0];
  if (!error) return "is not valid";
  const place = error.instancePath === "" ? "" : ` (at ${error.instancePath})`;
  const params = error.params as { additionalProperties?: string[]; requiredProperties?: string[]; pattern?: string };
  if (unknownFields && params.additionalProperties)
    return `has unknown fields: ${params.additionalProperties.slice(0, 5).join(", ").slice(0, 200)}${place}`;
  if (params.requiredProperties) return `lacks ${params.requiredProperties.join(", ")}${place}`;
  if (params.pattern === NAME) return `needs 1 to 128 of A-Z a-z 0-9 . _ : @ -${place}`;
  return `${error.message}${place}`;
}

/**
 * Parses JSON text whose every value can be stored and given again as it is.
 * Refused, besides what is not JSON: a UTF-8 fault, nesting deeper than 32 levels below `data`, lone surrogates, numbers that a double cannot
 * hold, a `__proto__` key.
 * @param text  as received
 * @throws HandoverError bad-request
 */
export function parseJson(text: string, what: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new HandoverError("bad-request", `${what} is not JSON: ${(cause as Error).message}.`, { cause });
  }
  return value;
}

/**
 * Checks that a value, as `JSON.parse` made it, arrives equal after it was written and parsed again; PROTOCOL.md, "Names and units".
 * @returns the JSON text; a negative zero is kept
 * @throws HandoverError bad-request
 */
export function writeData(value: unknown): string {
  if (!checkData(value, 0)) return JSON.stringify(value);
  return JSON.stringify(value, (_key, each: unknown) => (Object.is(each, -0) ? rawJson("-0") : each));
}

/** Goes no deeper than what is allowed. @returns whether there is a -0 in it. @throws HandoverError bad-request */
function checkData(value: unknown, depth: number): boolean {
  if (typeof value === "string") {
    if (!value.isWellFormed()) throw refusedData("a lone surrogate, which is not text");
    return false;
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw refusedData("a number that does not fit a double");
    return Object.is(value, -0);
  }
  if (typeof value !== "object" || value === null) return false;
  if (depth >= PROTOCOL.maxDepth) throw refusedData(`more than ${PROTOCOL.maxDepth} levels`);
  let hasNegativeZero = false;
  if (Array.isArray(value)) {
    for (const element of value) if (checkData(element, depth + 1)) hasNegativeZero = true;
    return hasNegativeZero;
  }
  for (const key of Object.keys(value)) {
    if (key === "__proto__") throw refusedData("a key named __proto__");
    if (!key.isWellFormed()) throw refusedData("a lone surrogate, which is not text");
    if (checkData((value as Record<string, unknown>)[key], depth + 1)) hasNegativeZero = true;
  }
  return hasNegativeZero;
}

// In V8 since 12 (Node 22); the types of ES2024 do not have it yet.
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;

function refusedData(what: string): HandoverError {
  return new HandoverError("bad-request", `data holds ${what}; it could not be handed over unchanged.`);
}

/** Writes a delivery from the event's JSON text, without parsing that text. */
export function writeDelivery({ seq, id, deliveryCount, event, session }: WritableEntry): Delivery {
  const text = `{"seq":${seq},"deliveryCount":${deliveryCount},"event":${event}}`;
  return { seq, text, acceptedAtMs: deliveryCount === 1 ? timeOfId(id) : undefined, session };
}

/** An id of ours is a UUIDv7, which begins with the ms of its making (RFC 9562, section 5.7). */
function timeOfId(id: string): number | undefined {
  return id.length === 36 && id[14] === "7" ? Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : undefined;
}

/** Writes the JSON array of deliveries that poll answers and `deliver` frames carry. */
export function writeDeliveries(deliveries: readonly Delivery[]): string {
  return `[${deliveries.map((delivery) => delivery.text).join(",")}]`;
}

/** Writes a server frame as WebSocket text. */
export function writeFrame(frame: ServerFrame): string {
  if (frame.op === "deliver") return `{"op":"deliver","deliveries":${writeDeliveries(frame.deliveries)}}`;
  return JSON.stringify(frame);
}
