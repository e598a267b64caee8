/**
 * Makes a new store of what can be read of a damaged one. Every row that can be read on its own is taken, wherever it lies; what has a checksum
 * is taken only if that is right. Counts are made anew, and so is the epoch: every client gets what is unsettled.
 * @module
 */
import { crc32 } from "node:zlib";
import Database from "better-sqlite3";
import { ENDINGS } from "./call.ts";
import { checksumOfDelivery, checksumOfKey, checksumOfMailbox } from "./checksum.ts";
import { isKey, mailsOf, rowOf } from "./fold.ts";
import { replayFresh } from "./fresh-row.ts";
import { KEEP_MS } from "./keep.ts";
import { keyOf } from "./key.ts";
import { Pages, type Value } from "./page.ts";
import { CHECKSUMS_SINCE, type Db, MIGRATIONS, migrate } from "./schema.ts";
import type { FreshRow } from "./statement.ts";

/** What was taken over, and what was not. */
export interface Salvaged {
  readonly taken: Readonly<Record<"mailboxes" | "unsettled" | "settled" | "keys" | "sessions", number>>;
  /** Messages that were unsettled for somebody, and are lost, as far as they can be named. */
  readonly lost: readonly { readonly message: string; readonly user: string | undefined }[];
  /** Events of which nothing says any more for whom they are. */
  readonly unaddressed: readonly string[];
  /** How many more were unsettled, by the old store's own count, those above included; undefined when that cannot be read, or commits are missing. */
  readonly missing: number | undefined;
  readonly unreadableCells: number;
}

/** The columns of each table, in the order of the file. */
const TABLES = ["meta", "totals", "mailboxes", "events", "deliveries", "idempotency", "sessions", "ended_sessions", "fresh", "folds"] as const;
/** A key may be in several places, since it was used again: what is known longest is its last use. */
const ADD_KEY = `INSERT INTO idempotency (source, key, hash, accepted, due_ms, checksum) VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT (source, key) DO UPDATE SET hash = excluded.hash, accepted = excluded.accepted, due_ms = excluded.due_ms, checksum = excluded.checksum
    WHERE excluded.due_ms > due_ms`;
const USERS_INDEX = "sqlite_autoindex_mailboxes_1";

/**
 * @param dir        the damaged store's folder; nothing in it is changed
 * @param into       a new store, empty
 * @param misses  commits are known to be missing: what is at the end of the log counts, as far as it can be read
 */
export function salvage(dir: string, into: Db, misses: boolean): Salvaged {
  const pages = new Pages(dir, misses);
  try {
    return into.transaction(() => new Salvage(pages, into, misses).run())();
  } finally {
    pages.close();
  }
}

/**
 * Where the trees begin in a store of some version. SQLite keeps all roots before what else there is (auto_vacuum), and what becomes of them when an
 * index goes depends on them alone: so they are the same in every store of that version, whatever it holds.
 */
export function rootsOfAll(version: number): ReadonlyMap<string, number> {
  const db = new Database(":memory:");
  try {
    db.pragma("auto_vacuum = INCREMENTAL");
    migrate(db, ":memory:", version);
    const rows = db.prepare<[], { name: string; rootpage: number }>("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0").all();
    return new Map(rows.map(({ name, rootpage }) => [name, rootpage]));
  } finally {
    db.close();
  }
}

class Salvage {
  readonly #pages: Pages;
  readonly #into: Db;
  readonly #pagesOf = new Map<number, number[]>();
  readonly #roots: ReadonlyMap<string, number>;
  readonly #lost: Salvaged["lost"][number][] = [];
  readonly #misses: boolean;
  readonly #hasChecksums: boolean;
  #unreadableCells = 0;

