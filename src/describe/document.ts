/**
 * What both descriptions are made with: the schemas by name, each written once.
 * @module
 */
import type { TSchema } from "typebox";
import { ANSWERS } from "../answers.ts";
import { ERRORS, type ErrorCode, type Problem } from "../errors.ts";
import { FRAMES, ref, SCHEMAS, seq } from "../protocol.ts";

/** A part of a JSON document. */
export type Json = { readonly [key: string]: unknown };

/** What of a server's settings its description says. */
export interface Limits {
  /** The package's. */
  readonly version: string;
  readonly maxMessageBytes: number;
  readonly maxTtlSeconds: number;
}

const { address, ackForms } = { address: SCHEMAS.message.properties.to, ackForms: SCHEMAS.poll.properties.ack };
const { nack, reject, seqs } = SCHEMAS.ack.properties;

/** A message of a `send` frame: the same fields, and the ref of its result. */
const sendItem = { ...SCHEMAS.message, required: ["ref", ...(SCHEMAS.message.required ?? [])], properties: { ref, ...SCHEMAS.message.properties } };

/** A frame's content without its `op`: as an event of a stream, whose name says that. */
function eventOf(frame: { readonly properties: { readonly op: TSchema }; readonly required?: readonly string[] }): TSchema {
  const { op: _op, ...properties } = frame.properties;
  return { ...frame, required: frame.required?.filter((field) => field !== "op"), properties };
}

/** Schemas with a name in the documents; what is in several places is found here by its content. */
export const NAMED = {
  Seq: seq,
  Seqs: seqs,
  Ref: ref,
  Epoch: SCHEMAS.ack.properties.epoch,
  Address: address,
  Nack: nack,
  Reject: reject,
  AckForms: ackForms,
  Message: SCHEMAS.message,
  Messages: { ...SCHEMAS.messages, items: SCHEMAS.message },
  Poll: SCHEMAS.poll,
  Ack: SCHEMAS.ack,
  SessionRequest: SCHEMAS.session,
  Event: ANSWERS.event,
  Delivery: ANSWERS.delivery,
  Accepted: ANSWERS.accepted,
  AcceptedList: { type: "array", items: ANSWERS.accepted },
  MessageProblem: ANSWERS.messageProblem,
  Problem: ANSWERS.problem,
  MessageState: ANSWERS.messageState,
  TakenBack: ANSWERS.takenBack,
  Polled: ANSWERS.polled,
  Acked: ANSWERS.acked,
  Session: ANSWERS.session,
  Health: ANSWERS.health,
  HelloFrame: SCHEMAS.hello,
  SendItem: sendItem,
  SendFrame: {
    ...SCHEMAS.sendFrame,
    properties: { op: SCHEMAS.sendFrame.properties.op, messages: { ...SCHEMAS.sendFrame.properties.messages, items: sendItem } },
  },
  AckFrame: SCHEMAS.ackFrame,
  AuthFrame: SCHEMAS.authFrame,
  ReadyFrame: { anyOf: [FRAMES.ready, ANSWERS.readyToSend] },
  DeliverFrame: ANSWERS.deliverFrame,
  SentFrame: ANSWERS.sentFrame,
  AckedFrame: ANSWERS.ackedFrame,
  SettledFrame: FRAMES.settled,
  GapFrame: FRAMES.gap,
  DrainFrame: FRAMES.drain,
  ErrorFrame: ANSWERS.errorFrame,
  ReadyEvent: eventOf(FRAMES.ready),
  SettledEvent: eventOf(FRAMES.settled),
  GapEvent: eventOf(FRAMES.gap),
  DrainEvent: eventOf(FRAMES.drain),
} as const satisfies Record<string, TSchema>;

export type Name = keyof typeof NAMED;

/** The schemas of one document: those that are asked for, and those that they need. */
export class Components {
  readonly #byContent = new Map(Object.entries(NAMED).map(([name, schema]) => [JSON.stringify(schema), name as Name]));
  readonly #used = new Map<Name, unknown>();

  /** The reference to a named schema. */
  ref(name: Name): Json {
    if (!this.#used.has(name)) {
      // Taken first: nothing refers to itself here, but two may refer to the same.
      this.#used.set(name, undefined);
      this.#used.set(name, this.#inside(NAMED[name]));
    }
    return { $ref: `#/components/schemas/${name}` };
  }

  /** A schema, its named parts as references. */
  schema(schema: unknown): unknown {
    const name = this.#byContent.get(JSON.stringify(schema));
    return name === undefined ? this.#inside(schema) : this.ref(name);
  }

  /** The section `schemas` of the document. */
  all(): Json {
    return Object.fromEntries([...this.#used].sort(([one], [other]) => (one < other ? -1 : 1)));
  }

  #inside(schema: unknown): unknown {
    if (Array.isArray(schema)) return schema.map((each) => this.schema(each));
    if (typeof schema !== "object" || schema === null) return schema;
    return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, this.schema(value)]));
  }
}

/** The problem document of a code, as an example. */
export function problemExample(code: ErrorCode, detail = "What happened, and what to do, in a sentence."): Problem {
  const { status, title, retryable } = ERRORS[code];
  return { type: `urn:handover:error:${code}`, title, status, detail, code, retryable };
}
