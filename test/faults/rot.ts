/**
 * Stores with known content, damaged as disks damage files: bits turned over, pages zeroed, files cut short or gone.
 * @module
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import type { Addressed, Entry } from "../../src/engine.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { makeMessage } from "../engines/message.ts";
import { type Finding, type Repair, SESSIONS, USERS } from "./rotten.ts";

const PAGE = 4_096;
const MESSAGES = 240;
const YOUNG_MESSAGES = 40;
const LOOK_MS = 20_000;

/** What is in a store: who shall get what. */
export interface Truth {
  /** Per `user id`: the entry as it must be handed out. */
  readonly owed: ReadonlyMap<string, Entry>;
  /** Per `user id`: everything that was ever stored, what ended too. */
  readonly sent: ReadonlyMap<string, Addressed>;
  readonly unsettled: number;
}

/** Stores: closed cleanly; killed, the last commits in the write-ahead log; killed soon after it was made, so that everything is in the log. */
export const STATES = ["closed", "killed", "young"] as const;

/** Makes a store with some messages. */
export async function makeStore(dir: string, state: (typeof STATES)[number]): Promise<Truth> {
  const isKilled = state !== "closed";
  const [parts, messages] = state === "young" ? [1, YOUNG_MESSAGES] : [2, MESSAGES];
  const owed = new Map<string, Entry>();
  const sent = new Map<string, Addressed>();
  const work = isKilled ? `${dir}-at-work` : dir;
  for (let part = 0; part < parts; part += 1) {
    const engine = sqliteEngine({ dir: work, reserveBytes: 65_536, log: () => {} });
    await engine.open(() => {});
    for (let n = part; n < messages; n += parts) {
      const message = messageOf(n);
      await engine.append([message]);
      for (const { user } of message.recipients) sent.set(`${user} ${message.id}`, message);
    }
    owed.clear();
    for (const user of USERS) {
      const desk = await engine.attach(user as UserId, { deliver: () => {}, ended: () => {}, lost: () => {} });
      for (const session of SESSIONS) {
        const { entries } = await desk.read({ after: 0, limit: 10_000, maxBytes: 1e9, session: session as SessionId });
        const done = entries.filter(({ seq }) => seq % 3 === 0);
        await desk.settle([{ kind: "acked", seqs: done.map(({ seq }) => seq) }], session as SessionId);
        for (const entry of entries) owed.set(`${user} ${entry.id}`, entry);
        for (const { id } of done) owed.delete(`${user} ${id}`);
      }
    }
    if (isKilled && part === parts - 1) cpSync(work, dir, { recursive: true });
    await engine.close();
    if (part === 0) {
      mkdirSync(join(work, "early"));
      cpSync(join(work, "handover.db"), join(work, "early", "handover.db"));
    }
  }
  if (isKilled) rmSync(work, { recursive: true });
  return { owed, sent, unsettled: owed.size };
}

/** Every kind of message: short and longer than a page, for one, several and all, for a session, under a topic, with a key. */
function messageOf(n: number): Addressed {
  const users = n % 7 === 0 ? USERS.slice(0, 3) : [USERS[n % USERS.length] ?? "alice"];
  const change = n % 11 === 0 ? { event: JSON.stringify({ id: `m${n}`, data: "long ".repeat(n * 20) }) } : {};
  const message = makeMessage(`0198c0de-0000-7000-8000-${String(n).padStart(12, "0")}`, users, change);
  if (n % 4 === 0)
    return { ...message, recipients: users.map((user) => ({ user: user as UserId, session: SESSIONS[n % SESSIONS.length] as SessionId })) };
  if (n % 5 === 0) return { ...message, topic: `topic-${n % 3}` };
  if (n % 6 === 0) return { ...message, idempotency: { key: `key-${n}`, hash: `hash-${n}` } };
  return message;
}

/** What happens to files; in turn, so that each does in every run. */
const KINDS = [
  "a bit of a page",
  "bits of a page",
  "bits all over",
  "bits of rows",
  "bits of a text",
  "bits of a fresh row",
  "bits of a fresh text",
  "a page zeroed",
  "cut at a page",
  "cut",
  "log gone",
  "database gone",
  "database emptied",
  "an older copy",
  "mark",
  "shm",
] as const;

/**
 * Damages the files of the store in `dir`, made by {@link makeStore}.
 * @param turn  which kind of damage
 * @returns how, in words
 */
