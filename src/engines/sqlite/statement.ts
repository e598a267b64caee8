/**
 * Every statement that a store runs while it serves. A test asks SQLite for the plan of each: none may scan.
 * @module
 */
import type { Statement } from "better-sqlite3";
import { type CheckedDelivery, type CheckedMailbox, MAILBOX_COLUMNS } from "./checksum.ts";
import { MANY } from "./rows.ts";
import type { Db } from "./schema.ts";

const ROW = `SELECT d.message, d.mailbox, d.seq, d.event, d.source, d.session, d.topic, d.bytes, d.attempts, d.expires_ms, d.ending, d.checksum,
    e.recipients, e.unsettled, e.checksum AS event_checksum
  FROM deliveries d LEFT JOIN events e ON e.id = d.event`;

// SQLite (3.47 on) looks at the value of a variable that stands alone beside `=`, in a statement of several tables or with an order, and of one
// in LIMIT; it then compiles the statement anew for each call: 20 to 100 µs. It does not look into a cast.
const INT = "CAST(? AS INTEGER)";
const TEXT = "CAST(? AS TEXT)";

// FAIL: a statement that inserts many rows keeps no record to undo those before the one that fails; the transaction does.
const addAcked = (
  rows: number,
) => `INSERT OR FAIL INTO deliveries (message, mailbox, seq, source, bytes, attempts, expires_ms, ending, ended_ms, fold)
    VALUES ${Array(rows).fill("(?, ?, ?, ?, ?, 1, ?, 'acked', ?, ?)").join(", ")}`;
// IGNORE: what is there already is another key's.
const addFoldedKeys = (rows: number) => `INSERT OR IGNORE INTO folded_keys (number, fold) VALUES ${Array(rows).fill("(?, ?)").join(", ")}`;

/** Most rows that one step of a sweep or of a read looks at, so that others get their turn. */
export const STEP_ROWS = 1_000;

