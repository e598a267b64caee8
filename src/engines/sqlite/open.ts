/**
 * Opens the database file of a data folder: one owner, durable from the directory entry on, of a version that this program knows.
 * @module
 */
import { readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import Database from "better-sqlite3";
import { makeFolder, syncFolder } from "./folder.ts";
import { countDamagedFresh } from "./fresh-row.ts";
import { markFile, readMark } from "./mark.ts";
import { giveUpReserve } from "./reserve.ts";
import { CannotOpen, CHECKSUMS_SINCE, checkVersion, type Db, databaseFile, FRESH_SINCE, isDamage, migrate, sqliteCode, text } from "./schema.ts";
import { commitsMissing, damageOfLogIn, damageOfMailboxes, damageOfPages, openReadOnly } from "./verify.ts";

/** A store up to this size is looked through whenever it is opened: about a second for 128 MiB. Larger ones are for `handover doctor`. */
const LOOK_BYTES = 128 * 1_048_576;

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
  const isNew = isAbsent(file);
  try {
    if (isNew) lookForMissing(folder);
    else look(folder, file);
    const db = makeDatabase(file, folder);
    if (isNew) syncFolder(folder);
    return db;
  } catch (cause) {
    // Reading alone takes some room. What is kept for such a moment is given up; then it can be opened, and mail can be acknowledged.
    if (isOutOfRoom(cause) && giveUpReserve(folder)) return openDatabase(dir);
    throw cannotOpen(cause, folder, file);
  }
}

function isOutOfRoom(cause: unknown): boolean {
  return /^SQLITE_(FULL|IOERR_SHMSIZE)/.test(sqliteCode(cause) ?? "");
}

/**
 * Opens a database file as its only owner, made and brought to the newest version where that is needed.
 * @param folder  its data folder, for what is said
 * @throws CannotOpen | SqliteError
 */
export function makeDatabase(file: string, folder: string): Db {
  const isNew = isAbsent(file);
  // No waiting for a lock: whoever holds it keeps it as long as it lives.
  const db = new Database(file, { timeout: 0 });
  try {
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
    return db;
  } catch (cause) {
    db.close();
    throw cause;
  }
}

/** Whether there is no database, or one in which nothing was ever written. */
export function isAbsent(file: string): boolean {
  return (statSync(file, { throwIfNoEntry: false })?.size ?? 0) === 0;
}

/** A store that was there is not begun anew in silence. @throws CannotOpen */
function lookForMissing(folder: string): void {
  const commits = readMark(folder)?.commits ?? 0;
  if (commits === 0) return;
  const what = `after ${commits} commits its database handover.db is not there, or empty (who wants to begin with an empty store removes ${markFile(folder)})`;
  throw damaged(folder, what);
}

/**
 * Looks at a store before it is opened for writing, and so before anything of it is changed: whoever repairs it needs it as it is.
 * @throws CannotOpen | SqliteError
 */
function look(folder: string, file: string): void {
  const ofLog = damageOfLogIn(folder);
  const { db, close } = openReadOnly(file);
  try {
    const version = checkVersion(db, folder);
    if (ofLog) throw damaged(folder, ofLog);
    // As it is before the first start has ended, and without its log.
    if (version === 0) {
      lookForMissing(folder);
      return;
    }
    const missing = commitsMissing(db, folder);
    if (missing) throw damaged(folder, missing);
    const ofFresh = version < FRESH_SINCE ? 0 : countDamagedFresh(db);
    if (ofFresh > 0) throw damaged(folder, `${ofFresh} rows of fresh mail are not what was written`);
    if (version < CHECKSUMS_SINCE) return;
    if (statSync(file).size > LOOK_BYTES) return;
    const found = damageOfPages(db);
    if (found.length === 0) found.push(...damageOfMailboxes(db));
    if (found.length > 0) throw damaged(folder, found.slice(0, 3).join("; "));
  } finally {
    close();
  }
}

/** What to do about a damaged store. */
export function damaged(folder: string, what: string): CannotOpen {
  return new CannotOpen(
    `The store in ${folder} is damaged: ${what}. \`handover doctor --data ${folder}\` says what is wrong, and with --repair saves what ` +
      "can be read; `handover restore` puts a backup in its place. Look at the disk, too.",
  );
}

/** Why a store could not be opened, in a sentence for the operator. */
export function cannotOpen(cause: unknown, folder: string, file: string): CannotOpen {
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
  if (isOutOfRoom(cause)) return new CannotOpen(`The disk of the data folder ${folder} is full. Free some space, then start again.`);
  if (isDamage(cause)) return damaged(folder, text(cause));
  return new CannotOpen(`The store in ${folder} cannot be opened: ${code} ${text(cause)}.`);
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