export function hurt(dir: string, random: () => number, turn: number): string {
  const upto = (n: number) => Math.floor(random() * n);
  const kind = KINDS[turn % KINDS.length] ?? "cut";
  const database = join(dir, "handover.db");
  const log = `${database}-wal`;
  switch (kind) {
    case "database gone":
      rmSync(database);
      return kind;
    case "database emptied":
      truncateSync(database);
      return kind;
    case "bits of rows": {
      // Such as SQLite sees no harm in: the pages and indexes are in order. Each change of another row: some show in nothing that is handed out.
      const db = new Database(database);
      const changes = [
        "event = (SELECT max(id) FROM events WHERE id <> event)",
        "session = 's2'",
        "attempts = attempts + 4",
        "source = '/users/mallory'",
      ];
      const row = "SELECT message, mailbox FROM deliveries WHERE ending IS NULL AND session IS NOT 's2' LIMIT 1 OFFSET ?";
      const rows = Number(db.prepare("SELECT count(*) FROM deliveries WHERE ending IS NULL AND session IS NOT 's2'").pluck().get());
      for (const change of changes) db.prepare(`UPDATE deliveries SET ${change} WHERE (message, mailbox) IN (${row})`).run(upto(rows));
      db.close();
      return `rows: ${changes.join("; ")}`;
    }
    case "bits of a text": {
      const db = new Database(database);
      const event = "SELECT id FROM events WHERE unsettled > 0 LIMIT 1 OFFSET ?";
      db.prepare(`UPDATE events SET event = replace(event, 'x', 'y') WHERE id IN (${event})`).run(upto(10));
      db.close();
      return kind;
    }
    case "bits of a fresh row":
    case "bits of a fresh text": {
      // Such as could be read: acknowledgements that nobody gave, another mailbox; or another text.
      const acked = Array.from({ length: 600 }, (_none, n) => [1 + Math.floor(n / 100), 1 + (n % 100)]).flat();
      const change =
        kind === "bits of a fresh text"
          ? "events = CAST(replace(CAST(events AS TEXT), 'x', 'y') AS BLOB)"
          : [
              `header = replace(header, '"acked":[]', '"acked":${JSON.stringify(acked)}')`,
              `header = replace(replace(header, '",1,', '",2,'), '",3,', '",1,')`,
            ][upto(2)];
      const db = new Database(database);
      const { changes } = db.prepare(`UPDATE fresh SET ${change} WHERE mails > 0 AND n % 3 = ?`).run(upto(3));
      db.close();
      if (changes > 0) return `${changes} rows of fresh mail: ${change?.slice(0, 60)}`;
      break;
    }
    case "an older copy":
      if (existsSync(join(dir, "early"))) {
        cpSync(join(dir, "early"), dir, { recursive: true });
        rmSync(log, { force: true });
        return kind;
      }
      break;
    case "mark": {
      const mark = join(dir, "mark");
      const how = upto(3);
      if (how === 0) rmSync(mark);
      else if (how === 1) truncateSync(mark, upto(40));
      else flip(mark, upto(30), upto(8));
      return `mark: ${["gone", "cut", "a bit"][how]}`;
    }
    case "shm":
      writeFileSync(`${database}-shm`, Buffer.alloc(32_768, upto(256)));
      return "shm: another's";
    case "log gone":
      if (existsSync(log)) {
        rmSync(log);
        return kind;
      }
      break;
  }
  const files = [database, log].filter((file) => existsSync(file) && statSync(file).size > 0);
  const file = files[upto(files.length)] ?? database;
  const name = basename(file);
  const { size } = statSync(file);
  // Frames of the log have a head of 24 bytes each, behind the log's own of 32.
  const [frame, head] = file === log ? [PAGE + 24, 32] : [PAGE, 0];
  const page = upto(Math.floor((size - head) / frame));
  const [from, end] = [head + page * frame, head + (page + 1) * frame];
  if (kind === "a page zeroed") {
    const bytes = readFileSync(file);
    bytes.fill(0, from, end);
    writeFileSync(file, bytes);
    return `${name}: page ${page} zeroed`;
  }
  if (kind === "cut at a page" || kind === "cut") {
    const length = kind === "cut" ? upto(size) : from;
    truncateSync(file, length);
    return `${name}: cut to ${length} of ${size} bytes`;
  }
  const bits = kind === "a bit of a page" ? 1 : 2 ** (1 + upto(6));
  const [first, length] = kind === "bits all over" ? [0, size] : [from, frame];
  for (let bit = 0; bit < bits; bit += 1) flip(file, first + upto(length), upto(8));
  return `${name}: ${bits} bits of ${length} bytes from ${first}`;
}

function flip(file: string, at: number, bit: number): void {
  const bytes = readFileSync(file);
  bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
  writeFileSync(file, bytes);
}

/** Looks into damaged stores with a process of its own. */
export class Looker {
  #process: ChildProcessByStdio<Writable, Readable, null> | undefined;
  #lines: Interface | undefined;