export const SQL = {
  mailboxOf: `SELECT ${MAILBOX_COLUMNS}, checksum FROM mailboxes WHERE user = ?`,
  mailbox: `SELECT ${MAILBOX_COLUMNS}, checksum FROM mailboxes WHERE id = ?`,
  /** Its checksum comes with the numbers, in the same commit. */
  makeMailbox: "INSERT INTO mailboxes (user, head, count, bytes, forgotten) VALUES (?, 0, 0, 0, 0)",
  keepMailbox: "UPDATE mailboxes SET head = ?, count = ?, bytes = ?, forgotten = ?, holds = ?, checksum = ? WHERE id = ?",

  addEvent: "INSERT INTO events (recipients, unsettled, dead, checksum, event) VALUES (?, ?, 0, ?, ?)",
  readEvent: "SELECT event, checksum FROM events WHERE id = ?",
  /** One recipient settled; `dead` 1 when the text is kept as its dead letter. */
  useEvent: "UPDATE events SET unsettled = unsettled - 1, dead = dead + ? WHERE id = ? RETURNING unsettled, dead",
  /** A dead letter was purged. */
  buryEvent: "UPDATE events SET dead = dead - 1 WHERE id = ? RETURNING unsettled, dead",
  dropEvent: "DELETE FROM events WHERE id = ?",

  addDelivery: `INSERT INTO deliveries (message, mailbox, seq, event, source, session, topic, bytes, attempts, expires_ms, due_ms, ending, ended_ms, checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)`,
  /** Of fresh mail that was acknowledged, where its fold cannot have its state. */
  addAcked: addAcked(1),
  addAckedMany: addAcked(MANY),
  endDelivery:
    "UPDATE deliveries SET seq = ?, event = ?, ending = ?, ended_ms = ?, due_ms = ?, reason = ?, checksum = NULL WHERE message = ? AND mailbox = ?",
  moveDelivery: "UPDATE deliveries SET seq = ?, attempts = ?, due_ms = ?, checksum = ? WHERE message = ? AND mailbox = ?",
  /** Where a damaged row cannot say how much goes with it. */
  bytesOfOthers: `SELECT coalesce(sum(bytes), 0) AS bytes FROM deliveries WHERE mailbox = ${INT} AND ending IS NULL AND message <> ${TEXT}`,
  /** All recipients have settled: from now on the rows of the message may be purged. */
  releaseDeliveries: "UPDATE deliveries SET due_ms = CASE ending WHEN 'dead' THEN ? ELSE ? END WHERE message = ? AND ending IS NOT NULL",
  /** What a nack delays: at each start, and whenever somebody sets the clock back. */
  comeEarlier: `UPDATE deliveries INDEXED BY deliveries_delayed SET due_ms = CASE WHEN due_ms - ? > ? THEN ? ELSE due_ms - ? END
    WHERE seq IS NULL AND ending IS NULL AND due_ms > ?`,
  dropDelivery: "DELETE FROM deliveries WHERE message = ? AND mailbox = ?",

  atSeq: `${ROW} WHERE d.mailbox = ${INT} AND d.seq = ${INT} AND d.ending IS NULL`,
  upto: `${ROW} WHERE d.mailbox = ${INT} AND d.seq <= ${INT} AND d.ending IS NULL ORDER BY d.seq`,
  ofTopic: `${ROW} WHERE d.mailbox = ${INT} AND d.topic = ${TEXT} AND d.source = ${TEXT} AND d.session IS ${TEXT} AND d.ending IS NULL AND d.topic IS NOT NULL`,
  ofMessage: `${ROW} WHERE d.message = ${TEXT} AND d.ending IS NULL`,
  ofSession: `${ROW} WHERE d.session = ${TEXT} AND d.session IS NOT NULL AND d.ending IS NULL ORDER BY d.message, d.mailbox`,
  due: `${ROW} WHERE d.due_ms <= ${INT} AND d.due_ms IS NOT NULL ORDER BY d.due_ms LIMIT ${STEP_ROWS}`,
  nextDue: "SELECT due_ms FROM deliveries WHERE due_ms IS NOT NULL ORDER BY due_ms LIMIT 1",
  mail: `SELECT d.seq, d.message, d.mailbox, d.event, d.source, d.session, d.topic, d.bytes, d.attempts, d.expires_ms, d.checksum,
      e.checksum AS event_checksum, e.event AS text
    FROM deliveries d LEFT JOIN events e ON e.id = d.event WHERE d.mailbox = ${INT} AND d.seq > ${INT} AND d.ending IS NULL ORDER BY d.seq`,
  gaps: `SELECT seq, ending, session FROM deliveries
    WHERE mailbox = ${INT} AND seq > ${INT} AND ending IS NOT NULL AND ending <> 'acked' ORDER BY seq LIMIT ${STEP_ROWS}`,
  lastMessage: "SELECT max(message) AS message FROM deliveries",
  isMessage: "SELECT 1 AS yes FROM deliveries WHERE message = ? LIMIT 1",
  states: `SELECT d.source, m.user, d.ending, d.ended_ms FROM deliveries d JOIN mailboxes m ON m.id = d.mailbox WHERE d.message = ${TEXT} ORDER BY d.mailbox`,
  /** A walk through all deliveries, by their primary key. */
  walk: `SELECT d.message, d.mailbox, d.seq, d.event, d.source, d.session, d.topic, d.bytes, d.attempts, d.expires_ms, d.ending, d.checksum, m.user,
      e.checksum AS event_checksum, e.event AS text
    FROM deliveries d JOIN mailboxes m ON m.id = d.mailbox LEFT JOIN events e ON e.id = d.event AND d.ending IS NULL
    WHERE (d.message, d.mailbox) > (${TEXT}, ${INT}) ORDER BY d.message, d.mailbox LIMIT ${STEP_ROWS}`,

  key: "SELECT hash, accepted, due_ms, checksum FROM idempotency WHERE source = ? AND key = ?",
  addKey: "INSERT INTO idempotency (source, key, hash, accepted, due_ms, checksum, fold) VALUES (?, ?, ?, ?, ?, ?, ?)",
  dropKey: "DELETE FROM idempotency WHERE source = ? AND key = ?",
  dropKeys: `DELETE FROM idempotency WHERE (source, key) IN
    (SELECT source, key FROM idempotency WHERE due_ms <= ${INT} AND fold IS NULL ORDER BY due_ms LIMIT ${STEP_ROWS})`,
  nextKeyDue: "SELECT due_ms FROM idempotency WHERE fold IS NULL ORDER BY due_ms LIMIT 1",

  addFold: "INSERT INTO folds (due_ms, first, last, keys, keys_checksum, numbers, numbers_checksum, mails) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
  /** size: how many messages it has, about; without reading its text. */
  dueFolds: `SELECT n, max(coalesce(mails, 0), coalesce(length(numbers) / 8, 0)) AS size FROM folds
    WHERE due_ms <= ${INT} ORDER BY due_ms LIMIT ${STEP_ROWS}`,
  fold: "SELECT n, due_ms, first, last, keys, keys_checksum, numbers, numbers_checksum, mails FROM folds WHERE n = ?",
  nextFoldDue: "SELECT due_ms FROM folds ORDER BY due_ms LIMIT 1",
  dropFold: "DELETE FROM folds WHERE n = ?",
  /** Of a fold without states. Each row is asked for its own date, too: what a damaged row of a fold says lets nothing go early. */
  dropFolded: `DELETE FROM deliveries WHERE message BETWEEN ${TEXT} AND ${TEXT} AND fold = ${INT} AND ending = 'acked' AND ended_ms <= ${INT}`,
  /** It goes later. */
  moveFold: "UPDATE folds SET due_ms = ?, numbers_checksum = NULL WHERE n = ?",
  foldOfKey: "SELECT fold FROM folded_keys WHERE number = ?",
  keysOfFold: "SELECT keys, keys_checksum FROM folds WHERE n = ?",
  /** The one fold with states in which a message can be. */
  foldAround: `SELECT n, last FROM folds WHERE first <= ${TEXT} AND mails IS NOT NULL ORDER BY first DESC LIMIT 1`,
  lastFold: "SELECT last FROM folds WHERE mails IS NOT NULL ORDER BY first DESC LIMIT 1",
  addFoldedKey: addFoldedKeys(1),
  addFoldedKeys: addFoldedKeys(MANY),
  dropFoldedKey: "DELETE FROM folded_keys WHERE number = ?",
  /** One that was used again is in a later fold. */
  dropFoldedKeyOf: "DELETE FROM folded_keys WHERE number = ? AND fold = ?",
  /** Of a fold of version 6. */
  dropFoldedRow: "DELETE FROM idempotency WHERE source = ? AND key = ? AND fold = ? AND due_ms <= ?",

  session: "SELECT until_ms FROM sessions WHERE session = ? AND user = ?",
  keepSession:
    "INSERT INTO sessions (session, user, until_ms) VALUES (?, ?, ?) ON CONFLICT (session, user) DO UPDATE SET until_ms = excluded.until_ms",
  usersOfSession: `SELECT user, until_ms FROM sessions WHERE session = ${TEXT} AND until_ms > ${INT} ORDER BY user LIMIT ${INT}`,
  endedSession: "SELECT until_ms FROM ended_sessions WHERE session = ?",
  keepEnded: "INSERT INTO ended_sessions (session, until_ms) VALUES (?, ?) ON CONFLICT (session) DO UPDATE SET until_ms = excluded.until_ms",
  dropSessions: `DELETE FROM sessions WHERE (session, user) IN
    (SELECT session, user FROM sessions WHERE until_ms <= ${INT} ORDER BY until_ms LIMIT ${STEP_ROWS})`,
  dropEnded: `DELETE FROM ended_sessions WHERE session IN
    (SELECT session FROM ended_sessions WHERE until_ms <= ${INT} ORDER BY until_ms LIMIT ${STEP_ROWS})`,
  nextSessionDue: "SELECT until_ms AS due_ms FROM sessions ORDER BY until_ms LIMIT 1",
  nextEndedDue: "SELECT until_ms AS due_ms FROM ended_sessions ORDER BY until_ms LIMIT 1",

  holder: "SELECT id FROM holders WHERE mailbox = ? AND session = ? AND receiver = ?",
  addHolder: "INSERT INTO holders (mailbox, session, receiver, used_ms) VALUES (?, ?, ?, ?)",
  useHolder: "UPDATE holders SET used_ms = ? WHERE id = ?",
  countHolders: "SELECT count(*) AS n FROM holders WHERE mailbox = ?",
  oldestHolder: `SELECT id FROM holders WHERE mailbox = ${INT} AND id <> ${INT} ORDER BY used_ms, id LIMIT 1`,
  holdersOfSession: "SELECT id, mailbox FROM holders WHERE session = ?",
  dropHolder: "DELETE FROM holders WHERE id = ?",
  addHold: "INSERT OR IGNORE INTO holds (mailbox, seq, holder) VALUES (?, ?, ?)",
  heldBy: `SELECT seq FROM holds WHERE holder = ${INT} ORDER BY seq`,
  holdsAnything: "SELECT 1 AS yes FROM holds WHERE holder = ? LIMIT 1",
  releaseAbove: "DELETE FROM holds WHERE holder = ? AND seq > ?",
  dropHolds: "DELETE FROM holds WHERE mailbox = ? AND seq = ? RETURNING holder",

  totals: "SELECT name, n FROM totals",
  addTotal: "UPDATE totals SET n = n + ? WHERE name = ?",
  addFresh: "INSERT INTO fresh (n, mails, checksum, header, events) VALUES (?, ?, ?, ?, ?)",
  dropFresh: "DELETE FROM fresh WHERE n <= ?",
  foldedTo: "UPDATE totals SET n = ? WHERE name = 'folded'",

  commits: "SELECT max(n, coalesce((SELECT max(n) FROM fresh), 0)) AS n FROM totals WHERE name = 'commits'",
  countCommit: "UPDATE totals SET n = ? WHERE name = 'commits'",
} as const;

