/**
 * Opens the database file of a data folder: one owner, durable from the directory entry on, of a version that this program knows.
 * @module
 */
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import Database from "better-sqlite3";

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
];

/** Why a store cannot be opened: a sentence for the operator. */
export class CannotOpen extends Error {}

/** The database file of a data folder. */
export function databaseFile(dir: string): string {
  return join(dir, "handover.db");
}

/**
 * Opens or makes the store in `dir`.
 * @throws CannotOpen with a sentence for the operator
 */
export function openDatabase(dir: string): Db {
  const folder = resolve(dir);
  const file = databaseFile(folder);
  try {
    makeFolder(folder);
  } catch (cause) {
    throw new CannotOpen(
      `The data folder ${folder} cannot be made: ${text(cause)}. Choose another folder or give this user the right to write there.`,
    );
  }
  const isNew = !existsSync(file) || statSync(file).size === 0;
  let db: Db | undefined;
  try {
    // No waiting for a lock: whoever holds it keeps it as long as it lives.
    db = new Database(file, { timeout: 0 });
    db.pragma("locking_mode = EXCLUSIVE");
    if (isNew) db.pragma("auto_vacuum = INCREMENTAL");
    // With EXCLUSIVE, this takes the lock on the file; it goes with the process, however that ends.
    if (db.pragma("journal_mode = WAL", { simple: true }) !== "wal")
      throw new CannotOpen(`The file system of ${folder} cannot hold a write-ahead log.`);
    db.pragma("synchronous = FULL");
    db.pragma("wal_autocheckpoint = 0");
    // The write-ahead log is cut back to this when it is begun anew.
    db.pragma("journal_size_limit = 16777216");
    db.pragma("cache_size = -65536");
    db.pragma("temp_store = MEMORY");
    migrate(db, folder);
    if (isNew) syncFolder(folder);
    return db;
  } catch (cause) {
    db?.close();
    throw cannotOpen(cause, folder, file);
  }
}

function migrate(db: Db, folder: string): void {
  const version = db.pragma("user_version", { simple: true });
  const application = db.pragma("application_id", { simple: true });
  if (typeof version !== "number") throw new CannotOpen(`The store in ${folder} has no version.`);
  const isEmpty = db.prepare("SELECT count(*) FROM sqlite_schema").pluck().get() === 0;
  if (!isEmpty && application !== APPLICATION)
    throw new CannotOpen(`${databaseFile(folder)} is not a store of Handover. Choose another data folder.`);
  if (version > MIGRATIONS.length)
    throw new CannotOpen(
      `The store in ${folder} has version ${version}; this program knows versions up to ${MIGRATIONS.length}. Run the newer Handover that wrote it, or choose another data folder.`,
    );
  if (version === MIGRATIONS.length) return;
  db.transaction(() => {
    for (const step of MIGRATIONS.slice(version)) db.exec(step);
    db.pragma(`application_id = ${APPLICATION}`);
    db.pragma(`user_version = ${MIGRATIONS.length}`);
    if (version === 0) db.prepare("INSERT INTO meta (key, value) VALUES ('epoch', ?)").run(randomBytes(12).toString("base64url"));
  }).immediate();
}

function cannotOpen(cause: unknown, folder: string, file: string): CannotOpen {
  if (cause instanceof CannotOpen) return cause;
  const code = sqliteCode(cause) ?? "";
  if (code.startsWith("SQLITE_BUSY") || code.startsWith("SQLITE_LOCKED")) {
    const pid = lockHolder(file);
    const who =
      pid === undefined
        ? "another process (find it with: fuser -v or lsof on that file)"
        : pid === process.pid
          ? "this very process"
          : `process ${pid}`;
    return new CannotOpen(`The data folder ${folder} is in use: ${file} is held by ${who}. Stop that process first, or choose another data folder.`);
  }
  if (code.startsWith("SQLITE_FULL")) return new CannotOpen(`The disk of the data folder ${folder} is full. Free some space, then start again.`);
  if (code === "SQLITE_NOTADB" || code.startsWith("SQLITE_CORRUPT"))
    return new CannotOpen(
      `The store in ${folder} is damaged (${text(cause)}). Keep a copy of the folder, then restore a backup or choose another data folder.`,
    );
  return new CannotOpen(`The store in ${folder} cannot be opened: ${code} ${text(cause)}.`);
}

/** The result code of an error that SQLite reported, or undefined. */
export function sqliteCode(thrown: unknown): string | undefined {
  return thrown instanceof Database.SqliteError ? thrown.code : undefined;
}

/** The process that holds a lock on a file, as Linux tells it; the file itself must not be opened, which would drop our own locks on it. */
function lockHolder(file: string): number | undefined {
  try {
    const { ino, dev } = statSync(file);
    const major = (dev >> 8) & 0xfff;
    const minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
    const device = `${major.toString(16).padStart(2, "0")}:${minor.toString(16).padStart(2, "0")}`;
    // 16: POSIX  ADVISORY  WRITE 9839 fe:00:2147322 1073741824 1073742335
    const locks = readFileSync("/proc/locks", "utf8")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[5]?.endsWith(`:${ino}`));
    // Some file systems show another device number there than stat does.
    const lock = locks.find((fields) => fields[5] === `${device}:${ino}`) ?? locks[0];
    const pid = Number(lock?.[4]);
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** Makes a folder, mode 0700, so that its directory entries survive a power cut. */
function makeFolder(folder: string): void {
  const first = mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  for (let each = folder; each.length >= first.length; each = dirname(each)) syncFolder(dirname(each));
}

/** Makes the entries of a folder durable. */
export function syncFolder(folder: string): void {
  const fd = openSync(folder, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

export function text(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
