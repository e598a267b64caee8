/**
 * Idempotency keys: their names, their rows, and the answers that are repeated for them.
 * @module
 */
import { writeTime } from "../../time.ts";
import { checksumOfKey } from "./checksum.ts";
import type { FreshMail } from "./shelf.ts";

/** A source's key, as one name: made once for each message, and looked up three times. */
export function nameOfKey(source: string, key: string): string {
  return `${source}\n${key}`;
}

/** The row of a message's idempotency key, as {@link keyRow}; undefined where it has none. */
export function keyOf(mail: FreshMail, user: string): ReturnType<typeof keyRow> | undefined {
  const { source, key, hash, key_due_ms } = mail;
  return key === null ? undefined : keyRow(source, key, hash ?? "", mail, user, key_due_ms);
}

/** A row of an idempotency key: source, key, hash, the answer in short, due_ms, checksum. */
export function keyRow(
  source: string,
  key: string,
  hash: string,
  { message, accepted_ms, ttl }: Pick<FreshMail, "message" | "accepted_ms" | "ttl">,
  user: string,
  dueMs: number,
): readonly [string, string, string, string, number, number] {
  const accepted = JSON.stringify([message, accepted_ms, ttl, user]);
  return [source, key, hash, accepted, dueMs, checksumOfKey(source, key, hash, accepted, dueMs)];
}

/** The answer to whoever sent it, as it is repeated for its idempotency key. */
export function answerOf({ message, accepted_ms, ttl }: Pick<FreshMail, "message" | "accepted_ms" | "ttl">, user: string): string {
  return JSON.stringify({ id: message, time: writeTime(accepted_ms), ttl, recipients: [user] });
}

/** The answer that a key's row holds: as it is, or, of mail that was fresh, in short. */
export function answerOfRow(accepted: string): string {
  if (!accepted.startsWith("[")) return accepted;
  const [message, accepted_ms, ttl, user] = JSON.parse(accepted) as [string, number, number, string];
  return answerOf({ message, accepted_ms, ttl }, user);
}
