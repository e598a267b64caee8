/**
 * What a store said before it was stopped, and what is found in it afterwards.
 * @module
 */
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";

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

/** Opens the store in `dir` as the server would, and compares its mail with what was said. */
export async function inspect(dir: string, { stored, acking, acked }: Said): Promise<Damage> {
  const engine = sqliteEngine({ dir, reserveBytes: 65_536, log: () => {} });
  const present = new Set<string>();
  try {
    await engine.open(() => {});
    for (const user of USERS) {
      const desk = await engine.attach(user as UserId, { deliver: () => {}, ended: () => {}, lost: () => {} });
      const { entries } = await desk.read({ after: 0, limit: 1_000_000, maxBytes: 1_000_000_000, session: "s" as SessionId });
      for (const { id } of entries) present.add(id);
    }
    const { accepted, ...rest } = await engine.totals();
    const sum = Object.values(rest).reduce((total, n) => total + n, 0);
    if (sum !== accepted) return { lost: 0, back: 0, unreadable: `${accepted} accepted, ${sum} accounted for` };
  } catch (thrown) {
    return { lost: 0, back: 0, unreadable: String(thrown) };
  } finally {
    await engine.close();
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
