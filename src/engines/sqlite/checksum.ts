/**
 * Checksums of rows. SQLite does not check its pages, so a bit that turned over on the disk could make a message somebody else's: what says
 * whose a message is, and which, is checked whenever it is read.
 * @module
 */
import { crc32 } from "node:zlib";
import type Database from "better-sqlite3";

/** What a delivery's checksum covers, while it is unsettled: all that decides who gets what, under which number, how long. */
export interface CheckedDelivery {
  readonly message: string;
  readonly mailbox: number;
  readonly seq: number | null;
  readonly event: number | null;
  readonly source: string;
  readonly session: string | null;
  readonly topic: string | null;
  readonly bytes: number;
  readonly attempts: number;
  readonly expires_ms: number;
}

/**
 * @param user           whose mailbox it is
 * @param eventChecksum  of the event's text: one message's row must not lead to another's text
 */
export function checksumOfDelivery(row: CheckedDelivery, user: string, eventChecksum: number | null): number {
  const { message, mailbox, seq, event, source, session, topic, bytes, attempts, expires_ms } = row;
  return crc32(
    `${message}\n${user}\n${mailbox} ${seq} ${event} ${eventChecksum} ${bytes} ${attempts} ${expires_ms}\n${source}\n${session}\n${topic}`,
  );
}

/** Whether a delivery that is unsettled is what was written for this user. */
export function isIntact(row: CheckedDelivery & { readonly checksum: number | null; readonly event_checksum: number | null }, user: string): boolean {
  return checksumOfDelivery(row, user, row.event_checksum) === row.checksum;
}

/** The columns of a mailbox's row that its checksum covers. */
export const MAILBOX_COLUMNS = "id, user, head, count, bytes, forgotten, holds";

export interface CheckedMailbox {
  readonly id: number;
  readonly user: string;
  readonly head: number;
  readonly count: number;
  readonly bytes: number;
  readonly forgotten: number;
  readonly holds: number;
}

export function checksumOfMailbox({ id, user, head, count, bytes, forgotten, holds }: CheckedMailbox): number {
  return crc32(`${id} ${head} ${count} ${bytes} ${forgotten} ${holds}\n${user}`);
}

export function checksumOfKey(source: string, key: string, hash: string, accepted: string, dueMs: number): number {
  return crc32(`${source}\n${key}\n${hash}\n${dueMs}\n${accepted}`);
}

/** Makes the three known to SQL, for the migration that gave the rows of older stores their checksums. */
export function addFunctions(db: Database.Database): void {
  const options = { deterministic: true, directOnly: true };
  db.function(
    "delivery_checksum",
    options,
    (message, mailbox, seq, event, source, session, topic, bytes, attempts, expires_ms, user, eventChecksum) =>
      checksumOfDelivery(
        { message, mailbox, seq, event, source, session, topic, bytes, attempts, expires_ms } as CheckedDelivery,
        user as string,
        eventChecksum as number | null,
      ),
  );
  db.function("mailbox_checksum", options, (id, user, head, count, bytes, forgotten, holds) =>
    checksumOfMailbox({ id, user, head, count, bytes, forgotten, holds } as CheckedMailbox),
  );
  db.function("key_checksum", options, (source, key, hash, accepted, dueMs) =>
    checksumOfKey(source as string, key as string, hash as string, accepted as string, dueMs as number),
  );
}
