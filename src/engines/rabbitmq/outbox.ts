/**
 * What waits to be published to the journal, and what waits for its confirm. All that came while earlier records are under way shares the next one.
 * @module
 */
import type { Addressed, Appended } from "../../engine.ts";
import { asHandoverError, type HandoverError } from "../../errors.ts";
import { unavailable } from "./failure.ts";
import { type Gone, RECORD_BYTES, sizeOf, weightOf, writeRecord } from "./record.ts";

export interface OutboxOptions {
  readonly answerWithinMs: number;
  readonly publish: (body: Buffer) => Promise<void>;
  readonly isUp: () => boolean;
  /** Stores a call in the index, after its record was confirmed; called in the order of the calls. */
  readonly store: (items: readonly Addressed[]) => Promise<readonly Appended[]>;
  /** A record of this weight was confirmed. */
  readonly written: (weight: number) => void;
}

/** Records under way at once. More would make them smaller: the broker's work is per record. */
const MAX_UNDER_WAY = 3;

interface Call {
  readonly n: number;
  readonly items: readonly Addressed[];
  readonly resolve: (results: readonly Appended[]) => void;
  readonly reject: (cause: HandoverError) => void;
  timer: NodeJS.Timeout | undefined;
  /** The journal has it: now the index decides what becomes of it. */
  isConfirmed: boolean;
  /** Its caller has been told that it was not stored. */
  isOver: boolean;
}

class Group {
  bytes = 0;
  calls: Call[] = [];
  gone: Gone[] = [];
  void: number[] = [];
  /** Told when what is gone and void here is confirmed. */
  waiters: (() => void)[] = [];
  isConfirmed = false;

  get isEmpty(): boolean {
    return this.calls.length === 0 && !this.hasWords;
  }

  get hasWords(): boolean {
    return this.gone.length > 0 || this.void.length > 0;
  }
}

export class Outbox {
  readonly #options: OutboxOptions;
  readonly #waiting: Group[] = [];
  readonly #underWay: Group[] = [];
  readonly #unanswered = new Set<Call>();
  #isFlushPlanned = false;
  #isClosed = false;
  #whenIdle: (() => void) | undefined;
  #lastN = 0;
  #done = 0;
  #accepted = 0;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  /** All calls up to this number have their outcome. */
  get done(): number {
    return this.#done;
  }

  get lastN(): number {
    return this.#lastN;
  }

  /** Deliveries that the index is known to have accepted. */
  get accepted(): number {
    return this.#accepted;
  }

  begin(n: number, accepted: number): void {
    this.#lastN = n;
    this.#done = n;
    this.#accepted = accepted;
  }

