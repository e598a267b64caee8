/**
 * Looks whether a store is in order, without changing it.
 * @module
 */
import { existsSync, rmSync, statSync } from "node:fs";
import { crc32 } from "node:zlib";
import Database from "better-sqlite3";
import { type CheckedDelivery, checksumOfKey, checksumOfMailbox, isIntact, MAILBOX_COLUMNS } from "./checksum.ts";
import { type FoldedKey, isKey, mailsOf, numberOfKey } from "./fold.ts";
import { readFresh } from "./fresh-row.ts";
import { damageOfLog } from "./log.ts";
import { readMark } from "./mark.ts";
import { type Db, databaseFile, FOLDED_KEYS_SINCE, FOLDED_STATES_SINCE, FOLDS_SINCE, FRESH_SINCE } from "./schema.ts";

/** Most findings of one kind that are told. */
const MAX_TOLD = 20;

export interface ReadOnly {
  readonly db: Db;
  close(): void;
}

/**
 * Opens a database for reading only: nothing of it, nor of its log, is changed, also when it is closed.
 * @throws SqliteError, SQLITE_BUSY when a process has it open for writing
 */
export function openReadOnly(file: string): ReadOnly {
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
  // A commit of fresh mail is counted in its row.
  const hasFresh = Number(db.pragma("user_version", { simple: true })) >= FRESH_SINCE;
  const sql = `SELECT max(n, ${hasFresh ? "coalesce((SELECT max(n) FROM fresh), 0)" : "0"}) FROM totals WHERE name = 'commits'`;
  const commits = Number(db.prepare(sql).pluck().get() ?? 0);
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

/** Mail that is unsettled and cannot be handed out. */
export interface Unreadable {
  readonly message: string;
  /** Whose it is, where that can be told. */
  readonly user: string | undefined;
}

/** What does not fit together in a store whose pages are in order. */
export interface Rows {
  /** Each is a sentence. */
  readonly findings: readonly string[];
  readonly unreadable: readonly Unreadable[];
  /** Left over, needed by nobody, and no harm. */
  readonly leftovers: readonly string[];
}

interface CountedBox {
  readonly user: string;
  readonly said: number;
  readonly counted: number;
}

/**
 * Looks at every row of a store whose rows have checksums, and what its rows say of each other.
 * @param version  of its schema
 * @throws SqliteError when pages are damaged
 */
export function damageOfRows(db: Db, version: number): Rows {
  const findings: string[] = [];
  const leftovers: string[] = [];
  const unreadable: Unreadable[] = [];
  const rows = db.prepare<[], WaitingRow>(
    `SELECT d.message, d.mailbox, d.seq, d.event, d.source, d.session, d.topic, d.bytes, d.attempts, d.expires_ms, d.checksum, m.user,
      e.checksum AS event_checksum, e.event AS text
      FROM deliveries d LEFT JOIN mailboxes m ON m.id = d.mailbox LEFT JOIN events e ON e.id = d.event WHERE d.ending IS NULL`,
  );
  for (const row of rows.iterate()) {
    const isSound = row.user !== null && row.text !== null && isIntact(row, row.user) && crc32(row.text) === row.event_checksum;
    if (!isSound) unreadable.push({ message: row.message, user: row.user ?? undefined });
  }
  if (unreadable.length > 0) findings.push(`${unreadable.length} unsettled deliveries are not what was written, or their text or mailbox is gone`);
  const count = (what: string, into: string[], sql: string) => {
    const n = Number(db.prepare(sql).pluck().get());
    if (n > 0) into.push(`${n} ${what}`);
  };
  const counted = (what: string, sql: string) => {
    for (const { user, said, counted } of db.prepare<[], CountedBox>(`${sql} LIMIT ${MAX_TOLD}`).all())
      findings.push(`the mailbox of ${user} counts ${said} ${what}, and there are ${counted}`);
  };
  counted(
    "unsettled messages",
    `SELECT m.user, m.count AS said, count(d.message) AS counted FROM mailboxes m LEFT JOIN deliveries d ON d.mailbox = m.id AND d.ending IS NULL
      GROUP BY m.id HAVING m.count <> count(d.message)`,
  );
  counted(
    "bytes of them",
    `SELECT m.user, m.bytes AS said, coalesce(sum(d.bytes), 0) AS counted FROM mailboxes m LEFT JOIN deliveries d ON d.mailbox = m.id AND d.ending IS NULL
      GROUP BY m.id HAVING m.bytes <> coalesce(sum(d.bytes), 0)`,
  );
  counted(
    "holds",
    "SELECT m.user, m.holds AS said, count(h.seq) AS counted FROM mailboxes m LEFT JOIN holds h ON h.mailbox = m.id GROUP BY m.id HAVING m.holds <> count(h.seq)",
  );
  count(
    "events may go before all have settled them",
    findings,
    `SELECT count(*) FROM (SELECT event, count(*) AS n FROM deliveries WHERE ending IS NULL GROUP BY event) waiting JOIN events e ON e.id = waiting.event
      WHERE e.unsettled < waiting.n`,
  );
  count(
    "events are not needed any more",
    leftovers,
    "SELECT count(*) FROM events WHERE id NOT IN (SELECT event FROM deliveries WHERE event IS NOT NULL)",
  );
  if (version >= FOLDS_SINCE) {
    const alone = (table: string) => `SELECT count(*) FROM ${table} WHERE fold IS NOT NULL AND fold NOT IN (SELECT n FROM folds)`;
    count("states of acknowledged messages have no date at which they go", leftovers, alone("deliveries"));
    for (const table of version >= FOLDED_KEYS_SINCE ? ["idempotency", "folded_keys"] : ["idempotency"])
      count("idempotency keys have no date at which they go", leftovers, alone(table));
  }
  const folded = version >= FOLDED_KEYS_SINCE ? damageOfFolds(db, version) : { keys: 0, states: 0 };
  if (folded.states > 0)
    findings.push(`${folded.states} states of acknowledged messages are not what was written: whoever asks for them is told that they are not known`);
  let { keys } = folded;
  const idempotency = db.prepare<[], { source: string; key: string; hash: string; accepted: string; due_ms: number; checksum: number }>(
    "SELECT source, key, hash, accepted, due_ms, checksum FROM idempotency",
  );
  for (const { source, key, hash, accepted, due_ms, checksum } of idempotency.iterate())
    keys += Number(checksumOfKey(source, key, hash, accepted, due_ms) !== checksum);
  if (keys > 0) findings.push(`${keys} idempotency keys are not what was written: a repeat of their messages would be stored again`);
  const unsettled = Number(db.prepare("SELECT count(*) FROM deliveries WHERE ending IS NULL").pluck().get());
  const said = Number(db.prepare("SELECT n FROM totals WHERE name = 'unsettled'").pluck().get());
  if (unsettled !== said) findings.push(`the store counts ${said} unsettled deliveries, and there are ${unsettled}`);
  return { findings, unreadable, leftovers };
}

/** How many keys and states of folds are not what was written, or would not be found though they should. */
function damageOfFolds(db: Db, version: number): { readonly keys: number; readonly states: number } {
  let [damagedKeys, damagedStates] = [0, 0];
  const nowMs = Date.now();
  const fold = db.prepare<[number], number>("SELECT fold FROM folded_keys WHERE number = ?").pluck();
  const row = db.prepare<[string, string]>("SELECT 1 FROM idempotency WHERE source = ? AND key = ?").pluck();
  const hasStates = version >= FOLDED_STATES_SINCE;
  const columns = "n, first, last, keys, keys_checksum, length(numbers) / 8 AS numbers";
  const sets = hasStates
    ? // In the order of their index.
      [`${columns}, mails FROM folds WHERE mails IS NOT NULL ORDER BY first`, `${columns}, mails FROM folds WHERE mails IS NULL`]
    : [`${columns}, NULL AS mails FROM folds`];
  let lastOfAll = "";
  const look = (each: CheckedFold) => {
    const mails = mailsOf(each);
    // One that was used again is in a later fold, and one whose number is another's has a row of its own.
    const isFound = (key: FoldedKey) => key[7] <= nowMs || (fold.get(numberOfKey(key)) ?? 0) >= each.n || row.get(key[0], key[1]) !== undefined;
    damagedKeys += mails ? mails.filter((mail) => isKey(mail) && !isFound(mail)).length : Math.max(each.numbers ?? 0, each.mails === null ? 1 : 0);
    const acked = mails?.filter((mail) => mail[8] !== undefined) ?? [];
    if (each.mails === null) {
      damagedStates += acked.length;
      return;
    }
    const isAround = acked[0]?.[3] === each.first && acked.at(-1)?.[3] === each.last && acked.length === each.mails && each.first > lastOfAll;
    if (isAround) lastOfAll = each.last;
    else damagedStates += each.mails;
  };
  for (const set of sets) for (const each of db.prepare<[], CheckedFold>(`SELECT ${set}`).iterate()) look(each);
  return { keys: damagedKeys, states: damagedStates };
}

interface CheckedFold {
  readonly n: number;
  readonly first: string;
  readonly last: string;
  readonly keys: string;
  readonly keys_checksum: number | null;
  /** How many. */
  readonly numbers: number | null;
  readonly mails: number | null;
}

/**
 * Looks at what the store holds of fresh mail.
 * @returns how much of it waits, besides what is wrong
 * @throws SqliteError when pages are damaged
 */
export function damageOfFresh(db: Db): Pick<Rows, "findings" | "unreadable"> & { readonly waiting: number } {
  const { arrivals, damaged } = readFresh(db);
  const waiting = arrivals.flatMap(({ mails }) => mails.filter((mail) => !mail.isMoved && mail.ended_ms === null));
  const user = db.prepare<[number], string>("SELECT user FROM mailboxes WHERE id = ?").pluck();
  const unreadable = waiting
    .map((mail) => ({ mail, user: user.get(mail.mailbox) }))
    .filter(({ mail, user }) => user === undefined || crc32(mail.text) !== mail.event_checksum)
    .map(({ mail, user }) => ({ message: mail.message, user }));
  const findings: string[] = [];
  if (damaged > 0) findings.push(`${damaged} rows of fresh mail are not what was written: what came with those commits cannot be read`);
  if (unreadable.length > 0) findings.push(`${unreadable.length} fresh messages are not what was written, or their mailbox is gone`);
  return { findings, unreadable, waiting: waiting.length };
}

interface WaitingRow extends CheckedDelivery {
  readonly checksum: number | null;
  readonly user: string | null;
  readonly event_checksum: number | null;
  readonly text: string | null;
}
