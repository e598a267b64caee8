import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Attachment, Entry } from "../../src/engine.ts";
import { mailsOf } from "../../src/engines/sqlite/fold.ts";
import { openDatabase } from "../../src/engines/sqlite/open.ts";
import { databaseFile, MIGRATIONS } from "../../src/engines/sqlite/schema.ts";
import { SQL } from "../../src/engines/sqlite/statement.ts";
import { type SqliteEngine, type SqliteOptions, sqliteEngine } from "../../src/engines/sqlite.ts";
import type { HandoverError } from "../../src/errors.ts";
import type { ReceiverId, SessionId, UserId } from "../../src/protocol.ts";
import { until } from "../../src/testing/engine-bench.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";
import { Child } from "./process.ts";

const U = "u" as UserId;
const S = "s" as SessionId;
let folder: ReturnType<typeof makeFolder>;
let engines: SqliteEngine[];
let children: Child[];

beforeEach(() => {
  folder = makeFolder();
  engines = [];
  children = [];
});
afterEach(async () => {
  for (const child of children) await child.kill();
  for (const engine of engines) await engine.close();
  folder.remove();
});

async function open(options: Partial<SqliteOptions> = {}): Promise<SqliteEngine> {
  const engine = sqliteEngine({ dir: folder.dir, reserveBytes: 65_536, log: () => {}, ...options });
  engines.push(engine);
  await engine.open((cause) => {
    throw cause;
  });
  return engine;
}

async function refusal(options: Partial<SqliteOptions> = {}): Promise<string> {
  return open(options).then(
    () => "it opened",
    (cause: { code: string; message: string }) => `${cause.code}: ${cause.message}`,
  );
}

function start(...args: ConstructorParameters<typeof Child>): Child {
  const child = new Child(...args);
  children.push(child);
  return child;
}

const silent = { deliver: () => {}, ended: () => {}, lost: () => {} };

async function readAll(desk: Attachment): Promise<readonly Entry[]> {
  const entries: Entry[] = [];
  for (let after = 0; ; ) {
    const page = await desk.read({ after, limit: 1_000, maxBytes: 10_000_000, session: S });
    entries.push(...page.entries);
    if (page.upto >= desk.head) return entries;
    after = page.upto;
  }
}

test("[E46] kill -9 under load: what was stored is there, what was acknowledged does not come back", async () => {
  const stored = new Set<string>();
  const acked = new Set<string>();
  const acking = new Set<string>();
  for (let round = 0; round < 4; round += 1) {
    const child = start(["churn", folder.dir, `r${round}`]);
    await child.said("ready");
    const enough = 200 + Math.floor(Math.random() * 600);
    await until(
      () => child.lines.length > enough,
      () => "the child to work",
    );
    await child.kill();
    for (const line of child.lines) {
      const [what, id = ""] = line.split(" ");
      if (what === "stored") stored.add(id);
      else if (what === "acked") acked.add(id);
      else if (what === "acking") acking.add(id);
      else expect(line).toBe("ready");
    }
    const engine = await open({ mailboxMaxMessages: 1_000_000 });
    const found = new Set<string>();
    for (const user of ["u0", "u1", "u2", "u3"] as UserId[]) {
      const desk = await engine.attach(user, silent);
      for (const entry of await readAll(desk)) {
        expect(found.has(entry.id)).toBe(false);
        found.add(entry.id);
        expect(JSON.parse(entry.event).id).toBe(entry.id);
      }
    }
    expect([...stored].filter((id) => !found.has(id) && !acking.has(id))).toEqual([]);
    expect([...acked].filter((id) => found.has(id))).toEqual([]);
    const totals = await engine.totals();
    expect(totals.accepted).toBe(totals.unsettled + totals.acked);
    expect(totals.unsettled).toBe(found.size);
    await engine.close();
  }
  expect(stored.size).toBeGreaterThan(200);
  expect(acked.size).toBeGreaterThan(10);
}, 60_000);

