/**
 * What the server answers, as schemas: the types of the answers come from them, and /openapi.json and /asyncapi.json say them. They are
 * open: a later version may say more, so clients pass over fields that they do not know.
 * @module
 */
import Type, { type Static } from "typebox";
import { ERRORS, type ErrorCode, type Problem } from "./errors.ts";
import { type Epoch, FRAMES, type MessageId, name, ref, SCHEMAS, type SessionId, seq, type UserId } from "./protocol.ts";

const time = (description: string) => Type.String({ format: "date-time", description });
const messageId = Type.Unsafe<MessageId>(Type.String({ minLength: 1, description: "a UUIDv7" }));
const user = Type.Unsafe<UserId>(name("a user"));
const epoch = Type.Unsafe<Epoch>(FRAMES.ready.properties.epoch);
const { subject, topic, urgency, correlationid, replyto } = SCHEMAS.message.properties;

/** The event as receivers get it. @see https://cloudevents.io */
const event = Type.Object(
  {
    specversion: Type.Literal("1.0"),
    id: messageId,
    source: Type.String({ pattern: "^/(users|services)/[A-Za-z0-9._:@-]+$", description: "who sent it; with the id it names the event for ever" }),
    type: Type.String({ minLength: 1, maxLength: 255 }),
    time: time("when it was accepted"),
    expirytime: time("the end of its time to live"),
    datacontenttype: Type.Optional(Type.Literal("application/json")),
    data: Type.Optional(Type.Unknown({ description: "any JSON value, equal to what was sent" })),
    subject,
    topic,
    urgency,
    correlationid,
    replyto,
  },
  { description: "a CloudEvents 1.0 event in JSON" },
);

const delivery = Type.Object({ seq, deliveryCount: Type.Integer({ minimum: 1, description: "1, and one more for each nack" }), event });

const accepted = Type.Object({
  id: messageId,
  time: time("when it was accepted"),
  ttl: Type.Integer({ minimum: 0, description: "granted time to live, seconds" }),
  recipients: Type.Unsafe<readonly UserId[]>(Type.Array(user, { minItems: 1, description: "in whose mailboxes it is" })),
  refused: Type.Optional(Type.Unsafe<readonly UserId[]>(Type.Array(user, { description: "whose mailboxes were full" }))),
});

/** One field for each of the table's; `Problem` is what errors.ts writes. */
const problemFields = {
  type: Type.String({ pattern: "^urn:handover:error:[a-z-]+$" }),
  title: Type.String(),
  status: Type.Integer({ minimum: 400, maximum: 599 }),
  detail: Type.String({ description: "what happened, and what to do" }),
  code: Type.Unsafe<ErrorCode>(Type.Enum(Object.keys(ERRORS))),
  retryable: Type.Boolean({ description: "whether the very same request may succeed later" }),
} satisfies Record<keyof Problem, unknown>;
const messageProblem = Type.Object(problemFields);
const results = Type.Array(Type.Union([accepted, messageProblem]), { description: "of an array of messages: what became of each" });

const state = Type.Enum(["waiting", "acked", "expired", "replaced", "evicted", "dead"]);
const ackedCount = Type.Integer({ minimum: 0, description: "how many messages it newly settled" });
const { op: _gap, ...gap } = FRAMES.gap.properties;

/** Bodies and frames that go out, by name; those of FRAMES are beside them. */
export const ANSWERS = {
  event,
  delivery,
  accepted,
  messageProblem,
  problem: Type.Object({ ...problemFields, results: Type.Optional(results) }, { description: "RFC 9457" }),
  messageState: Type.Object({
    id: messageId,
    recipients: Type.Array(Type.Object({ user, state, endedAt: Type.Optional(time("when it ended")) })),
  }),
  takenBack: Type.Object({ evicted: Type.Integer({ minimum: 0, description: "for how many recipients it had not ended" }) }),
  polled: Type.Object({
    epoch,
    cursor: Type.Integer({ ...seq, description: "where to ask from next" }),
    head: seq,
    deliveries: Type.Array(delivery),
    settled: Type.Array(seq),
    gaps: Type.Array(Type.Object(gap)),
  }),
  acked: Type.Object({ acked: ackedCount }),
  session: Type.Object({
    session: Type.Unsafe<SessionId>(Type.String({ minLength: 1 })),
    token: Type.String({ minLength: 1, description: "for the client, as its bearer token" }),
    expires: time("the end of the token"),
  }),
  health: Type.Object({ status: Type.Enum(["live", "ready"]) }),
  readyToSend: Type.Object({ op: Type.Literal("ready") }, { additionalProperties: false, description: "on a connection that may only send" }),
  deliverFrame: Type.Object({ op: Type.Literal("deliver"), deliveries: Type.Array(delivery, { minItems: 1 }) }),
  sentFrame: Type.Object({
    op: Type.Literal("sent"),
    results: Type.Array(
      Type.Union([Type.Object({ ref, status: Type.Literal(201), ...accepted.properties }), Type.Object({ ref, ...problemFields })]),
      { minItems: 1 },
    ),
  }),
  ackedFrame: Type.Object({ op: Type.Literal("acked"), ref: Type.Optional(ref), acked: ackedCount }),
  errorFrame: Type.Object({ op: Type.Literal("error"), ref: Type.Optional(ref), ...problemFields }),
} as const;

/** What was accepted: the body of a 201, kept with the idempotency key so that a repeat gets the same answer. */
export type Accepted = Readonly<Static<typeof accepted>>;
/** A session as the backend gets it. */
export type NewSession = Readonly<Static<typeof ANSWERS.session>>;
