/**
 * Says what is wrong with a store that no server has open, and makes a new one of what can be read.
 * @module
 */
import { rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { readMark } from "./mark.ts";
import { cannotOpen, isAbsent, makeDatabase } from "./open.ts";
import { replaceStore } from "./replace.ts";
import { type Salvaged, salvage } from "./salvage.ts";
import { CannotOpen, CHECKSUMS_SINCE, checkVersion, type Db, databaseFile, FRESH_SINCE, isDamage, MIGRATIONS, text } from "./schema.ts";
import {
  commitsMissing,
  damageOfFresh,
  damageOfLogIn,
  damageOfMailboxes,
  damageOfPages,
  damageOfRows,
  openReadOnly,
  type Unreadable,
} from "./verify.ts";

export interface Content {
  readonly mailboxes: number;
  readonly unsettled: number;
}

export interface Diagnosis {
  /** What is wrong, each in a sentence; none: the store is in order. */
  readonly findings: readonly string[];
  /** Unsettled mail that cannot be handed out, as far as it can be named. */
  readonly unreadable: readonly Unreadable[];
  /** What is not as it could be, and does no harm. */
  readonly notes: readonly string[];
  /** Commits are missing, or it cannot be told. */
  readonly misses: boolean;
  /** What is there, where that can be counted. */
  readonly content?: Content;
}

/**
 * Looks at all of a data folder's store. Changes nothing.
 * @throws CannotOpen when there is none, a server has it open, or it is another program's
 */
export function examineFolder(dir: string): Diagnosis {
  const folder = resolve(dir);
  const file = databaseFile(folder);
  if (isAbsent(file)) return nothing(folder);
  // Whether somebody has it open is asked first: what is being written is not damaged.
  const found = examine(folder, file, (db) => {
    const missing = commitsMissing(db, folder);
    return missing === undefined ? [] : [missing];
  });
  const ofLog = damageOfLogIn(folder);
  return ofLog === undefined ? found : { ...found, findings: [ofLog, ...found.findings], misses: true };
}

/** Looks at a database that is one file, such as a backup. @throws CannotOpen when it is not there, or another program's */
export function examineFile(file: string): Diagnosis {
  if (isAbsent(file)) return nothing(file);
  return examine(file, file, () => []);
}

/** There is no store, or there was one. @throws CannotOpen for the former */
function nothing(place: string): Diagnosis {
  const commits = readMark(place)?.commits ?? 0;
  if (commits === 0) throw new CannotOpen(`There is no store in ${place}.`);
  return { findings: [`after ${commits} commits its database handover.db is not there, or empty`], unreadable: [], notes: [], misses: true };
}

function examine(place: string, file: string, missing: (db: Db) => readonly string[]): Diagnosis {
  // Until it is known that none are.
  let misses = true;
  const findings: string[] = [];
  try {
    const { db, close } = openReadOnly(file);
    try {
      const version = versionOf(db, place);
      if (version === 0) return nothing(place);
      findings.push(...missing(db));
      misses = findings.length > 0;
      findings.push(...damageOfPages(db));
      if (version < CHECKSUMS_SINCE) {
        const note = `It is of version ${version}, which has no checksums; the next start makes version ${MIGRATIONS.length} of it`;
        return { findings, unreadable: [], notes: [note], misses, ...(findings.length === 0 ? { content: contentOf(db) } : {}) };
      }
      findings.push(...damageOfMailboxes(db));
      const { unreadable, leftovers, ...rows } = damageOfRows(db, version);
      const fresh = version < FRESH_SINCE ? undefined : damageOfFresh(db);
      const content = contentOf(db);
      return {
        findings: [...findings, ...rows.findings, ...(fresh?.findings ?? [])],
        unreadable: [...unreadable, ...(fresh?.unreadable ?? [])],
        notes: leftovers,
        misses,
        content: { ...content, unsettled: content.unsettled + (fresh?.waiting ?? 0) },
      };
    } finally {
      close();
    }
  } catch (thrown) {
    if (!isDamage(thrown)) throw cannotOpen(thrown, place, file);
    return { findings: [...findings, `SQLite cannot read it: ${text(thrown)}`], unreadable: [], notes: [], misses };
  }
}

/** A folder with a mark was ours, whatever the head of its database says. */
function versionOf(db: Db, place: string): number {
  try {
    return checkVersion(db, place);
  } catch (thrown) {
    const version = Number(db.pragma("user_version", { simple: true }));
    if (readMark(place) && (version <= MIGRATIONS.length || version > MIGRATIONS.length + MANY_VERSIONS)) return MIGRATIONS.length;
    throw thrown;
  }
}
/** No program is so much newer: the head is damaged. */
const MANY_VERSIONS = 100;

function contentOf(db: Db): Content {
  const count = (sql: string) => Number(db.prepare(sql).pluck().get());
  return {
    mailboxes: count("SELECT count(*) FROM mailboxes"),
    unsettled: count("SELECT count(*) FROM deliveries WHERE ending IS NULL"),
  };
}

export interface Repaired {
  readonly salvaged: Salvaged;
  /** The folder that keeps the damaged store, and `unaddressed.jsonl` where there are events of which nothing says for whom they are. */
  readonly kept: string | undefined;
}

/**
 * Makes a new store of what can be read of a damaged one, under a new epoch, and keeps the damaged one in a folder beside it.
 * @param diagnosis  of this folder
 * @throws CannotOpen when nothing can be read, or there is no room
 */
export function repair(dir: string, { misses }: Pick<Diagnosis, "misses">): Repaired {
  const folder = resolve(dir);
  const file = databaseFile(folder);
  if (isAbsent(file) && isAbsent(`${file}-wal`))
    throw new CannotOpen(`There is nothing to read in ${folder}: neither handover.db nor its log. \`handover restore\` puts a backup in its place.`);
  const made = join(folder, "handover.db.new");
  removeAll(made);
  try {
    const db = makeDatabase(made, folder);
    let salvaged: Salvaged;
    try {
      salvaged = salvage(folder, db, misses);
    } finally {
      db.close();
    }
    const { findings } = examineFile(made);
    if (findings.length > 0) throw new CannotOpen(`What could be read of the store in ${folder} does not make a store: ${findings[0]}.`);
    const kept = replaceStore(folder, made, "damaged");
    if (kept !== undefined && salvaged.unaddressed.length > 0)
      writeFileSync(join(kept, "unaddressed.jsonl"), salvaged.unaddressed.map((event) => `${event}\n`).join(""), { mode: 0o600 });
    return { salvaged, kept };
  } catch (thrown) {
    removeAll(made);
    throw cannotOpen(thrown, folder, made);
  }
}

function removeAll(file: string): void {
  for (const end of ["", "-wal", "-shm", "-journal"]) rmSync(file + end, { force: true });
}