test("[E47] callers share commits: 64 at once need far fewer than there are messages, one alone one each", async () => {
  const engine = await open();
  let before = engine.commits;
  for (let n = 0; n < 20; n += 1) await engine.append([makeMessage(`one-${n}`, ["u"])]);
  expect(engine.commits - before).toBe(20);
  before = engine.commits;
  const caller = async (each: number) => {
    for (let n = 0; n < 10; n += 1) await engine.append([makeMessage(`many-${each}-${n}`, [`u${each}`])]);
  };
  await Promise.all(Array.from({ length: 64 }, (_none, each) => caller(each)));
  expect(engine.commits - before).toBeLessThan(64);
  before = engine.commits;
  const desk = await engine.attach(U, silent);
  await Promise.all(Array.from({ length: 20 }, (_none, n) => desk.settle([{ kind: "acked", seqs: [n + 1] }], S)));
  expect(engine.commits - before).toBeLessThan(5);
  // Reading and counting need none.
  before = engine.commits;
  await Promise.all([engine.totals(), desk.read({ after: 0, limit: 10, maxBytes: 1_000, session: S }), engine.find(makeMessage("one-1", []).id)]);
  await desk.settle([{ kind: "acked", seqs: [1] }], S);
  expect(engine.commits).toBe(before);
});

