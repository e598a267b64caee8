/**
 * What a store said before it was stopped, and what is found in it afterwards.
 * @module
 */
import type { Totals } from "../../src/engine.ts";
import type { ReadResult } from "../../src/engines/sqlite/call.ts";
import { openDatabase } from "../../src/engines/sqlite/open.ts";
import type { Db } from "../../src/engines/sqlite/schema.ts";
import { Store } from "../../src/engines/sqlite/store.ts";

/** The users that `child.ts churn` writes to. */
const USERS = ["u0", "u1", "u2", "u3"] as const;

/** Read from the lines of `child.ts churn`. */
export interface Said {
  /** Answered: these are stored. */
  readonly stored: ReadonlySet<string>;
  /** Their acknowledgement was asked for; perhaps it was carried out. */
  readonly acking: ReadonlySet<string>;
  /** … and answered: these must not come back. */
  readonly acked: ReadonlySet<string>;
}

export function readSaid(lines: readonly string[]): Said {
  const named = (word: string) => new Set(lines.flatMap((line) => (line.startsWith(`${word} `) ? line.slice(word.length + 1) : [])));
  return { stored: named("stored"), acking: named("acking"), acked: named("acked") };
}

/** What is wrong with a store after a fault; all in order: three times nothing. */
export interface Damage {
  /** Stored by its own word, not acknowledged, and not there. */
  readonly lost: number;
  /** Acknowledged by its own word, and there again. */
  readonly back: number;
  /** Why the store cannot be opened or read. */
  readonly unreadable?: string;
}

/** Opens the store in `dir` as the server's thread does, without the thread, and compares its mail with what was said. */
export function inspect(dir: string, { stored, acking, acked }: Said): Damage {
  const present = new Set<string>();
  let db: Db | undefined;
  try {
    db = openDatabase(dir);
    const store = new Store(db, { dir, mailboxMaxMessages: 1, mailboxMaxBytes: 1, maxAttempts: 1, reserveBytes: 0 });
    store.begin(Date.now());
    for (const user of USERS) {
      for (let after = 0, more = true; more; ) {
        const step = store.run(["read", user, "s", after, 1_000_000, 1_000_000_000], 0) as ReadResult;
        for (const [, id] of step.entries) present.add(id);
        [after, more] = [step.lookedAt, step.more];
      }
    }
    const { accepted, ...rest } = store.run(["totals"], 0) as Totals;
    const sum = Object.values(rest).reduce((total, n) => total + n, 0);
    if (sum !== accepted) return { lost: 0, back: 0, unreadable: `${accepted} accepted, ${sum} accounted for` };
    if (store.outcome.damages > 0) return { lost: 0, back: 0, unreadable: `${store.outcome.damages} damaged` };
  } catch (thrown) {
    return { lost: 0, back: 0, unreadable: String(thrown) };
  } finally {
    db?.close();
  }
  return {
    lost: [...stored].filter((id) => !acking.has(id) && !present.has(id)).length,
    back: [...acked].filter((id) => present.has(id)).length,
  };
}

/** Many damages as one line of figures. */
export class Tally {
  rounds = 0;
  stored = 0;
  acked = 0;
  lost = 0;
  back = 0;
  unreadable = 0;
  /** The first of each kind, for the person who looks for the cause. */
  readonly examples: string[] = [];

  add(said: Said, damage: Damage, where: string): void {
    this.rounds += 1;
    this.stored += said.stored.size;
    this.acked += said.acked.size;
    this.lost += damage.lost;
    this.back += damage.back;
    if (damage.unreadable !== undefined) this.unreadable += 1;
    if ((damage.lost > 0 || damage.back > 0 || damage.unreadable !== undefined) && this.examples.length < 5)
      this.examples.push(`${where}: ${JSON.stringify(damage)}`);
  }

  get damages(): number {
    return this.lost + this.back + this.unreadable;
  }

  figures(): Record<string, number> {
    const { rounds, stored, acked, lost, back, unreadable } = this;
    return { rounds, stored, acked, lost, back, unreadable };
  }
}
