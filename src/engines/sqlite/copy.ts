/**
 * Copies an open store while it goes on.
 * @module
 */
import { chmodSync, closeSync, existsSync, fdatasyncSync, openSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { COPY, type Refusal } from "./call.ts";
import { type Db, sqliteCode, text } from "./schema.ts";

/** Pages that are copied at a time; then commits have their turn. About a millisecond. */
const STEP_PAGES = 64;
/** Pages after which the copy is synced, so that the last sync, for which commits wait, is not one of all of it. */
const SYNC_PAGES = 1_024;

/** Removes what a copy that was not finished has left. */
export function removeCopy(dir: string): void {
  for (const end of ["", "-journal", "-wal", "-shm"]) rmSync(join(dir, COPY) + end, { force: true });
}

/**
 * Copies the store as it is when the copy ends: what is committed on the way is in it (SQLite's online backup, on the connection that writes).
 * @param keepBytes  room that must be left on the disk
 * @returns why there is no copy, or null when it is there, whole and synced
 */
export async function copyStore(db: Db, dir: string, keepBytes: number): Promise<Refusal | null> {
  const file = join(dir, COPY);
  if (existsSync(file)) return { refused: "rate-limited", message: "Another backup is being made; wait until it is done." };
  const pragma = (name: string) => Number(db.pragma(name, { simple: true }));
  const bytes = pragma("page_count") * pragma("page_size");
  const { bavail, bsize } = statfsSync(dir);
  if (bavail * bsize < bytes + keepBytes)
    return {
      refused: "store-full",
      message: `A backup is made beside the store, and there is no room for its ${bytes} bytes on the disk of ${dir}. Nothing else is affected.`,
    };
  let fd: number | undefined;
  let steps = 0;
  try {
    await db.backup(file, {
      progress() {
        if (fd === undefined) {
          fd = openSync(file, "r+");
          chmodSync(file, 0o600);
        }
        steps += 1;
        if ((steps * STEP_PAGES) % SYNC_PAGES === 0) fdatasyncSync(fd);
        return STEP_PAGES;
      },
    });
    return null;
  } catch (thrown) {
    removeCopy(dir);
    const isFull = sqliteCode(thrown)?.startsWith("SQLITE_FULL") ?? false;
    return {
      refused: isFull ? "store-full" : "store-unavailable",
      message: `The backup could not be made: ${text(thrown)}. Nothing else is affected.`,
    };
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
