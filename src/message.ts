/**
 * From a sender's request to what the engine stores: who may, to whom, for how long, and the one writing of the event.
 * @module
 */
import { hash } from "node:crypto";
import { V7Generator } from "uuidv7";
import { requireSender, requireService, requireType, sourceOf } from "./auth.ts";
import type { Addressed, EngineSupports, Recipient } from "./engine.ts";
import { HandoverError } from "./errors.ts";
import { type Identity, type MessageId, type MessageRequest, PROTOCOL, type SessionId, type UserId, writeData } from "./protocol.ts";
import { timeWriter, writeTime } from "./time.ts";

/** Random numbers from the system, many at a time: one call for each id would cost more than the id. */
const random = {
  numbers: new Uint32Array(1_024),
  next: 1_024,
  nextUint32(): number {
    if (this.next === this.numbers.length) {
      crypto.getRandomValues(this.numbers);
      this.next = 0;
    }
    return this.numbers[this.next++] ?? 0;
  },
};

/** Ids never repeat and never go back, however far the time of day is set back. */
const IDS = new V7Generator(random);
IDS.setRollbackAllowance(2 ** 48 - 1);

/** What {@link writeId} writes into: the four hyphens stay where they are. */
const idText = Buffer.from("00000000-0000-0000-0000-000000000000");
const DIGITS = Buffer.from("0123456789abcdef");

/** A new id, a UUIDv7 as text. In one piece, where the library's own puts 36 together. */
function writeId(): MessageId {
  let at = 0;
  for (const byte of IDS.generate().bytes) {
    if (at === 8 || at === 13 || at === 18 || at === 23) at += 1;
    idText[at++] = DIGITS[byte >>> 4] ?? 0;
    idText[at++] = DIGITS[byte & 15] ?? 0;
  }
  return idText.toString("latin1") as MessageId;
}

const writeExpiry = timeWriter();

export interface AcceptanceRules {
  /** Most bytes of the whole event. */
  readonly maxMessageBytes: number;
  /** Longest granted time to live, seconds. */
  readonly maxTtlSeconds: number;
  readonly supports: EngineSupports;
  readonly now: () => number;
  /** Whether a user exists, where the server is configured to know. */
  isKnown(user: UserId): boolean;
  /** Whose a session is; nobody's when it is not known. */
  usersOfSession(session: SessionId): readonly UserId[];
  /** Whether a receiver that could get this is live now; asked for TTL 0 only. */
  isLive(recipient: Recipient): boolean;
}

/**
 * Checks a request against what its sender may do and this server offers, and writes the event.
 * @throws HandoverError forbidden | unknown | too-large | unsupported | invalid | bad-request
 */
export function prepareMessage(identity: Identity, request: MessageRequest, rules: AcceptanceRules): Addressed {
  requireType(identity, request.type);
  const recipients = resolveRecipients(identity, request.to, rules);
  const stranger = recipients.find(({ user }) => !rules.isKnown(user));
  if (stranger) throw new HandoverError("unknown", `There is no user ${stranger.user} here. Nothing was stored.`);
  if (request.receipt) throw new HandoverError("unsupported", "Receipts are not offered by this version; ask for the message's state instead.");
  if (request.topic !== undefined && !rules.supports.topic)
    throw new HandoverError("unsupported", "The store of this server cannot replace by Topic.");

  const acceptedAtMs = rules.now();
  const ttl = Math.min(request.ttl ?? PROTOCOL.defaultTtlSeconds, rules.maxTtlSeconds);
  const expiresAtMs = acceptedAtMs + (ttl > 0 ? ttl * 1000 : recipients.some(rules.isLive) ? PROTOCOL.ttlZeroMs : 0);
  const id = writeId();
  const time = writeTime(acceptedAtMs);
  const source = sourceOf(identity);
  const data = request.data === undefined ? undefined : writeData(request.data);

  // Written by hand, in a third of the time: an id and times need no escapes.
  const event =
    `{"specversion":"1.0","id":"${id}"${field("source", source)}${field("type", request.type)},"time":"${time}"` +
    `${field("datacontenttype", data === undefined ? undefined : "application/json")}${field("subject", request.subject)}` +
    `,"expirytime":"${writeExpiry(Math.min(expiresAtMs, 253_402_300_799_999))}"${field("topic", request.topic)}${field("urgency", request.urgency)}` +
    `${field("correlationid", request.correlationid)}${field("replyto", request.replyto)}${data === undefined ? "" : `,"data":${data}`}}`;
  const bytes = Buffer.byteLength(event);
  if (bytes > rules.maxMessageBytes) {
    throw new HandoverError("too-large", `The message is ${bytes} bytes as an event; at most ${rules.maxMessageBytes} are accepted.`);
  }
  return {
    id,
    source,
    event,
    acceptedAtMs,
    expiresAtMs,
    ttlSeconds: ttl,
    recipients,
    ...(request.topic === undefined ? {} : { topic: request.topic }),
    ...(request.idempotencyKey === undefined ? {} : { idempotency: { key: unquotedKey(request.idempotencyKey), hash: hashOf(request, data) } }),
  };
}

/** A further member of a JSON object, when it has a value. */
function field(name: string, value: string | undefined): string {
  return value === undefined ? "" : `,"${name}":${JSON.stringify(value)}`;
}

/** An idempotency key without the quotes that the IETF draft puts around it, so that it is the same key by header, field and frame. */
export function unquotedKey(key: string): string {
  return /^"(.+)"$/.exec(key)?.[1] ?? key;
}

function resolveRecipients(identity: Identity, to: MessageRequest["to"], rules: AcceptanceRules): readonly Recipient[] {
  if (to.group !== undefined) throw new HandoverError("unsupported", "Groups are not offered by this version; name the users.");
  if (to.session !== undefined) {
    requireService(identity);
    const session = to.session as SessionId;
    const users = rules.usersOfSession(session);
    if (users.length === 0)
      throw new HandoverError(
        "unknown",
        "There is no such session here: it was neither made here, nor has anybody used its token. Nothing was stored.",
      );
    if (users.length > PROTOCOL.maxRecipients)
      throw new HandoverError("invalid", `More than ${PROTOCOL.maxRecipients} users have a session of this name; give each login a name of its own.`);
    return users.map((user) => ({ user, session }));
  }
  if (to.user !== undefined) {
    const user = to.user as UserId;
    requireSender(identity, user);
    return [{ user }];
  }
  const users = [...new Set(to.users ?? [])] as UserId[];
  for (const user of users) requireSender(identity, user);
  return users.map((user) => ({ user }));
}

/** Same content, same hash, whichever transport it came by and whether an option came as header or field. */
function hashOf(request: MessageRequest, data: string | undefined): string {
  const { to, type, subject, correlationid, replyto, receipt, ttl, topic, urgency } = request;
  const address = to.users ? { users: to.users } : to;
  // The text of a JSON array, put together without one: hashes of the same content are in the stores of earlier versions.
  const content = `[${JSON.stringify(address)},${text(type)},${text(subject)},${text(correlationid)},${text(replyto)},${receipt ?? false},${ttl ?? null},${text(topic)},${text(urgency)}]`;
  // The data is JSON text already; behind the array there is no doubt where it begins.
  return hash("sha256", content + (data ?? ""), "base64url");
}

function text(value: string | undefined): string {
  return value === undefined ? "null" : JSON.stringify(value);
}
