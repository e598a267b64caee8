/**
 * Puts another database in the place of a folder's, and keeps what was there.
 * @module
 */
import { copyFileSync, existsSync, linkSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { syncFolder } from "./folder.ts";
import { markFile } from "./mark.ts";
import { databaseFile } from "./schema.ts";

/**
 * Moves `file` to where the store of `dir` is. What was there is kept in a folder beside it. A crash on the way leaves the old database in its
 * place; if its log is gone by then, its mark tells, and it is not opened.
 * @param file  a database, closed and synced, in the same folder
 * @param why   the name of the folder that keeps the old one begins with it
 * @returns that folder, or undefined when nothing was there
 */
export function replaceStore(dir: string, file: string, why: string): string | undefined {
  const old = databaseFile(dir);
  const log = `${old}-wal`;
  const kept = keepingFolder(dir, why);
  if (existsSync(old) || existsSync(log)) {
    mkdirSync(kept, { mode: 0o700 });
    if (existsSync(old)) keep(old, join(kept, "handover.db"));
    if (existsSync(markFile(dir))) copyFileSync(markFile(dir), join(kept, "mark"));
    if (existsSync(log)) renameSync(log, join(kept, "handover.db-wal"));
    syncFolder(kept);
  }
  rmSync(`${old}-shm`, { force: true });
  syncFolder(dir);
  renameSync(file, old);
  syncFolder(dir);
  return existsSync(kept) ? kept : undefined;
}

/** One file under two names, so that the first is never missing. */
function keep(file: string, as: string): void {
  try {
    linkSync(file, as);
  } catch {
    // Not every file system has links.
    copyFileSync(file, as);
  }
}

function keepingFolder(dir: string, why: string): string {
  const name = `${why}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}`;
  for (let n = 1; ; n += 1) {
    const folder = join(dir, n === 1 ? name : `${name}-${n}`);
    if (!existsSync(folder)) return folder;
  }
}