  /** Publishes a call, then stores it. @throws HandoverError store-unavailable, and what the index throws */
  append(items: readonly Addressed[]): Promise<readonly Appended[]> {
    return new Promise((resolve, reject) => {
      this.#lastN += 1;
      const call: Call = { n: this.#lastN, items, resolve, reject, timer: undefined, isConfirmed: false, isOver: false };
      call.timer = setTimeout(() => this.#abandon(call, "RabbitMQ did not confirm in time."), this.#options.answerWithinMs);
      this.#unanswered.add(call);
      const bytes = sizeOf(items);
      const group = this.#groupFor(bytes);
      group.calls.push(call);
      group.bytes += bytes;
      this.#plan();
    });
  }

  /** Tells the journal that messages need no keeping any more. */
  tellGone(gone: readonly Gone[]): void {
    if (gone.length === 0) return;
    const group = this.#groupFor(gone.length * 60);
    group.gone.push(...gone);
    group.bytes += gone.length * 60;
    this.#plan();
  }

  /** Waits until all that was told up to now is confirmed. @returns false when that took too long */
  async confirmed(): Promise<boolean> {
    const last = [...this.#underWay, ...this.#waiting].findLast((group) => group.hasWords);
    if (!last) return true;
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), this.#options.answerWithinMs);
      last.waiters.push(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }

  /** Refuses the calls that wait: there is no journal now. What it is to be told stays. */
  refuse(why: string): void {
    for (const call of [...this.#unanswered]) if (!call.isConfirmed) this.#abandon(call, why);
  }

  /** Goes on with what waits. */
  flush(): void {
    while (this.#underWay.length < MAX_UNDER_WAY && this.#options.isUp()) {
      const group = this.#waiting.shift();
      if (!group) break;
      // Those who were refused while it waited have not been published.
      group.calls = group.calls.filter(({ isOver }) => !isOver);
      if (group.isEmpty) continue;
      this.#underWay.push(group);
      const calls = group.calls.map(({ n, items }) => ({ n, items }));
      const record = { done: this.#done, accepted: this.#accepted, calls, gone: group.gone, void: group.void };
      this.#options.publish(writeRecord(record)).then(
        () => {
          group.isConfirmed = true;
          this.#settleConfirmed();
          this.#options.written(weightOf(record));
          this.flush();
        },
        (thrown: unknown) => this.#failed(group, asHandoverError(thrown)),
      );
    }
    this.#tellIdle();
  }

  /** Lets what was asked for come to its end. @returns whether the journal has all of it */
  async close(): Promise<boolean> {
    this.#isClosed = true;
    this.flush();
    if (!this.#isIdle()) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, this.#options.answerWithinMs);
        this.#whenIdle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.refuse("The store is closed.");
    return this.#underWay.length === 0 && this.#waiting.every((group) => group.isEmpty);
  }

  #groupFor(bytes: number): Group {
    const last = this.#waiting.at(-1);
    if (last && (last.isEmpty || last.bytes + bytes <= RECORD_BYTES)) return last;
    const group = new Group();
    this.#waiting.push(group);
    return group;
  }

  #plan(): void {
    if (this.#isFlushPlanned) return;
    this.#isFlushPlanned = true;
    setImmediate(() => {
      this.#isFlushPlanned = false;
      this.flush();
    });
  }

  /** In the order of publishing, which is that of the journal. */
  #settleConfirmed(): void {
    for (let group = this.#underWay[0]; group?.isConfirmed; group = this.#underWay[0]) {
      this.#underWay.shift();
      for (const wake of group.waiters) wake();
      for (const call of group.calls) this.#store(call);
    }
  }

  #store(call: Call): void {
    if (call.isOver) {
      this.#tellVoid(call.n);
      return;
    }
    // From here on the index decides; it has a deadline of its own.
    call.isConfirmed = true;
    clearTimeout(call.timer);
    this.#options.store(call.items).then(
      (results) => this.#stored(call, results),
      (thrown: unknown) => {
        this.#done = Math.max(this.#done, call.n);
        this.#tellVoid(call.n);
        this.#answerWhenConfirmed(call, () => call.reject(asHandoverError(thrown)));
      },
    );
  }

  #stored(call: Call, results: readonly Appended[]): void {
    this.#done = Math.max(this.#done, call.n);
    const isStored = results.every(({ outcome }) => outcome === "stored" || outcome === "repeated");
    if (!isStored) this.#tellVoid(call.n);
    else {
      const gone: Gone[] = [];
      for (const [place, result] of results.entries()) {
        const id = call.items[place]?.id ?? "";
        if (result.outcome === "stored") this.#accepted += result.accepted.recipients.length;
        if (result.outcome === "repeated") gone.push([id]);
        else if (result.outcome === "stored") for (const user of result.accepted.refused ?? []) gone.push([id, user]);
      }
      if (gone.length === 0) {
        this.#answer(call, () => call.resolve(results));
        return;
      }
      this.tellGone(gone);
    }
    this.#answerWhenConfirmed(call, () => call.resolve(results));
  }

  /** What is in the journal and not in a mailbox must be known there before somebody is told so; else a rebuild would deliver it. */
  #answerWhenConfirmed(call: Call, answer: () => void): void {
    this.confirmed()
      .then(() => this.#answer(call, answer))
      .catch(() => {});
  }

  #answer(call: Call, answer: () => void): void {
    clearTimeout(call.timer);
    this.#unanswered.delete(call);
    if (!call.isOver) answer();
    call.isOver = true;
    this.#tellIdle();
  }

  #abandon(call: Call, why: string): void {
    this.#answer(call, () => call.reject(unavailable(`${why} The message counts as not stored; send it again.`)));
  }

  #tellVoid(n: number): void {
    const group = this.#groupFor(20);
    group.void.push(n);
    group.bytes += 20;
    this.#plan();
  }

  /** Nobody knows whether the journal has it: calls are declared void, words are said again. */
  #failed(group: Group, cause: HandoverError): void {
    this.#underWay.splice(this.#underWay.indexOf(group), 1);
    const again = new Group();
    again.gone = group.gone;
    again.void = [...group.void, ...group.calls.map(({ n }) => n)];
    again.waiters = group.waiters;
    this.#waiting.unshift(again);
    for (const call of group.calls) this.#abandon(call, cause.message);
    this.#settleConfirmed();
    // Not at once: a broker that says no to everything must not be asked in a circle.
    setTimeout(() => this.flush(), 200).unref();
  }

  #isIdle(): boolean {
    return this.#unanswered.size === 0 && this.#underWay.length === 0 && this.#waiting.every((group) => group.isEmpty);
  }

  #tellIdle(): void {
    if (this.#isClosed && this.#isIdle()) this.#whenIdle?.();
  }
}
