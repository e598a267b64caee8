/**
 * Translates between the engine's interface and what its two threads say to each other.
 * @module
 */
import type { Accepted } from "../../answers.ts";
import type { Addressed, Appended, Ended, Entry, Gap, MessageState, Recipient, SessionEnd, Settlement } from "../../engine.ts";
import { HandoverError } from "../../errors.ts";
import type { MessageId, SessionId, UserId } from "../../protocol.ts";
import { writeTime } from "../../time.ts";
import {
  type AppendItem,
  type AppendResult,
  type Change,
  CONFLICT,
  ENDINGS,
  type EndedRow,
  type EndResult,
  type EntryRow,
  type FindResult,
  FULL,
  type Op,
  type Result,
  SESSION_ENDED,
  type UnsettledRow,
} from "./call.ts";

export function toItem(message: Addressed): AppendItem {
  const { recipients, idempotency } = message;
  if (recipients.length === 0) throw wrong("A message needs at least one recipient");
  const users = recipients.map(({ user }) => checkText(user, "user"));
  if (users.length > 1 && new Set(users).size < users.length) throw wrong("A message names a recipient twice");
  const acceptedAtMs = checkWhole(message.acceptedAtMs, "acceptedAtMs");
  const expiresAtMs = checkWhole(message.expiresAtMs, "expiresAtMs");
  return [
    checkText(message.id, "id"),
    checkText(message.source, "source"),
    checkText(message.event, "event"),
    Buffer.byteLength(message.event),
    acceptedAtMs,
    expiresAtMs,
    checkWhole(message.ttlSeconds, "ttlSeconds"),
    users,
    recipients.some(({ session }) => session !== undefined)
      ? recipients.map(({ session }) => (session === undefined ? null : checkText(session, "session")))
      : null,
    message.topic === undefined ? null : checkText(message.topic, "topic"),
    idempotency ? checkText(idempotency.key, "key") : null,
    idempotency ? checkText(idempotency.hash, "hash") : null,
  ];
}

export function toAppended(item: AppendItem | undefined, result: AppendResult | undefined): Appended {
  if (result === CONFLICT) return { outcome: "conflict" };
  if (result === FULL) return { outcome: "full" };
  if (result === SESSION_ENDED) return { outcome: "session-ended" };
  if (typeof result === "string") return { outcome: "repeated", accepted: JSON.parse(result) as Accepted };
  if (typeof result !== "object" || !item) return { outcome: "not-stored" };
  const [id, , , , acceptedAtMs, , ttl, users] = item;
  const accepted = { id: id as MessageId, time: writeTime(acceptedAtMs), ttl };
  if (!result.includes(0)) return { outcome: "stored", accepted: { ...accepted, recipients: users as readonly UserId[] } };
  const recipients = users.filter((_user, place) => (result[place] ?? 0) > 0) as UserId[];
  const refused = users.filter((_user, place) => (result[place] ?? 0) === 0) as UserId[];
  return { outcome: "stored", accepted: { ...accepted, recipients, refused } };
}

export function toChange(change: Settlement): Change {
  switch (change.kind) {
    case "acked":
      return ["acked", change.seqs.map((seq) => checkWhole(seq, "seq"))];
    case "acked-upto":
      return ["acked-upto", checkWhole(change.upto, "upto"), change.except.map((seq) => checkWhole(seq, "seq"))];
    case "rejected":
      return ["rejected", checkWhole(change.seq, "seq"), checkText(change.reason, "reason")];
    case "nacked":
      return ["nacked", checkWhole(change.seq, "seq"), checkWhole(Math.ceil(change.retryAfterMs), "retryAfterMs")];
    case "held":
      return ["held", checkText(change.receiver, "receiver"), change.seqs.map((seq) => checkWhole(seq, "seq"))];
    case "released":
      return ["released", checkText(change.receiver, "receiver"), checkWhole(change.above, "above")];
  }
}

export function toEntry(row: EntryRow): Entry {
  const [seq, id, deliveryCount, event, session] = row;
  return { seq, id: id as MessageId, deliveryCount, event, ...(session === null ? {} : { session: session as SessionId }) };
}

/** Rows of deliveries as messages, in the order of acceptance. */
export function toAddressed(rows: readonly UnsettledRow[], nowMs: number): Addressed[] {
  const messages = new Map<number, Addressed & { readonly recipients: Recipient[] }>();
  for (const [place, id, source, event, expiresAtMs, topic, user, session] of rows) {
    const recipient: Recipient = { user: user as UserId, ...(session === null ? {} : { session: session as SessionId }) };
    const known = messages.get(place);
    if (known) {
      known.recipients.push(recipient);
      continue;
    }
    // What has just expired is not yet swept; it must not look as if it had had no time to live at all.
    const acceptedAtMs = Math.min(nowMs, expiresAtMs - 1);
    const ttlSeconds = Math.ceil((expiresAtMs - acceptedAtMs) / 1_000);
    messages.set(place, {
      id: id as MessageId,
      source,
      event,
      acceptedAtMs,
      expiresAtMs,
      ttlSeconds,
      recipients: [recipient],
      ...(topic === null ? {} : { topic }),
    });
  }
  return [...messages].sort(([one], [other]) => one - other).map(([, message]) => message);
}

/** Only plain values may reach the worker: one that cannot be copied or bound would spoil a whole batch. */
export function checkText<T extends string>(value: T, what: string): T {
  if (typeof value !== "string") throw wrong(`${what} is not text`);
  return value;
}

export function checkWhole(value: number, what: string): number {
  if (!Number.isSafeInteger(value)) throw wrong(`${what} is not a whole number`);
  return value;
}

function wrong(what: string): HandoverError {
  return new HandoverError("internal", `The store was asked for something it cannot do: ${what}. Nothing was stored.`);
}

/** Flat triples, as the worker answers a read. */
export function toGaps(flat: readonly number[]): Gap[] {
  const gaps: Gap[] = [];
  for (let at = 0; at < flat.length; at += 3) {
    const [from = 0, to = 0, reason = -1] = flat.slice(at, at + 3);
    const ending = ENDINGS[reason];
    gaps.push({ from, to, reason: ending === undefined || ending === "acked" ? "unknown" : ending });
  }
  return gaps;
}

export function toEnded([seq, id, ending]: EndedRow): Ended {
  return { seq, id: id as MessageId, ending: ENDINGS[ending] ?? "dead" };
}

export function toSessionEnd({ users, evicted }: EndResult): SessionEnd {
  return { users: users as readonly UserId[], evicted: evicted.map(([id, user]) => ({ id: id as MessageId, user: user as UserId })) };
}

export function toState(found: FindResult): MessageState {
  const recipients = found.recipients.map(([user, ending, endedAtMs]) => ({
    user: user as UserId,
    state: ENDINGS.find((each) => each === ending) ?? ("waiting" as const),
    ...(endedAtMs === null ? {} : { endedAtMs }),
  }));
  return { source: found.source, recipients };
}

/** How many messages an operation stored or settled. */
export function countMessages(op: Op, result: Result | undefined): number {
  if (op[0] === "evict" && typeof result === "number") return result;
  if (op[0] === "end" && typeof result === "object" && result !== null && "users" in result) return result.evicted.length;
  if (!Array.isArray(result)) return 0;
  if (op[0] === "settle") return result.length;
  // What was stored has the numbers that it was given; what was not, has a reason.
  return op[0] === "append" || op[0] === "each" ? result.filter((each) => typeof each === "object").length : 0;
}
