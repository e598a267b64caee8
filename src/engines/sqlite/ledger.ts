import type { Totals } from "../../engine.ts";
import { ENDINGS } from "./call.ts";
import { checksumOfMailbox } from "./checksum.ts";
import type { FreshBook } from "./fresh.ts";
import type { Outcome } from "./outcome.ts";
import { Damaged } from "./schema.ts";
import type { MailboxRow, Statements } from "./statement.ts";

/** Mailboxes kept in memory between batches. */
const MAX_CACHED = 20_000;

const TOTALS = ["accepted", "unsettled", ...ENDINGS] as const;
/** Places in the totals; that of an ending is `FIRST_ENDING` plus the ending's own. */
export const [ACCEPTED, UNSETTLED, FIRST_ENDING] = [0, 1, 2] as const;

/** What was so when a savepoint was set. */
interface Mark {
  readonly before: Map<MailboxRow, Pick<MailboxRow, "head" | "count" | "bytes" | "forgotten" | "holds">>;
  readonly made: MailboxRow[];
  readonly totals: number[];
}

/**
 * The mailboxes' heads, counts and bytes, and the totals: kept in memory while a batch runs, and written once per commit. In memory they count fresh
 * mail, in the tables they do not.
 */
export class Ledger {
  readonly #run: Statements;
  readonly #fresh: FreshBook;
  readonly #outcome: Outcome;
  readonly #byUser = new Map<string, MailboxRow>();
  readonly #byId = new Map<number, MailboxRow>();
  readonly #changed = new Set<MailboxRow>();
  #marks: Mark[] = [];
  #totals: number[] = TOTALS.map(() => 0);

  constructor(run: Statements, fresh: FreshBook, outcome: Outcome) {
    this.#run = run;
    this.#fresh = fresh;
    this.#outcome = outcome;
  }

  mailboxOf(user: string): MailboxRow | undefined {
    const cached = this.#byUser.get(user);
    if (cached) return cached;
    const box = this.#run.mailboxOf.get(user);
    return box && this.#load(box);
  }

  mailbox(id: number): MailboxRow {
    const cached = this.#byId.get(id);
    if (cached) return cached;
    const box = this.#run.mailbox.get(id);
    if (!box) throw new Damaged(`a delivery belongs to mailbox ${id}, which is not there`);
    return this.#load(box);
  }

  makeMailbox(user: string): MailboxRow {
    const id = Number(this.#run.makeMailbox.run(user).lastInsertRowid);
    const box = this.#cache({ id, user, head: 0, count: 0, bytes: 0, forgotten: 0, holds: 0, checksum: 0 });
    this.#marks.at(-1)?.made.push(box);
    return box;
  }

  /** To be called before a mailbox is changed. */
  touch(box: MailboxRow): MailboxRow {
    this.#outcome.wrote = true;
    this.#changed.add(box);
    return this.touchFresh(box);
  }

  /** To be called before fresh mail changes a mailbox: nothing of that is written. */
  touchFresh(box: MailboxRow): MailboxRow {
    const mark = this.#marks.at(-1);
    if (mark && !mark.before.has(box)) {
      const { head, count, bytes, forgotten, holds } = box;
      mark.before.set(box, { head, count, bytes, forgotten, holds });
    }
    return box;
  }

  count(place: number, n: number): void {
    this.#totals[place] = (this.#totals[place] ?? 0) + n;
  }

  totals(): Totals {
    const stored = new Map(this.#run.totals.all().map((row) => [row.name, row.n]));
    const fresh: Partial<Totals> = this.#fresh.totals;
    return Object.fromEntries(
      TOTALS.map((name, place) => [name, (stored.get(name) ?? 0) + (this.#totals[place] ?? 0) + (fresh[name] ?? 0)]),
    ) as Totals;
  }

  /** Writes what has changed, for the commit that follows. */
  write(): void {
    for (const box of this.#changed) {
      const fresh = this.#fresh.shelf(box.id);
      const row = { ...box, count: box.count - fresh.count, bytes: box.bytes - fresh.bytes };
      this.#run.keepMailbox.run(row.head, row.count, row.bytes, row.forgotten, row.holds, checksumOfMailbox(row), row.id);
    }
    for (const [place, n] of this.#totals.entries()) if (n !== 0) this.#run.addTotal.run(n, TOTALS[place]);
  }

  /** What was written is committed. */
  committed(): void {
    this.#changed.clear();
    this.#totals.fill(0);
    this.#marks = [];
    if (this.#byUser.size > MAX_CACHED) this.#forget();
  }

  /** The transaction was rolled back: what is on the disk holds. */
  rolledBack(): void {
    this.#changed.clear();
    this.#totals.fill(0);
    this.#marks = [];
    this.#forget();
  }

  /** With each savepoint. */
  mark(): void {
    this.#marks.push({ before: new Map(), made: [], totals: [...this.#totals] });
  }

  release(): void {
    const mark = this.#marks.pop();
    const outer = this.#marks.at(-1);
    if (!mark || !outer) return;
    for (const [box, before] of mark.before) if (!outer.before.has(box)) outer.before.set(box, before);
    outer.made.push(...mark.made);
  }

  back(): void {
    const mark = this.#marks.pop();
    if (!mark) return;
    for (const [box, before] of mark.before) Object.assign(box, before);
    for (const box of mark.made) {
      this.#byUser.delete(box.user);
      this.#byId.delete(box.id);
      this.#changed.delete(box);
    }
    this.#totals = mark.totals;
  }

  #forget(): void {
    this.#byUser.clear();
    this.#byId.clear();
  }

  #load(row: MailboxRow): MailboxRow {
    const box = checked(row);
    const fresh = this.#fresh.shelf(box.id);
    box.head = Math.max(box.head, fresh.head);
    box.count += fresh.count;
    box.bytes += fresh.bytes;
    return this.#cache(box);
  }

  #cache(box: MailboxRow): MailboxRow {
    this.#byUser.set(box.user, box);
    this.#byId.set(box.id, box);
    return box;
  }
}

/** A mailbox with a wrong head would give numbers twice, one with a wrong user is somebody else's. */
function checked(box: MailboxRow): MailboxRow {
  if (checksumOfMailbox(box) !== box.checksum) throw new Damaged(`the row of mailbox ${box.id} (${box.user}) is not what was written`);
  return box;
}
