/**
 * Stores with known content, damaged as disks damage files: bits turned over, pages zeroed, files cut short or gone.
 * @module
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { cpSync, existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { Addressed, Entry } from "../../src/engine.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { makeMessage } from "../engines/message.ts";
import { type Finding, SESSIONS, USERS } from "./rotten.ts";

const PAGE = 4_096;
const MESSAGES = 300;
const LOOK_MS = 20_000;

/** What is in a store: who shall get what. */
export interface Truth {
  /** Per `user id`: the entry as it must be handed out. */
  readonly owed: ReadonlyMap<string, Entry>;
  readonly acked: ReadonlySet<string>;
  readonly unsettled: number;
}

/** Makes a store with some hundred messages: closed cleanly, or as a kill leaves it, its last commits in the write-ahead log. */
export async function makeStore(dir: string, isKilled: boolean): Promise<Truth> {
  const owed = new Map<string, Entry>();
  const acked = new Set<string>();
  const work = isKilled ? `${dir}-at-work` : dir;
  for (const part of [0, 1]) {
    const engine = sqliteEngine({ dir: work, reserveBytes: 65_536, log: () => {} });
    await engine.open(() => {});
    for (let n = part; n < MESSAGES; n += 2) {
      const message = messageOf(n);
      await engine.append([message]);
    }
    owed.clear();
    for (const user of USERS) {
      const desk = await engine.attach(user as UserId, { deliver: () => {}, ended: () => {}, lost: () => {} });
      for (const session of SESSIONS) {
        const { entries } = await desk.read({ after: 0, limit: 10_000, maxBytes: 1e9, session: session as SessionId });
        const done = entries.filter(({ seq }) => seq % 3 === 0);
        await desk.settle([{ kind: "acked", seqs: done.map(({ seq }) => seq) }], session as SessionId);
        for (const entry of entries) owed.set(`${user} ${entry.id}`, entry);
        for (const { id } of done) {
          owed.delete(`${user} ${id}`);
          acked.add(`${user} ${id}`);
        }
      }
    }
    if (isKilled && part === 1) cpSync(work, dir, { recursive: true });
    await engine.close();
  }
  if (isKilled) rmSync(work, { recursive: true });
  return { owed, acked, unsettled: owed.size };
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

/** Damages a file of the store in `dir`. @returns how, in words */
export function hurt(dir: string, random: () => number): string {
  const files = ["handover.db", "handover.db-wal"].filter((name) => existsSync(join(dir, name)) && statSync(join(dir, name)).size > 0);
  const name = files[Math.floor(random() * files.length)] ?? "handover.db";
  const file = join(dir, name);
  const { size } = statSync(file);
  const upto = (n: number) => Math.floor(random() * n);
  // Frames of the log have a head of 24 bytes each, behind the log's own of 32.
  const [frame, head] = name.endsWith("-wal") ? [PAGE + 24, 32] : [PAGE, 0];
  const pages = Math.floor((size - head) / frame);
  const page = upto(pages);
  const kind = upto(10);
  if (kind < 6) {
    const bits = 2 ** upto(7);
    const bytes = readFileSync(file);
    // Spread over the file, or all in one page.
    const [from, length] = random() < 0.5 ? [0, size] : [head + page * frame, frame];
    for (let bit = 0; bit < bits; bit += 1) {
      const at = from + upto(length);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << upto(8));
    }
    writeFileSync(file, bytes);
    return `${name}: ${bits} bits of ${length} bytes from ${from}`;
  }
  if (kind < 8) {
    const bytes = readFileSync(file);
    bytes.fill(0, head + page * frame, head + (page + 1) * frame);
    writeFileSync(file, bytes);
    return `${name}: page ${page} zeroed`;
  }
  const length = random() < 0.5 ? head + page * frame : upto(size);
  if (kind === 8 || name === "handover.db") {
    truncateSync(file, length);
    return `${name}: cut to ${length} of ${size} bytes`;
  }
  rmSync(file);
  return `${name}: gone`;
}

/** Looks into damaged stores with a process of its own. */
export class Looker {
  #process: ChildProcessByStdio<Writable, Readable, null> | undefined;
  #lines: Interface | undefined;

  /** @returns what was found; a text when the process crashed or hung over it */
  async look(dir: string): Promise<Finding | string> {
    if (!this.#process) {
      const file = fileURLToPath(new URL("./rotten.ts", import.meta.url));
      this.#process = spawn(process.execPath, [file], { env: { ...process.env, NODE_OPTIONS: "" }, stdio: ["pipe", "pipe", "inherit"] });
      this.#lines = createInterface({ input: this.#process.stdout });
    }
    const [child, lines] = [this.#process, this.#lines];
    child.stdin.write(`${dir}\n`);
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
    if (answer.startsWith("{")) return JSON.parse(answer) as Finding;
    this.end();
    return answer;
  }

  end(): void {
    this.#process?.kill("SIGKILL");
    this.#process = undefined;
  }
}

/** What became of one damaged store. */
export type Outcome = "unharmed" | "quarantined" | "refused" | "stopped" | "wrong" | "lost silently" | "crashed or hung" | "no advice";

/**
 * Compares what was found with the truth.
 * @param got  what was handed out at earlier starts of the same store, and acknowledged; this one's is added
 * @returns the outcome, and an example when it must not be
 */
export function judge(truth: Truth, finding: Finding | string, got: Set<string>): readonly [Outcome, string?] {
  if (typeof finding === "string") return ["crashed or hung", finding];
  for (const [user, session, entry] of finding.handed) {
    if (entry.id === `new-${user}`) continue;
    const name = `${user} ${entry.id}`;
    const known = truth.owed.get(name);
    if (truth.acked.has(name)) return ["wrong", `acknowledged and handed out again: ${name}`];
    if (!known || JSON.stringify(known) !== JSON.stringify(entry))
      return ["wrong", `${name}: ${JSON.stringify(entry)} instead of ${JSON.stringify(known)}`.slice(0, 600)];
    if (entry.session !== undefined && entry.session !== session) return ["wrong", `${name} of ${entry.session} was handed to ${session}`];
    got.add(name);
  }
  const { refused, failed, errors, log } = finding;
  if (refused !== undefined) return refused.includes("handover doctor") ? ["refused"] : ["no advice", refused];
  if (failed !== undefined) return ["stopped", failed];
  const lost = [...truth.owed.keys()].filter((name) => !got.has(name));
  if (lost.length === 0 && errors.length === 0) return log.length === 0 ? ["unharmed"] : ["quarantined"];
  if (log.length > 0) return ["quarantined"];
  return ["lost silently", `${lost.slice(0, 3).join(", ")} … ${lost.length}; errors: ${[...new Set(errors)].join(" | ")}`.slice(0, 600)];
}
