/**
 * Puts a backup in the place of a store.
 * @module
 */
import { chmodSync, copyFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { type CheckedMailbox, checksumOfMailbox, MAILBOX_COLUMNS } from "./checksum.ts";
import { type Content, examineFile } from "./doctor.ts";
import { makeFolder } from "./folder.ts";
import { cannotOpen, isAbsent, makeDatabase } from "./open.ts";
import { replaceStore } from "./replace.ts";
import { CannotOpen, type Db, databaseFile, isDamage, newEpoch } from "./schema.ts";
import { openReadOnly } from "./verify.ts";

export interface Restored {
  readonly content: Content;
  /** The folder that keeps the store that was there before. */
  readonly kept: string | undefined;
}

/**
 * Makes a backup the store of a data folder, under a new epoch: every client is given all that is unsettled in it.
 * @param backup  a file that `handover backup` wrote; it is not changed
 * @param dir     the data folder, made where it is not there; the store in it is kept in a folder beside it
 * @throws CannotOpen when the backup is damaged, a server has the folder open, or there is no room
 */
export function restoreStore(backup: string, dir: string): Restored {
  const folder = resolve(dir);
  const { findings, content } = examineFile(backup);
  if (!content) throw new CannotOpen(`The backup ${backup} is damaged (${findings[0]}), so nothing was changed. Take an older one.`);
  const made = join(folder, "handover.db.new");
  const release = holdFolder(folder);
  try {
    makeFolder(folder);
    copyFileSync(backup, made);
    chmodSync(made, 0o600);
    const db = makeDatabase(made, folder);
    try {
      beginEpoch(db);
    } finally {
      db.close();
    }
    return { content, kept: replaceStore(folder, made, "before-restore") };
  } catch (thrown) {
    for (const end of ["", "-wal", "-shm"]) rmSync(made + end, { force: true });
    throw cannotOpen(thrown, folder, made);
  } finally {
    release();
  }
}

/** Keeps servers out of a folder, as far as there is a store in it that can be read. @throws CannotOpen when one has it open */
function holdFolder(folder: string): () => void {
  const file = databaseFile(folder);
  if (isAbsent(file)) return () => {};
  try {
    const { db, close } = openReadOnly(file);
    db.exec("BEGIN");
    db.prepare("SELECT count(*) FROM sqlite_schema").get();
    return close;
  } catch (thrown) {
    if (isDamage(thrown)) return () => {};
    throw cannotOpen(thrown, folder, file);
  }
}

/** What was handed out since, and what was held, is not known any more: numbers begin a new run, and nothing is held. */
function beginEpoch(db: Db): void {
  db.transaction(() => {
    db.prepare("UPDATE meta SET value = ? WHERE key = 'epoch'").run(newEpoch());
    db.exec("DELETE FROM holds; DELETE FROM holders");
    const keep = db.prepare("UPDATE mailboxes SET holds = 0, checksum = ? WHERE id = ?");
    for (const box of db.prepare<[], CheckedMailbox>(`SELECT ${MAILBOX_COLUMNS} FROM mailboxes WHERE holds <> 0`).all())
      keep.run(checksumOfMailbox({ ...box, holds: 0 }), box.id);
  })();
}