export interface MailboxRow extends CheckedMailbox {
  /** As it was read. */
  readonly checksum: number;
  head: number;
  count: number;
  bytes: number;
  forgotten: number;
  holds: number;
}
/** `event` is null once it ended, unless it is kept as a dead letter. */
export interface DeliveryRow extends CheckedDelivery {
  readonly ending: string | null;
  readonly checksum: number | null;
  readonly recipients: number | null;
  readonly unsettled: number | null;
  readonly event_checksum: number | null;
}
export interface MailRow extends CheckedDelivery {
  readonly seq: number;
  readonly checksum: number | null;
  readonly event_checksum: number | null;
  readonly text: string | null;
}
export interface GapRow {
  readonly seq: number;
  readonly ending: string;
  readonly session: string | null;
}

export interface FreshRow {
  readonly n: number;
  readonly mails: number;
  readonly checksum: number;
  readonly header: string;
  readonly events: Buffer;
}

export interface KeyRow {
  readonly hash: string;
  readonly accepted: string;
  readonly due_ms: number;
  readonly checksum: number;
}

export interface FoldRow {
  readonly n: number;
  readonly due_ms: number;
  readonly first: string;
  readonly last: string;
  readonly keys: string;
  readonly keys_checksum: number | null;
  readonly numbers: Buffer | null;
  readonly numbers_checksum: number | null;
  readonly mails: number | null;
}