  /** @returns what was found; a text when the process crashed or hung over it */
  async look(dir: string): Promise<Finding | string> {
    return (await this.#ask(`look ${dir}`)) as Finding | string;
  }

  async repair(dir: string): Promise<Repair | string> {
    return (await this.#ask(`repair ${dir}`)) as Repair | string;
  }

  async #ask(line: string): Promise<unknown> {
    if (!this.#process) {
      const file = fileURLToPath(new URL("./rotten.ts", import.meta.url));
      this.#process = spawn(process.execPath, [file], { env: { ...process.env, NODE_OPTIONS: "" }, stdio: ["pipe", "pipe", "inherit"] });
      this.#lines = createInterface({ input: this.#process.stdout });
    }
    const [child, lines] = [this.#process, this.#lines];
    child.stdin.write(`${line}\n`);
    const answer = await new Promise<string>((resolve) => {
      const timer = setTimeout(() => resolve("hung"), LOOK_MS);
      const gone = (code: number | null, signal: string | null) => resolve(`crashed: ${code ?? signal}`);
      lines?.once("line", (line) => {
        clearTimeout(timer);
        child.off("exit", gone);
        resolve(line);
      });
      child.once("exit", gone);
    });
    if (answer.startsWith("{")) return JSON.parse(answer);
    this.end();
    return answer;
  }

  end(): void {
    this.#process?.kill("SIGKILL");
    this.#process = undefined;
  }
}

const sessionOf = ({ recipients }: Addressed, user: string) => recipients.find((recipient) => recipient.user === user)?.session;

/** What became of one damaged store. */
export type Outcome = "unharmed" | "quarantined" | "refused" | "stopped" | "wrong" | "lost silently" | "crashed or hung" | "no advice";

/**
 * Compares what was found with the truth.
 * @param got  what was handed out at earlier starts of the same store, and acknowledged; this one's is added
 * @param mayComeAgain  endings are known to be lost, with the commits that they were in
 * @returns the outcome, and an example when it must not be
 */
export function judge(truth: Truth, finding: Finding | string, got: Set<string>, mayComeAgain = false): readonly [Outcome, string?] {
  if (typeof finding === "string") return ["crashed or hung", finding];
  for (const [user, session, entry] of finding.handed) {
    if (entry.id === `new-${user}`) continue;
    const name = `${user} ${entry.id}`;
    const known = truth.owed.get(name);
    const sent = truth.sent.get(name);
    const isWhole = known ? JSON.stringify(known) === JSON.stringify(entry) : sent?.event === entry.event && sessionOf(sent, user) === entry.session;
    if (!isWhole) return ["wrong", `${name}: ${JSON.stringify(entry)} instead of ${JSON.stringify(known ?? sent)}`.slice(0, 600)];
    if (!known && !mayComeAgain) return ["wrong", `ended and handed out again: ${name}`];
    if (entry.session !== undefined && entry.session !== session) return ["wrong", `${name} of ${entry.session} was handed to ${session}`];
    got.add(name);
  }
  const { refused, failed, errors, log, damages } = finding;
  if (refused !== undefined) return refused.includes("handover doctor") ? ["refused"] : ["no advice", refused];
  if (failed !== undefined) return ["stopped", failed];
  const lost = [...truth.owed.keys()].filter((name) => !got.has(name));
  if (lost.length === 0 && errors.length === 0 && log.length === 0) return ["unharmed"];
  // A line for the operator, and the metric.
  if (log.length > 0 && damages > 0) return ["quarantined"];
  return ["lost silently", `${lost.slice(0, 3).join(", ")} … ${lost.length}; errors: ${[...new Set(errors)].join(" | ")}`.slice(0, 600)];
}

/** What a repair must keep to. @returns what is wrong, in words */
export function judgeRepair(truth: Truth, report: Repair | string, finding: Finding | string, got: Set<string>): string | undefined {
  if (typeof report === "string") return `the doctor ${report}`;
  if (report.refused?.includes("nothing to read") && typeof finding === "object" && finding.refused !== undefined) return undefined;
  if (report.refused !== undefined) return `not repaired: ${report.refused}`;
  if (report.findings.length === 0) return "the doctor found nothing";
  const [outcome, example] = judge(truth, finding, got, report.misses);
  if (outcome === "wrong" || outcome === "crashed or hung" || outcome === "refused" || outcome === "stopped")
    return `afterwards ${outcome}: ${example ?? ""}`;
  const lost = [...truth.owed.keys()].filter((name) => !got.has(name));
  const unnamed = lost.filter((name) => !report.lost.includes(name) && !report.lost.includes(`? ${name.split(" ")[1]}`));
  // Those that it cannot name, it counts; and where the count is lost too, it says so.
  const counted = report.missing === null ? Number.POSITIVE_INFINITY : report.missing;
  return lost.length > counted ? `${lost.length} lost, ${counted} counted, e.g. ${unnamed.slice(0, 3).join(", ")}` : undefined;
}
