/**
 * A process of its own that opens damaged stores, and repairs them: `look <folder>` or `repair <folder>` a line on its input, one {@link Finding}
 * or {@link Repair} a line on its output. A store that makes the process crash or hang ends this one, and not the tests.
 */
import { createInterface } from "node:readline";
import type { Attachment, Entry, Totals } from "../../src/engine.ts";
import { examineFolder, repair } from "../../src/engines/sqlite/doctor.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { makeMessage } from "../engines/message.ts";

/** What was done with one store, and what came of it. */
export interface Finding {
  /** Everything that was handed out: user, session that asked, and the entry. */
  readonly handed: readonly (readonly [user: string, session: string, entry: Entry])[];
  /** Why it was not opened. */
  readonly refused?: string;
  /** Why the process would have had to stop. */
  readonly failed?: string;
  /** What was refused while it was open. */
  readonly errors: readonly string[];
  readonly log: readonly string[];
  /** Damaged messages that it counted. */
  readonly damages: number;
  readonly totals?: Totals;
}

/** What the doctor said of a store. */
export interface Repair {
  readonly findings: readonly string[];
  /** It says that commits are missing, acknowledgements perhaps among them. */
  readonly misses: boolean;
  readonly saved: number;
  /** Messages that it names as lost: `user id`, the user `?` where it cannot be told. */
  readonly lost: readonly string[];
  /** How many are lost in all; null when that cannot be told. */
  readonly missing: number | null;
  /** Why it could not repair it. */
  readonly refused?: string;
}

export const USERS = ["alice", "bob", "carol", "dave", "erin"] as const;
export const SESSIONS = ["s1", "s2", "s3"] as const;

/** Opens the store as a server does, reads every mailbox for every session, sends to each, and acknowledges what was handed out. */
async function look(dir: string): Promise<Finding> {
  const log: string[] = [];
  const errors: string[] = [];
  const handed: (readonly [string, string, Entry])[] = [];
  let failed: string | undefined;
  const engine = sqliteEngine({ dir, reserveBytes: 65_536, log: (line) => log.push(line) });
  try {
    await engine.open((cause) => {
      failed = cause.message;
    });
  } catch (thrown) {
    return { handed, refused: messageOf(thrown), errors, log, damages: 0 };
  }
  const attempt = async <T>(what: Promise<T>): Promise<T | undefined> => {
    try {
      return await what;
    } catch (thrown) {
      errors.push(messageOf(thrown));
      return undefined;
    }
  };
  for (const user of USERS) {
    const desk = await attempt(engine.attach(user as UserId, { deliver: () => {}, ended: () => {}, lost: () => {} }));
    if (!desk) continue;
    const mail: (readonly [string, Entry])[] = [];
    for (const session of SESSIONS) for (const entry of (await attempt(readAll(desk, session))) ?? []) mail.push([session, entry]);
    handed.push(...mail.map(([session, entry]) => [user, session, entry] as const));
    // A store that is in doubt must not do harm when it is written to either.
    await attempt(engine.append([makeMessage(`new-${user}`, [user])]));
    for (const session of SESSIONS) {
      const seqs = mail.flatMap(([each, { seq }]) => (each === session ? [seq] : []));
      await attempt(desk.settle([{ kind: "acked", seqs }], session as SessionId));
    }
  }
  const totals = await attempt(engine.totals());
  await attempt(engine.close());
  return { handed, ...(failed === undefined ? {} : { failed }), errors, log, damages: engine.damages, ...(totals ? { totals } : {}) };
}

function mend(dir: string): Repair {
  let found = { findings: [] as readonly string[], misses: false };
  try {
    const diagnosis = examineFolder(dir);
    found = { findings: diagnosis.findings, misses: diagnosis.misses };
    const { salvaged } = repair(dir, diagnosis);
    const lost = salvaged.lost.map(({ message, user }) => `${user ?? "?"} ${message}`);
    return { ...found, saved: salvaged.taken.unsettled, lost, missing: salvaged.missing ?? null };
  } catch (thrown) {
    return { ...found, saved: 0, lost: [], missing: null, refused: messageOf(thrown) };
  }
}

async function readAll(desk: Attachment, session: string): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (let after = 0; ; ) {
    const page = await desk.read({ after, limit: 50, maxBytes: 100_000, session: session as SessionId });
    entries.push(...page.entries);
    if (page.entries.length === 0) return entries;
    after = page.upto;
  }
}

function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

if (process.argv[1]?.endsWith("rotten.ts") && process.send === undefined) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [, what = "", dir = ""] = /^(look|repair) (.*)$/.exec(line) ?? [];
    process.stdout.write(`${JSON.stringify(what === "repair" ? mend(dir) : await look(dir))}\n`);
  }
}