export interface WalkRow extends CheckedDelivery {
  readonly ending: string | null;
  readonly user: string;
  readonly checksum: number | null;
  readonly event_checksum: number | null;
  readonly text: string | null;
}

type Rows = {
  [name in keyof typeof SQL]: unknown;
} & {
  mailboxOf: MailboxRow;
  mailbox: MailboxRow;
  readEvent: { event: string; checksum: number };
  useEvent: { unsettled: number; dead: number };
  buryEvent: { unsettled: number; dead: number };
  bytesOfOthers: { bytes: number };
  atSeq: DeliveryRow;
  upto: DeliveryRow;
  ofTopic: DeliveryRow;
  ofMessage: DeliveryRow;
  ofSession: DeliveryRow;
  due: DeliveryRow;
  nextDue: { due_ms: number };
  nextKeyDue: { due_ms: number };
  dueFolds: { n: number; size: number };
  fold: FoldRow;
  nextFoldDue: { due_ms: number };
  mail: MailRow;
  gaps: GapRow;
  lastMessage: { message: string | null };
  isMessage: { yes: number };
  states: { source: string; user: string; ending: string | null; ended_ms: number | null };
  session: { until_ms: number };
  holder: { id: number };
  countHolders: { n: number };
  oldestHolder: { id: number };
  holdersOfSession: { id: number; mailbox: number };
  heldBy: { seq: number };
  holdsAnything: { yes: number };
  dropHolds: { holder: number };
  usersOfSession: { user: string; until_ms: number };
  endedSession: { until_ms: number };
  nextSessionDue: { due_ms: number };
  nextEndedDue: { due_ms: number };
  walk: WalkRow;
  key: KeyRow;
  foldOfKey: { fold: number };
  keysOfFold: { keys: string; keys_checksum: number | null };
  foldAround: { n: number; last: string };
  lastFold: { last: string };
  totals: { name: string; n: number };
  commits: { n: number };
};
export type Statements = { readonly [name in keyof typeof SQL]: Statement<unknown[], Rows[name]> };

/** Prepares all of {@link SQL}. */
export function prepareAll(db: Db): Statements {
  return Object.fromEntries(Object.entries(SQL).map(([name, sql]) => [name, db.prepare(sql)])) as unknown as Statements;
}