test("[E82] when more is asked for than one commit takes, it is done in the order in which it was asked for, and all that was asked for is done before it closes", async () => {
  const [MESSAGES, CALLS] = [4_000, 400];
  const engine = await open();
  const got: Entry[] = [];
  const desk = await engine.attach(U, { ...silent, deliver: (entries) => void got.push(...entries) });
  const order: number[] = [];
  const ids = Array.from({ length: MESSAGES }, (_none, n) => `m${String(n).padStart(5, "0")}`);
  const each = MESSAGES / CALLS;
  const stored: Promise<unknown>[] = [];
  const acked: Promise<unknown>[] = [];
  for (let call = 0; call < CALLS; call += 1) {
    const batch = ids.slice(call * each, (call + 1) * each).map((id) => makeMessage(id, ["u"]));
    stored.push(engine.append(batch).then(() => order.push(call)));
    // Asked for before it is known that it was stored: it comes after that all the same.
    acked.push(desk.settle([{ kind: "acked", seqs: [call * each + 1] }], S));
    // Some of it comes while a commit is under way.
    if (call % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await engine.close();
  await Promise.all(stored);
  expect(order).toEqual(Array.from({ length: CALLS }, (_none, call) => call));
  expect(got.map(({ id, seq }) => [id, seq])).toEqual(ids.map((id, n) => [id, n + 1]));
  expect(await Promise.all(acked)).toEqual(
    Array.from({ length: CALLS }, (_none, call) => [{ seq: call * each + 1, id: ids[call * each], ending: "acked" }]),
  );
  expect(engine.commits).toBeLessThan(CALLS / 4);

  const again = await open();
  const left = await readAll(await again.attach(U, silent));
  expect(left.map(({ id }) => id)).toEqual(ids.filter((_id, n) => n % each !== 0));
});

test("[E48] a second process is told who holds the folder; the lock goes with the process, however it ends", async () => {
  const child = start(["hold", folder.dir]);
  await child.said("ready");
  const message = await refusal();
  expect(message).toContain("store-unavailable");
  expect(message).toContain(folder.dir);
  if (process.platform === "linux") expect(message).toContain(`process ${child.pid}`);
  await child.kill();
  const engine = await open();
  expect((await engine.totals()).accepted).toBe(1);
  // Within one process as well; and a look at the folder must not loosen the lock.
  expect(await refusal()).toContain("in use");
  const other = start(["hold", folder.dir]);
  await until(
    () => other.lines.length > 0,
    () => "the other process to say something",
  );
  expect(other.lines.join()).toContain("in use");
  if (process.platform === "linux") expect(other.lines.join()).toContain(`process ${process.pid}`);
});

test("[E49] a store of a newer version, of another program, or damaged is refused with a sentence, and not touched", async () => {
  await (await open()).close();
  const file = databaseFile(folder.dir);
  let db = new Database(file);
  db.pragma(`user_version = ${MIGRATIONS.length + 1}`);
  db.close();
  expect(await refusal()).toMatch(
    new RegExp(
      `store-unavailable: The store in .* has version ${MIGRATIONS.length + 1}; this program knows versions up to ${MIGRATIONS.length}\\..*newer Handover`,
    ),
  );
  db = new Database(file);
  expect(db.pragma("user_version", { simple: true })).toBe(MIGRATIONS.length + 1);
  db.close();

  const foreign = join(folder.dir, "foreign");
  mkdirSync(foreign);
  db = new Database(databaseFile(foreign));
  db.exec("CREATE TABLE cats (name TEXT)");
  db.close();
  expect(await refusal({ dir: foreign })).toContain("is not a store of Handover");

  const broken = join(folder.dir, "broken");
  mkdirSync(broken);
  writeFileSync(databaseFile(broken), "this is no database".repeat(1_000));
  expect(await refusal({ dir: broken })).toMatch(/damaged: .*handover doctor --data .*--repair.*handover restore/);

  writeFileSync(join(folder.dir, "a-file"), "");
  expect(await refusal({ dir: join(folder.dir, "a-file", "below") })).toMatch(/cannot be made/);
});

test.each([1, 3])("[E68] a store that an older version (%d) wrote is taken over as it is: mail, numbers, keys and totals", async (version) => {
  const old = new Database(databaseFile(folder.dir));
  old.exec(readFileSync(new URL(`store-${version}.sql`, import.meta.url), "utf8"));
  expect(old.pragma("user_version", { simple: true })).toBe(version);
  old.close();
  // The day that it was written.
  const engine = await open({ now: () => Date.parse("2026-01-01T01:00:00Z") });
  expect(await engine.totals()).toEqual({ accepted: 10, unsettled: 8, acked: 1, expired: 0, replaced: 0, evicted: 0, dead: 1 });
  const desk = await engine.attach("bob" as UserId, silent);
  expect([desk.epoch, desk.head]).toEqual(["m7fmKfe_8zh1v6kg", 8]);
  const read = (session: string) => desk.read({ after: 0, limit: 100, maxBytes: 1_000_000, session: session as SessionId });
  const { entries, gaps } = await read("tab-1");
  expect(entries.map(({ seq, id }) => `${seq} ${id}`)).toEqual(["1 plain", "5 of-session", "8 topic"]);
  expect(JSON.parse(entries[1]?.event ?? "")).toMatchObject({ data: "text of of-session" });
  expect(gaps).toEqual([{ from: 3, to: 3, reason: "dead" }]);
  const again = makeMessage("again", ["eve"], { source: "/users/alice", idempotency: { key: "k", hash: "h" } });
  expect(await engine.append([again])).toMatchObject([{ outcome: "repeated", accepted: { id: "keyed" } }]);
  if (version >= 3) expect(await desk.held("r" as ReceiverId, "tab-1" as SessionId)).toEqual([5]);
  // What is new works with what is old.
  const { evicted } = await engine.endSession("tab-1" as SessionId);
  expect(evicted.map(({ id }) => id)).toEqual(["delayed-of-session", "of-session"]);
  expect((await read("tab-2")).entries.map(({ id }) => id)).toEqual(["plain", "of-other", "topic"]);
  await engine.close();
  const db = new Database(databaseFile(folder.dir), { readonly: true });
  expect(db.pragma("user_version", { simple: true })).toBe(MIGRATIONS.length);
  expect(db.pragma("integrity_check", { simple: true })).toBe("ok");
  db.close();
  // Everything has its checksum: it is found in order when it is opened again.
  const later = await open({ now: () => Date.parse("2026-01-01T02:00:00Z") });
  expect((await (await later.attach("eve" as UserId, silent)).read({ after: 0, limit: 9, maxBytes: 9_999, session: S })).entries.length).toBe(2);
  expect(later.damages).toBe(0);
});

test("[E50] the folder is made on first use, for its owner only, with room kept for a full disk", async () => {
  const dir = join(folder.dir, "a", "b");
  await open({ dir });
  expect(statSync(dir).mode & 0o777).toBe(0o700);
  expect(readdirSync(dir).sort()).toEqual(["handover.db", "handover.db-wal", "mark", "reserve"]);
  expect(statSync(join(dir, "reserve")).size).toBe(65_536);
});

test("[E51] a message damaged on the disk is never delivered: it is dead, kept, told as a gap, and there is a line for the operator", async () => {
  const first = await open();
  const texts = ["whole-1", "hurt-2", "hurt-3", "whole-4"].map((id) => makeMessage(id, ["u"]));
  await first.append(texts);
  let cameAgain = 0;
  const desk = await first.attach(U, { ...silent, deliver: (entries) => (cameAgain += entries.length) });
  await desk.settle([{ kind: "nacked", seq: 3, retryAfterMs: 1 }], S);
  await until(
    () => cameAgain === 1,
    () => "the nacked message to come again",
  );
  await first.close();
  const db = new Database(databaseFile(folder.dir));
  expect(db.prepare("UPDATE events SET event = replace(event, 'xxx', 'xyx') WHERE event LIKE '%hurt%'").run().changes).toBe(2);
  db.close();
  const lines: string[] = [];
  const engine = await open({ log: (line) => lines.push(line) });
  const ended: unknown[] = [];
  const again = await engine.attach(U, { ...silent, ended: (endings) => ended.push(...endings) });
  const page = await again.read({ after: 0, limit: 10, maxBytes: 1_000_000, session: S });
  expect(page.entries.map(({ id }) => id)).toEqual(["whole-1", "whole-4"]);
  expect(ended.length).toBe(2);
  expect(page.gaps.map(({ reason }) => reason)).toEqual(["dead", "dead"]);
  expect(lines.filter((line) => /hurt-\d.*damaged.*dead letter/.test(line)).length).toBe(2);
  expect((await engine.totals()).dead).toBe(2);
  await engine.close();
  const after = new Database(databaseFile(folder.dir), { readonly: true });
  expect(after.prepare("SELECT count(*) FROM events WHERE event LIKE '%hurt%'").pluck().get()).toBe(2);
  expect(after.prepare("SELECT DISTINCT reason FROM deliveries WHERE ending = 'dead'").pluck().all()).toEqual(["damaged"]);
  after.close();
});

test("[E52] the file does not grow for ever, and gets smaller after a peak", async () => {
  let nowMs = Date.now();
  const engine = await open({ now: () => nowMs });
  const desk = await engine.attach(U, silent);
  const size = () => statSync(databaseFile(folder.dir)).size;
  const round = async (name: string, count: number) => {
    const event = JSON.stringify("x".repeat(2_000));
    for (let n = 0; n < count; n += 100) {
      const ids = Array.from({ length: 100 }, (_none, each) => `${name}-${n + each}`);
      await engine.append(ids.map((id) => makeMessage(id, ["u"], { event, acceptedAtMs: nowMs })));
    }
    await desk.settle([{ kind: "acked-upto", upto: Number.MAX_SAFE_INTEGER, except: [] }], S);
    nowMs += 25 * 3600_000;
    await engine.sweep();
  };
  const sizes: number[] = [];
  for (let n = 0; n < 12; n += 1) {
    await round(`r${n}`, 1_000);
    sizes.push(size());
  }
  expect(Math.max(...sizes)).toBeLessThan(3 * 1_000 * 2_100);
  await round("peak", 8_000);
  await until(
    () => size() < 6_000_000,
    () => `the file to get smaller than 6 MB, not ${size()}`,
  );
  expect((await engine.totals()).unsettled).toBe(0);
}, 60_000);

test("[E69] sessions that need not be remembered any more are gone from the file", async () => {
  let nowMs = Date.now();
  const engine = await open({ now: () => nowMs });
  const sessions = Array.from({ length: 2_500 }, (_none, n) => `s${n}` as SessionId);
  await Promise.all(sessions.map((session) => engine.admitSession(session, U, nowMs + 1_000)));
  await Promise.all(sessions.slice(0, 1_200).map((session) => engine.endSession(session)));
  const before = engine.commits;
  await Promise.all(sessions.slice(1_200).map((session) => engine.admitSession(session, U, nowMs + 500)));
  expect(engine.commits, "what says nothing new costs no commit").toBe(before);
  await engine.admitSession("lasting" as SessionId, U, nowMs + 400 * 24 * 3600_000);
  nowMs += 367 * 24 * 3600_000;
  await engine.sweep();
  await engine.close();
  const db = new Database(databaseFile(folder.dir), { readonly: true });
  const rows = ["SELECT session FROM sessions", "SELECT session FROM ended_sessions"].map((sql) => db.prepare(sql).pluck().all());
  db.close();
  expect(rows).toEqual([["lasting"], []]);
});

test("[E77] holds leave nothing behind in the file when what was held has ended", async () => {
  const engine = await open();
  const users = ["u", "v"] as UserId[];
  await engine.append(Array.from({ length: 20 }, (_none, n) => makeMessage(`m${n}`, users)));
  const [desk, other] = [await engine.attach(U, silent), await engine.attach("v" as UserId, silent)];
  const all = Array.from({ length: 20 }, (_none, n) => n + 1);
  for (const receiver of ["a", "b", "c"] as ReceiverId[]) {
    for (const each of [desk, other]) await each.settle([{ kind: "held", receiver, seqs: all }], S);
  }
  const before = engine.commits;
  await desk.settle([{ kind: "held", receiver: "a" as ReceiverId, seqs: all }], S);
  expect(engine.commits, "what says nothing new costs no commit").toBe(before);
  await desk.settle([{ kind: "released", receiver: "a" as ReceiverId, above: 0 }], S);
  await desk.settle([{ kind: "acked-upto", upto: 20, except: [] }], S);
  const rows = (sql: string) => {
    const db = new Database(databaseFile(folder.dir), { readonly: true });
    const found = db.prepare(sql).raw().all();
    db.close();
    return found;
  };
  await engine.close();
  expect(rows("SELECT user, holds, count FROM mailboxes ORDER BY user")).toEqual([
    ["u", 0, 0],
    ["v", 60, 20],
  ]);
  expect(rows("SELECT DISTINCT mailbox FROM holds")).toEqual(rows("SELECT id FROM mailboxes WHERE user = 'v'"));
  const again = await open();
  await again.endSession(S);
  await again.close();
  expect(rows("SELECT user, holds FROM mailboxes ORDER BY user")).toEqual([
    ["u", 0],
    ["v", 0],
  ]);
  expect([rows("SELECT * FROM holds"), rows("SELECT * FROM holders")]).toEqual([[], []]);
});

test("[E53] mail is found by index: no statement scans a table or sorts", () => {
  const db = openDatabase(folder.dir);
  const scans: string[] = [];
  for (const [name, sql] of Object.entries(SQL)) {
    const statement = db.prepare(`EXPLAIN QUERY PLAN ${sql}`);
    const plan = statement.all(...Array.from({ length: sql.split("?").length - 1 }, () => 1)) as { detail: string }[];
    for (const { detail } of plan) if (/SCAN(?! \d+-ROW VALUES)|TEMP B-TREE/.test(detail)) scans.push(`${name}: ${detail}`);
  }
  db.close();
  // Seven rows, and walks along an index that end at their first row.
  expect(scans.sort()).toEqual([
    "lastFold: SCAN folds USING INDEX folds_first",
    "nextEndedDue: SCAN ended_sessions USING COVERING INDEX ended_sessions_due",
    "nextFoldDue: SCAN folds USING COVERING INDEX folds_due",
    "nextKeyDue: SCAN idempotency USING INDEX idempotency_due",
    "nextSessionDue: SCAN sessions USING COVERING INDEX sessions_due",
    "totals: SCAN totals",
  ]);
});

test("[E54] a reader is told of very many endings and finds the mail behind them", async () => {
  const engine = await open();
  for (let n = 0; n < 25; n += 1) {
    const expired = Array.from({ length: 100 }, (_none, each) => makeMessage(`e${n}-${each}`, ["u"], { expiresAtMs: 0 }));
    await engine.append(expired);
  }
  await engine.append([makeMessage("last", ["u"])]);
  const desk = await engine.attach(U, silent);
  const page = await desk.read({ after: 0, limit: 10, maxBytes: 1_000, session: S });
  expect(page.entries.map(({ id }) => id)).toEqual(["last"]);
  expect(page.upto).toBe(2_501);
  let covered = 0;
  for (const { from, to, reason } of page.gaps) {
    expect([from, reason]).toEqual([covered + 1, "expired"]);
    covered = to;
  }
  expect(covered).toBe(2_500);
});

test("[E54] … page by page, when every other one ended for another reason", async () => {
  const engine = await open();
  const pairs = 2_500;
  for (let start = 0; start < pairs; start += 50) {
    const ids = Array.from({ length: 50 }, (_none, n) => start + n);
    // Each of the first kind is replaced by the next one; the last one waits.
    await engine.append(ids.flatMap((n) => [makeMessage(`t${n}`, ["u"], { topic: "t" }), makeMessage(`e${n}`, ["u"], { expiresAtMs: 0 })]));
  }
  const desk = await engine.attach(U, silent);
  const found: (string | number)[] = [];
  const sizes: number[] = [];
  for (let after = 0; after < desk.head; ) {
    const page = await desk.read({ after, limit: 10, maxBytes: 1_000_000, session: S });
    for (const { from, to, reason } of page.gaps) found.push(...Array.from({ length: to - from + 1 }, (_none, n) => `${from + n} ${reason}`));
    found.push(...page.entries.map(({ seq }) => seq));
    expect(page.upto).toBeGreaterThan(after);
    sizes.push(page.gaps.length);
    after = page.upto;
  }
  expect(Math.max(...sizes)).toBeLessThanOrEqual(2_000);
  expect(sizes.length).toBeGreaterThan(2);
  const told: (string | number)[] = Array.from({ length: 2 * pairs }, (_none, n) => `${n + 1} ${n % 2 === 0 ? "replaced" : "expired"}`);
  expect(found.toSorted((one, other) => Number.parseInt(String(one), 10) - Number.parseInt(String(other), 10))).toEqual(
    told.with(2 * pairs - 2, 2 * pairs - 1),
  );
});

test("[E12] idempotency keys that are forgotten are gone from the file", async () => {
  let nowMs = Date.now();
  const engine = await open({ now: () => nowMs });
  for (let start = 0; start < 2_500; start += 100) {
    const ids = Array.from({ length: 100 }, (_none, n) => `k${start + n}`);
    // What has several recipients is never fresh, and its key has a row of its own.
    const users = start % 200 === 0 ? ["u"] : ["u", "v"];
    await engine.append(ids.map((id) => makeMessage(id, users, { acceptedAtMs: nowMs, idempotency: { key: id, hash: "h" } })));
  }
  nowMs += 25 * 3600_000;
  for (const [id, users] of [["last", ["u"]] as const, ["last of two", ["u", "v"]] as const])
    await engine.append([makeMessage(id, users, { acceptedAtMs: nowMs, idempotency: { key: id, hash: "h" } })]);
  await engine.sweep();
  await engine.close();
  const db = new Database(databaseFile(folder.dir), { readonly: true });
  expect(db.prepare("SELECT key FROM idempotency").pluck().all()).toEqual(["last of two"]);
  const folds = db.prepare<[], Parameters<typeof mailsOf>[0]>("SELECT keys, keys_checksum FROM folds").all();
  expect(folds.flatMap((fold) => mailsOf(fold)?.map(([, key]) => key))).toEqual(["last"]);
  expect(db.prepare("SELECT count(*) FROM folded_keys").pluck().get()).toBe(1);
  db.close();
});

test("[E55] opening twice, and work on a store that was never opened, is refused", async () => {
  const engine = sqliteEngine({ dir: folder.dir });
  await expect(engine.append([makeMessage("m", ["u"])])).rejects.toMatchObject({ code: "store-unavailable" });
  await engine.close();
  await expect(engine.open(vi.fn())).rejects.toMatchObject({ code: "store-unavailable" });
  expect(existsSync(databaseFile(folder.dir))).toBe(false);
});

test("[E90] a store that is closed while it opens ends closed: its folder is free for the next one, and a second open changes nothing for the first", async () => {
  const failed = (cause: HandoverError) => {
    throw cause;
  };
  const first = sqliteEngine({ dir: folder.dir });
  const opening = first.open(failed).then(
    () => "open",
    (thrown: HandoverError) => thrown.code,
  );
  await expect(first.open(failed)).rejects.toMatchObject({ code: "store-unavailable" });
  await first.close();
  expect(["open", "store-unavailable"]).toContain(await opening);

  const second = sqliteEngine({ dir: folder.dir });
  await second.open(failed);
  await expect(second.open(failed)).rejects.toMatchObject({ code: "store-unavailable" });
  expect(await second.totals()).toMatchObject({ accepted: 0 });
  await second.close();
});