  constructor(pages: Pages, into: Db, misses: boolean) {
    this.#misses = misses;
    this.#pages = pages;
    this.#into = into;
    const version = pages.version ?? MIGRATIONS.length;
    this.#roots = rootsOfAll(version);
    for (const root of this.#roots.values()) this.#pagesOf.set(root, []);
    for (const [page, root] of pages.trees([...this.#roots.values()])) this.#pagesOf.get(root)?.push(page);
    // What was written before there were checksums has none; a head that cannot be read says nothing of that kind.
    this.#hasChecksums = version >= CHECKSUMS_SINCE;
  }

  run(): Salvaged {
    const totals = new Map<Value, Value>();
    for (const { values } of this.#rows("totals", 2)) totals.set(values[0] ?? null, values[1] ?? null);
    this.#mailboxes();
    this.#events();
    this.#deliveries();
    this.#folds();
    const fresh = this.#fresh(totals.get("folded") ?? 0);
    const unaddressed = this.#tidy();
    const keys = this.#keys();
    const sessions = this.#sessions();
    const count = (sql: string) => Number(this.#into.prepare(sql).pluck().get());
    const unsettled = count("SELECT count(*) FROM deliveries WHERE ending IS NULL");
    const before = totals.get("unsettled");
    const missing = typeof before === "number" && !this.#misses ? Math.max(0, before + fresh.waited - unsettled) : undefined;
    if (typeof before === "number") totals.set("acked", Number(totals.get("acked") ?? 0) + fresh.acked);
    this.#totals(totals, unsettled, missing ?? 0);
    return {
      taken: {
        mailboxes: count("SELECT count(*) FROM mailboxes"),
        unsettled,
        settled: count("SELECT count(*) FROM deliveries WHERE ending IS NOT NULL"),
        keys,
        sessions,
      },
      lost: this.#lost,
      unaddressed,
      missing,
      unreadableCells: this.#unreadableCells,
    };
  }

  /** All rows of a table or index that can be read and have that many columns; of the doubtful ones those only that can be checked. */
  *#rows(
    name: (typeof TABLES)[number] | typeof USERS_INDEX,
    columns: number,
    isChecked = false,
  ): Generator<{ values: readonly Value[]; rowid: number | undefined }> {
    for (const page of this.#pagesOf.get(this.#roots.get(name) ?? 0) ?? []) {
      for (const row of this.#pages.rows(page, () => this.#unreadableCells++)) {
        if (row.values.length >= columns && (isChecked || !row.isDoubtful)) yield row;
      }
    }
  }

  #mailboxes(): void {
    const add = this.#into.prepare("INSERT OR IGNORE INTO mailboxes (id, user, head, count, bytes, forgotten) VALUES (?, ?, ?, 0, 0, ?)");
    for (const { values, rowid = 0 } of this.#rows("mailboxes", 6, true)) {
      const [, user, head, count, bytes, forgotten, holds = 0, checksum] = values;
      if (typeof user !== "string" || ![head, count, bytes, forgotten, holds].every(Number.isSafeInteger)) continue;
      const box = {
        id: rowid,
        user,
        head: Number(head),
        count: Number(count),
        bytes: Number(bytes),
        forgotten: Number(forgotten),
        holds: Number(holds),
      };
      if (!this.#hasChecksums || checksumOfMailbox(box) === checksum) add.run(rowid, user, box.head, box.forgotten);
    }
    // The names stand in an index, too. Whether they are right is seen from the checksums of what is in the mailbox.
    for (const { values } of this.#rows(USERS_INDEX, 2)) {
      const [user, id] = values;
      if (typeof user === "string" && /^[A-Za-z0-9._:@-]{1,128}$/.test(user) && Number.isSafeInteger(id)) add.run(id, user, 0, 0);
    }
  }

  #events(): void {
    const add = this.#into.prepare("INSERT OR IGNORE INTO events (id, recipients, unsettled, dead, checksum, event) VALUES (?, ?, 0, 0, ?, ?)");
    for (const { values, rowid } of this.#rows("events", 6, true)) {
      const [, recipients, , , checksum, event] = values;
      if (typeof event === "string" && crc32(event) === checksum) add.run(rowid, Number.isSafeInteger(recipients) ? recipients : 1, checksum, event);
    }
  }

  #deliveries(): void {
    const mailbox = this.#into.prepare<unknown[], { user: string }>("SELECT user FROM mailboxes WHERE id = ?");
    const event = this.#into.prepare<unknown[], { checksum: number }>("SELECT checksum FROM events WHERE id = ?");
    // The same message on two pages: settled is settled.
    const add = this.#into.prepare(
      `INSERT INTO deliveries (message, mailbox, seq, event, source, session, topic, bytes, attempts, expires_ms, due_ms, ending, ended_ms, reason, checksum)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (message, mailbox) DO UPDATE SET seq = excluded.seq, event = excluded.event, due_ms = excluded.due_ms, ending = excluded.ending,
          ended_ms = excluded.ended_ms, reason = excluded.reason, checksum = NULL WHERE excluded.ending IS NOT NULL AND deliveries.ending IS NULL`,
    );
    const lost = new Map<string, Salvaged["lost"][number]>();
    for (const { values } of this.#rows("deliveries", 14, true)) {
      const [message, box, seq, eventId, source, session, topic, bytes, attempts, expiresMs, dueMs, ending, endedMs, reason, checksum] = values;
      if (typeof message !== "string" || typeof box !== "number") continue;
      const user = mailbox.get(box)?.user;
      const name = `${message} ${box}`;
      const isEnded = typeof ending === "string" && (ENDINGS as readonly string[]).includes(ending) && typeof seq === "number" && user !== undefined;
      const row = { message, mailbox: box, seq, event: eventId, source, session, topic, bytes, attempts, expires_ms: expiresMs } as Parameters<
        typeof checksumOfDelivery
      >[0];
      const eventChecksum = typeof eventId === "number" ? event.get(eventId)?.checksum : undefined;
      const isWaiting =
        ending === null &&
        user !== undefined &&
        eventChecksum !== undefined &&
        (!this.#hasChecksums || checksumOfDelivery(row, user, eventChecksum) === checksum);
      if (!isEnded && !isWaiting) {
        lost.set(name, { message, user });
        continue;
      }
      try {
        const kept = isEnded && eventChecksum === undefined ? null : eventId;
        const newChecksum = isWaiting ? checksumOfDelivery(row, user, eventChecksum) : null;
        add.run(message, box, seq, kept, source, session, topic, bytes, attempts, expiresMs, dueMs, ending, endedMs, reason ?? null, newChecksum);
      } catch {
        // A settled one, which has no checksum, with a column of the wrong type.
        this.#unreadableCells += 1;
      }
    }
    const isThere = this.#into.prepare("SELECT 1 FROM deliveries WHERE message = ? AND mailbox = ?");
    for (const [name, each] of lost) {
      const at = name.lastIndexOf(" ");
      if (!isThere.get(name.slice(0, at), Number(name.slice(at + 1)))) this.#lost.push(each);
    }
  }

  /** Gives the states and the keys that are in folds rows of their own. */
  #folds(): void {
    const addState = this.#into.prepare(
      `INSERT INTO deliveries (message, mailbox, seq, source, bytes, attempts, expires_ms, due_ms, ending, ended_ms)
        SELECT ?, id, 0, ?, 0, 1, ?, ?, 'acked', ? FROM mailboxes WHERE user = ? ON CONFLICT DO NOTHING`,
    );
    const addKey = this.#into.prepare(ADD_KEY);
    for (const { values } of this.#rows("folds", 6, true)) {
      const [, , , , keys, checksum] = values;
      if (typeof keys !== "string" || typeof checksum !== "number") continue;
      for (const mail of mailsOf({ keys, keys_checksum: checksum }) ?? []) {
        const [source, , , message, accepted_ms, ttl, user, , ended_ms] = mail;
        if (ended_ms !== undefined) addState.run(message, source, accepted_ms + ttl * 1_000, ended_ms + KEEP_MS, ended_ms, user);
        if (isKey(mail)) addKey.run(...rowOf(mail));
      }
    }
  }

  /**
   * Gives fresh mail the rows that the server would have given it.
   * @param folded  the commit up to which it had them
   * @returns how much of it waited, what cannot be read included, and how much was acknowledged
   */
  #fresh(folded: Value): { readonly waited: number; readonly acked: number } {
    const rows: FreshRow[] = [];
    for (const { values, rowid = 0 } of this.#rows("fresh", 5, true)) {
      const [, mails, checksum, header, events] = values;
      const isRow = typeof mails === "number" && typeof checksum === "number" && typeof header === "string" && Buffer.isBuffer(events);
      if (isRow && rowid > Number(folded) && !rows.some(({ n }) => n === rowid)) rows.push({ n: rowid, mails, checksum, header, events });
    }
    const { arrivals, lost } = replayFresh(rows.sort((one, other) => one.n - other.n));
    const mailbox = this.#into.prepare<unknown[], { user: string }>("SELECT user FROM mailboxes WHERE id = ?");
    const isThere = this.#into.prepare("SELECT 1 FROM deliveries WHERE message = ?");
    const addEvent = this.#into.prepare("INSERT INTO events (recipients, unsettled, dead, checksum, event) VALUES (1, 1, 0, ?, ?)");
    const addDelivery = this.#into.prepare(
      `INSERT INTO deliveries (message, mailbox, seq, event, source, bytes, attempts, expires_ms, due_ms, ending, ended_ms, checksum)
        VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)`,
    );
    const addKey = this.#into.prepare(ADD_KEY);
    let [waited, acked] = [lost, 0];
    for (const mail of arrivals.flatMap(({ mails }) => mails)) {
      // What had rows before is there by those.
      if (mail.isMoved) continue;
      const { message, source, bytes, seq, expires_ms, ended_ms, text, event_checksum } = mail;
      const user = mailbox.get(mail.mailbox)?.user;
      const key = user === undefined ? undefined : keyOf(mail, user);
      if (key) addKey.run(...key);
      if (isThere.get(message)) continue;
      if (ended_ms === null) waited += 1;
      if (user === undefined || (ended_ms === null && crc32(text) !== event_checksum)) {
        if (ended_ms === null) this.#lost.push({ message, user });
        continue;
      }
      if (ended_ms === null) {
        const event = Number(addEvent.run(event_checksum, text).lastInsertRowid);
        const checksum = checksumOfDelivery({ ...mail, event }, user, event_checksum);
        addDelivery.run(message, mail.mailbox, seq, event, source, bytes, expires_ms, expires_ms, null, null, checksum);
      } else {
        acked += 1;
        addDelivery.run(message, mail.mailbox, seq, null, source, bytes, expires_ms, ended_ms + KEEP_MS, "acked", ended_ms, null);
      }
    }
    return { waited, acked };
  }

  /** Makes the counts fit what is there. @returns the events that belong to nothing */
  #tidy(): string[] {
    const nowMs = Date.now();
    this.#into.exec(`
      UPDATE events SET
        unsettled = (SELECT count(*) FROM deliveries WHERE event = events.id AND ending IS NULL),
        dead = (SELECT count(*) FROM deliveries WHERE event = events.id AND ending = 'dead');
      UPDATE events SET recipients = max(recipients, unsettled + dead);
    `);
    const orphans = this.#into.prepare<[], string>("DELETE FROM events WHERE unsettled = 0 AND dead = 0 RETURNING event").pluck().all();
    // When the state of a message may be forgotten: it waits for an ending of those who are not there any more.
    this.#into
      .prepare(
        "UPDATE deliveries SET due_ms = ? WHERE ending IS NOT NULL AND due_ms IS NULL AND message NOT IN (SELECT message FROM deliveries WHERE ending IS NULL)",
      )
      .run(nowMs + KEEP_MS);
    // The checksum says nothing of this date; what is in its mailbox has to wait for its end only, and what a nack delays not longer than that.
    this.#into.exec("UPDATE deliveries SET due_ms = expires_ms WHERE ending IS NULL AND (seq IS NOT NULL OR due_ms IS NULL OR due_ms > expires_ms)");
    const boxes = this.#into.prepare<[], Parameters<typeof checksumOfMailbox>[0]>(
      `SELECT m.id, m.user, max(m.head, coalesce(max(d.seq), 0)) AS head, count(d.message) FILTER (WHERE d.ending IS NULL) AS count,
        coalesce(sum(d.bytes) FILTER (WHERE d.ending IS NULL), 0) AS bytes, m.forgotten, m.holds
        FROM mailboxes m LEFT JOIN deliveries d ON d.mailbox = m.id GROUP BY m.id`,
    );
    const keep = this.#into.prepare("UPDATE mailboxes SET head = ?, count = ?, bytes = ?, checksum = ? WHERE id = ?");
    for (const box of boxes.all()) keep.run(box.head, box.count, box.bytes, checksumOfMailbox(box), box.id);
    return orphans;
  }

  /** @returns how many there are, those of folds and of fresh mail included */
  #keys(): number {
    const add = this.#into.prepare(ADD_KEY);
    for (const { values } of this.#rows("idempotency", 5, true)) {
      const [source, key, hash, accepted, dueMs, checksum] = values;
      if (![source, key, hash, accepted].every((each) => typeof each === "string") || typeof dueMs !== "number") continue;
      const right = checksumOfKey(String(source), String(key), String(hash), String(accepted), dueMs);
      if (!this.#hasChecksums || checksum === right) add.run(source, key, hash, accepted, dueMs, right);
    }
    return Number(this.#into.prepare("SELECT count(*) FROM idempotency").pluck().get());
  }

  #sessions(): number {
    let taken = 0;
    const isSession = (each: Value | undefined) => typeof each === "string" && each.length <= 128;
    const add = this.#into.prepare("INSERT OR IGNORE INTO sessions (session, user, until_ms) VALUES (?, ?, ?)");
    for (const { values } of this.#rows("sessions", 3)) {
      const [session, user, untilMs] = values;
      if (isSession(session) && isSession(user) && Number.isSafeInteger(untilMs)) taken += add.run(session, user, untilMs).changes;
    }
    const end = this.#into.prepare("INSERT OR IGNORE INTO ended_sessions (session, until_ms) VALUES (?, ?)");
    for (const { values } of this.#rows("ended_sessions", 2)) {
      if (isSession(values[0]) && Number.isSafeInteger(values[1])) taken += end.run(values[0], values[1]).changes;
    }
    return taken;
  }

  /** What ended stays counted, as far as the old counts can be read; what is missing counts as dead. */
  #totals(old: ReadonlyMap<Value, Value>, unsettled: number, missing: number): void {
    const set = this.#into.prepare("UPDATE totals SET n = ? WHERE name = ?");
    const here = this.#into.prepare("SELECT count(*) FROM deliveries WHERE ending = ?").pluck();
    let accepted = unsettled;
    for (const ending of ENDINGS) {
      const before = old.get(ending);
      const isPlausible = typeof before === "number" && before >= 0 && before < Number.MAX_SAFE_INTEGER / 8;
      const n = (isPlausible ? before : Number(here.get(ending))) + (ending === "dead" ? missing : 0);
      accepted += n;
      set.run(n, ending);
    }
    set.run(unsettled, "unsettled");
    set.run(accepted, "accepted");
  }
}
