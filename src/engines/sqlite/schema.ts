/**
 * What is in the database file of a data folder, and how a store of an older version becomes one of this.
 * @module
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import Database from "better-sqlite3";
import { addFunctions } from "./checksum.ts";

export type Db = Database.Database;

/** Marks the file as ours (`PRAGMA application_id`): "HAND". */
const APPLICATION = 0x48414e44;

/** Each step takes a store from version n (its place in the list) to n + 1. Steps are never changed once released. */
export const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE totals (name TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  INSERT INTO totals (name, n) VALUES ('accepted', 0), ('unsettled', 0), ('acked', 0), ('expired', 0), ('replaced', 0), ('evicted', 0), ('dead', 0);

  -- head: last number given. count, bytes: what is unsettled. forgotten: the highest number of an unacknowledged ending whose row was purged.
  CREATE TABLE mailboxes (
    id INTEGER PRIMARY KEY, user TEXT NOT NULL UNIQUE, head INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL, forgotten INTEGER NOT NULL
  ) STRICT;

  -- The CloudEvent once per message; gone when no recipient needs it: none unsettled, no dead letter kept.
  CREATE TABLE events (
    id INTEGER PRIMARY KEY, recipients INTEGER NOT NULL, unsettled INTEGER NOT NULL, dead INTEGER NOT NULL, checksum INTEGER NOT NULL, event TEXT NOT NULL
  ) STRICT;

  -- One message for one recipient. seq: null while a nack delays it. due_ms: when a sweep has something to do with it: expiry, return or purge.
  CREATE TABLE deliveries (
    message TEXT NOT NULL, mailbox INTEGER NOT NULL, seq INTEGER, event INTEGER, source TEXT NOT NULL, session TEXT, topic TEXT, bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL, expires_ms INTEGER NOT NULL, due_ms INTEGER, ending TEXT, ended_ms INTEGER, reason TEXT, PRIMARY KEY (message, mailbox)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX deliveries_mail ON deliveries (mailbox, seq) WHERE ending IS NULL;
  CREATE INDEX deliveries_gaps ON deliveries (mailbox, seq, ending, session) WHERE ending IS NOT NULL AND ending <> 'acked';
  CREATE INDEX deliveries_topic ON deliveries (mailbox, topic, source) WHERE topic IS NOT NULL AND ending IS NULL;
  CREATE INDEX deliveries_due ON deliveries (due_ms) WHERE due_ms IS NOT NULL;

  CREATE TABLE idempotency (
    source TEXT NOT NULL, key TEXT NOT NULL, hash TEXT NOT NULL, accepted TEXT NOT NULL, due_ms INTEGER NOT NULL, PRIMARY KEY (source, key)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX idempotency_due ON idempotency (due_ms);
  `,
  `
  -- Whose a session is, and until when that is known. Ended ones, and until when that is remembered.
  CREATE TABLE sessions (session TEXT NOT NULL, user TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (session, user)) STRICT, WITHOUT ROWID;
  CREATE INDEX sessions_due ON sessions (until_ms);
  CREATE TABLE ended_sessions (session TEXT PRIMARY KEY, until_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE INDEX ended_sessions_due ON ended_sessions (until_ms);
  CREATE INDEX deliveries_session ON deliveries (session) WHERE session IS NOT NULL AND ending IS NULL;
  `,
  `
  -- holds: how many there are in the mailbox. Where there are none, an ending costs nothing more.
  ALTER TABLE mailboxes ADD COLUMN holds INTEGER NOT NULL DEFAULT 0;
  -- Receivers that hold something, and when they last began to. What each holds.
  CREATE TABLE holders (
    id INTEGER PRIMARY KEY, mailbox INTEGER NOT NULL, session TEXT NOT NULL, receiver TEXT NOT NULL, used_ms INTEGER NOT NULL,
    UNIQUE (mailbox, session, receiver)
  ) STRICT;
  CREATE INDEX holders_age ON holders (mailbox, used_ms);
  CREATE INDEX holders_session ON holders (session);
  CREATE TABLE holds (mailbox INTEGER NOT NULL, seq INTEGER NOT NULL, holder INTEGER NOT NULL, PRIMARY KEY (mailbox, seq, holder)) STRICT, WITHOUT ROWID;
  CREATE INDEX holds_holder ON holds (holder, seq);
  `,
  `
  -- checksum: see checksum.ts; of a delivery while it is unsettled. commits: how many there were, to be held against the mark beside the file.
  ALTER TABLE deliveries ADD COLUMN checksum INTEGER;
  ALTER TABLE mailboxes ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE idempotency ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
  INSERT INTO totals (name, n) VALUES ('commits', 0);
  UPDATE deliveries AS d SET checksum =
    (SELECT delivery_checksum(d.message, d.mailbox, d.seq, d.event, d.source, d.session, d.topic, d.bytes, d.attempts, d.expires_ms, m.user, e.checksum)
      FROM mailboxes m, events e WHERE m.id = d.mailbox AND e.id = d.event) WHERE d.ending IS NULL;
  UPDATE mailboxes SET checksum = mailbox_checksum(id, user, head, count, bytes, forgotten, holds);
  UPDATE idempotency SET checksum = key_checksum(source, key, hash, accepted, due_ms);
  `,
  `
  -- What commit n did with fresh mail: see fresh.ts. mails: how many came. checksum: of the header. folded: what came up to this commit has rows.
  CREATE TABLE fresh (n INTEGER PRIMARY KEY, mails INTEGER NOT NULL, checksum INTEGER NOT NULL, header TEXT NOT NULL, events BLOB NOT NULL) STRICT;
  INSERT INTO totals (name, n) VALUES ('folded', 0);
  `,
  `
  -- What was fresh and acknowledged when it got rows goes together. due_ms: when. first, last: among these messages it is. keys: pairs of source and key, as JSON.
  CREATE TABLE folds (n INTEGER PRIMARY KEY, due_ms INTEGER NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL, keys TEXT NOT NULL) STRICT;
  CREATE INDEX folds_due ON folds (due_ms);
  -- fold: with what it goes; null: at its own date.
  ALTER TABLE deliveries ADD COLUMN fold INTEGER;
  ALTER TABLE idempotency ADD COLUMN fold INTEGER;
  DROP INDEX idempotency_due;
  CREATE INDEX idempotency_due ON idempotency (due_ms) WHERE fold IS NULL;
  CREATE INDEX deliveries_delayed ON deliveries (due_ms) WHERE seq IS NULL AND ending IS NULL;
  `,
  `
  -- In which fold a key is, by a number made of it: fold.ts. From now on a fold has the keys themselves, and their numbers; older ones have no checksums.
  ALTER TABLE folds ADD COLUMN keys_checksum INTEGER;
  ALTER TABLE folds ADD COLUMN numbers BLOB;
  ALTER TABLE folds ADD COLUMN numbers_checksum INTEGER;
  CREATE TABLE folded_keys (number INTEGER PRIMARY KEY, fold INTEGER NOT NULL) STRICT;
  `,
  `
  -- mails: the states of so many messages are in the text, too, from first to last; no other fold has any between those. null: they have rows in deliveries.
  ALTER TABLE folds ADD COLUMN mails INTEGER;
  CREATE INDEX folds_first ON folds (first) WHERE mails IS NOT NULL;
  `,
];

/** The version whose rows have checksums. */
export const CHECKSUMS_SINCE = 4;

/** The version that has fresh mail. */
export const FRESH_SINCE = 5;

/** The version in which what was acknowledged while it was fresh goes together. */
export const FOLDS_SINCE = 6;

/** The version whose folds have the keys themselves. */
export const FOLDED_KEYS_SINCE = 7;

/** The version whose folds have the states of their messages. */
export const FOLDED_STATES_SINCE = 8;

/** Why a store cannot be opened: a sentence for the operator. */
export class CannotOpen extends Error {}

/** What is on the disk is not what was written there. */
export class Damaged extends Error {}

/** The database file of a data folder. */
export function databaseFile(dir: string): string {
  return join(dir, "handover.db");
}

/** @returns the version of a store of ours. @throws CannotOpen for any other */
export function checkVersion(db: Db, folder: string): number {
  const version = db.pragma("user_version", { simple: true });
  const application = db.pragma("application_id", { simple: true });
  if (typeof version !== "number") throw new CannotOpen(`The store in ${folder} has no version.`);
  const isEmpty = db.prepare("SELECT count(*) FROM sqlite_schema").pluck().get() === 0;
  if (!isEmpty && application !== APPLICATION)
    throw new CannotOpen(
      `The database of ${folder} is not a store of Handover. Choose another data folder; if it was one, \`handover doctor --data ${folder}\` looks at it.`,
    );
  if (version > MIGRATIONS.length)
    throw new CannotOpen(
      `The store in ${folder} has version ${version}; this program knows versions up to ${MIGRATIONS.length}. Run the newer Handover that wrote it, or choose another data folder; if there was none, \`handover doctor --data ${folder}\` looks at it.`,
    );
  return version;
}

/** Makes what is missing of the newest version, or of an older one. @throws CannotOpen */
export function migrate(db: Db, folder: string, to: number = MIGRATIONS.length): void {
  const version = checkVersion(db, folder);
  if (version >= to) return;
  addFunctions(db);
  db.transaction(() => {
    for (const step of MIGRATIONS.slice(version, to)) db.exec(step);
    db.pragma(`application_id = ${APPLICATION}`);
    db.pragma(`user_version = ${to}`);
    if (version === 0) db.prepare("INSERT INTO meta (key, value) VALUES ('epoch', ?)").run(newEpoch());
  }).immediate();
}

/** A name for a run of sequence numbers that no other has. */
export function newEpoch(): string {
  return randomBytes(12).toString("base64url");
}

/** The result code of an error that SQLite reported, or undefined. */
export function sqliteCode(thrown: unknown): string | undefined {
  return thrown instanceof Database.SqliteError ? thrown.code : undefined;
}

/** Whether an error says that the store is damaged. */
export function isDamage(thrown: unknown): boolean {
  const code = sqliteCode(thrown) ?? "";
  // A short read: the file ends before a page that it should have.
  return thrown instanceof Damaged || code === "SQLITE_NOTADB" || code === "SQLITE_IOERR_SHORT_READ" || code.startsWith("SQLITE_CORRUPT");
}

export function text(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
