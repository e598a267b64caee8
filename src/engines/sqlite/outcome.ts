import type { EndedRow, EntryRow, Happening } from "./call.ts";

/** How much had happened when a savepoint was set. */
interface Mark {
  readonly happenings: number;
  readonly log: number;
  readonly said: number;
}

/** What a batch does besides giving results: what is to be told, to be logged, and to be looked at again. And the time at which it does so. */
export class Outcome {
  nowMs = 0;
  /** Place in the batch of the operation that is carried out. */
  op = 0;
  happenings: Happening[] = [];
  log: string[] = [];
  /** The earliest due time among what this batch wrote, or after a sweep of all. */
  dueMs: number | null = null;
  /** Whether this batch changed anything. */
  wrote = false;
  /** Damaged messages that were found since the store was opened. */
  damages = 0;
  /** Whose mailboxes somebody has open. */
  readonly attached = new Set<string>();
  #marks: Mark[] = [];
  #damagesBefore = 0;
  /** What {@link sayDamagedOnce} was told, in this order. */
  #said: number[] = [];
  #saidBefore = 0;

  begin(nowMs: number): void {
    this.nowMs = nowMs;
    this.#damagesBefore = this.damages;
    this.#saidBefore = this.#said.length;
    this.#forget();
  }

  rolledBack(): void {
    this.damages = this.#damagesBefore;
    this.#said.length = this.#saidBefore;
    this.#forget();
  }

  /** Savepoints that are set. */
  get depth(): number {
    return this.#marks.length;
  }

  mark(): void {
    this.#marks.push({ happenings: this.happenings.length, log: this.log.length, said: this.#said.length });
  }

  release(): void {
    this.#marks.pop();
  }

  back(): void {
    const mark = this.#marks.pop();
    if (!mark) return;
    this.happenings.length = mark.happenings;
    this.log.length = mark.log;
    this.#said.length = mark.said;
  }

  noteDue(ms: number): void {
    if (this.dueMs === null || ms < this.dueMs) this.dueMs = ms;
  }

  /** A mailbox that nobody has open is told nothing: what ends there by the thousand costs the other thread nothing. */
  tellEnded(user: string, ended: EndedRow): void {
    if (this.attached.has(user)) this.happenings.push([this.op, "ended", user, ended]);
  }

  /** As {@link tellEnded}, of what comes again. */
  tellAgain(user: string, entry: EntryRow): void {
    if (this.attached.has(user)) this.happenings.push([this.op, "again", user, entry]);
  }

  sayDamaged(line: string): void {
    this.damages += 1;
    this.log.push(`${line} Check the disk; \`handover doctor\` looks at all of the store.`);
  }

  /** As {@link sayDamaged}, of what many may ask for. @param place  by which it is known again */
  sayDamagedOnce(place: number, line: string): void {
    if (this.#said.includes(place)) return;
    this.#said.push(place);
    this.sayDamaged(line);
  }

  #forget(): void {
    this.#marks = [];
    this.happenings = [];
    this.log = [];
    this.dueMs = null;
    this.wrote = false;
  }
}
