/**
 * Looks whether a store is in order, without changing it.
 * @module
 */
import { existsSync, rmSync, statSync } from "node:fs";
import Database from "better-sqlite3";
import { checksumOfMailbox, MAILBOX_COLUMNS } from "./checksum.ts";
import { damageOfLog } from "./log.ts";
import { readMark } from "./mark.ts";
import { type Db, databaseFile } from "./schema.ts";

/** Most findings of one kind that are told. */
const MAX_TOLD = 20;

/**
 * Opens the database of a data folder for reading only: nothing of it, nor of its log, is changed, also when it is closed.
 * @throws SqliteError, SQLITE_BUSY when a process has it open
 */
export function openReadOnly(dir: string): { readonly db: Db; close(): void } {
  const file = databaseFile(dir);
  const made = ["-shm", "-wal"].filter((end) => !existsSync(file + end));
  const tidy = () => {
    // SQLite makes them, also for a reader. An empty log says nothing.
    for (const end of made) if (end === "-shm" || statSync(file + end, { throwIfNoEntry: false })?.size === 0) rmSync(file + end, { force: true });
  };
  let db: Db | undefined;
  try {
    db = new Database(file, { readonly: true, fileMustExist: true, timeout: 0 });
    db.pragma("schema_version");
    const opened = db;
    return {
      db: opened,
      close() {
        opened.close();
        tidy();
      },
    };
  } catch (thrown) {
    db?.close();
    // Who has it open may have made them.
    if (!(thrown instanceof Database.SqliteError && thrown.code.startsWith("SQLITE_BUSY"))) tidy();
    throw thrown;
  }
}

/** What is wrong with the log of a data folder, as far as the log itself can say. */
export function damageOfLogIn(dir: string): string | undefined {
  const log = `${databaseFile(dir)}-wal`;
  if (!existsSync(log)) return undefined;
  const damage = damageOfLog(log);
  return damage && `the write-ahead log handover.db-wal is damaged (${damage}): commits behind that are not read`;
}

/** Commits that the folder's mark knows of, and that are not in the store. */
export function commitsMissing(db: Db, dir: string): string | undefined {
  const mark = readMark(dir);
  if (!mark || mark.epoch !== db.prepare("SELECT value FROM meta WHERE key = 'epoch'").pluck().get()) return undefined;
  const commits = Number(db.prepare("SELECT n FROM totals WHERE name = 'commits'").pluck().get() ?? 0);
  if (commits >= mark.commits) return undefined;
  return `its last ${mark.commits - commits} commits are missing: the write-ahead log handover.db-wal was removed or damaged, or handover.db is an old copy`;
}

/** What SQLite finds wrong with pages and indexes. */
export function damageOfPages(db: Db): string[] {
  const found = db.prepare(`PRAGMA integrity_check(${MAX_TOLD})`).pluck().all().map(String);
  return found.length === 1 && found[0] === "ok" ? [] : found;
}

/** Mailboxes whose numbers are not those that were written. */
export function damageOfMailboxes(db: Db): string[] {
  const found: string[] = [];
  const all = db.prepare<[], Parameters<typeof checksumOfMailbox>[0] & { checksum: number }>(`SELECT ${MAILBOX_COLUMNS}, checksum FROM mailboxes`);
  for (const box of all.iterate()) {
    if (checksumOfMailbox(box) !== box.checksum && found.push(`the row of mailbox ${box.id} (${box.user}) is damaged`) === MAX_TOLD) break;
  }
  return found;
}
