/**
 * What has come from the server, and which tabs it waits for: one of the user's tabs leads and has the connection, its own handlers are those of
 * one tab among others. What becomes of a message:
 *
 * - every tab that has it says that it is processed, or has gone, and one had processed it: it is acknowledged;
 * - one says that its handler failed: it comes again, and the tabs that had processed it pass it over;
 * - no tab wants it, or those that did have gone: it is held; the tabs that come get it, until one has processed it;
 * - it comes again meanwhile: what the tabs say settles the newest entry.
 * @module
 */
import type { AckForms } from "../protocol.ts";
import type { Acks } from "./acks.ts";
import { isRecord, isSeq, listOf } from "./json.ts";
import { forgetOldest } from "./seen.ts";
import type { Mail, Position } from "./wire.ts";

/** A message on its way to the tabs, under its number in the mailbox. */
export interface Parcel {
  readonly delivery: { readonly seq: number; readonly event: unknown; readonly deliveryCount: unknown };
  readonly key: string;
  /** When a tab of this user had processed it, ms since the Unix epoch: tabs that were opened later pass it over. */
  readonly processedAtMs: number | undefined;
}

/** Where messages go: to all tabs of this user, or to one. */
export interface Outlet {
  /** @param run  the run of numbers: those of another run mean other entries */
  give(run: string, parcels: readonly Parcel[], tab?: string): void;
  settled(seqs: readonly number[], tab?: string): void;
}

/** Messages whose processing is remembered. */
export const MAX_SEEN = 10_000;
/** Messages that wait for a handler; beyond, the oldest is forgotten here and stays in the mailbox for the next page. */
const MAX_HELD = 1_000;

interface Entry extends Omit<Parcel, "delivery" | "processedAtMs"> {
  delivery: Parcel["delivery"];
  /** Tabs that have it and have not said what became of it. */
  readonly waiting: Set<string>;
  /** Tabs that do not want it. */
  readonly holding: Set<string>;
  isProcessed: boolean;
  /** In how many seconds it is to come again: its handler failed somewhere. */
  retryAfter: number | undefined;
}

export class Intake implements Mail {
  readonly acks: Acks;
  readonly #window: number;
  readonly #outlet: Outlet;
  readonly #tabs = new Set<string>();
  /** Tabs that have too much in hand to be waited for. */
  readonly #late = new Set<string>();
  /** By key: for these, tabs are waited for. */
  readonly #pending = new Map<string, Entry>();
  readonly #held = new Map<string, Entry>();
  /** The newest numbers of both. */
  readonly #bySeq = new Map<number, Entry>();
  readonly #processed = new Map<string, number>();
  #epoch: string | undefined;
  #cursor = 0;
  #runs = 0;
  #run = "";
  #roomWaiters: (() => void)[] = [];

  constructor(window: number, acks: Acks, outlet: Outlet) {
    this.#window = window;
    this.#outlet = outlet;
    this.acks = acks;
  }

  /** Begins anew, as a new receiver, with one tab. */
  restart(tab: string): void {
    this.#tabs.clear();
    this.#late.clear();
    this.#tabs.add(tab);
    this.#restart(tab, undefined);
  }

  /** What was processed before, by earlier pages too, and when. */
  remember(marks: Iterable<readonly [string, number]>): void {
    for (const [key, atMs] of marks) this.#processedAt(key, atMs);
  }

  /** A tab that has come gets what nobody has processed yet. @returns whether it was not here */
  join(tab: string): boolean {
    if (this.#tabs.has(tab) || this.#late.has(tab)) return false;
    this.#tabs.add(tab);
    const open = [...this.#held.values(), ...this.#pending.values()].filter((entry) => !entry.isProcessed);
    for (const entry of open) {
      entry.waiting.add(tab);
      this.#held.delete(entry.key);
      this.#pending.set(entry.key, entry);
    }
    if (open[0]) {
      const parcels = open.map(({ delivery, key }) => ({ delivery, key, processedAtMs: undefined }));
      this.#outlet.give(this.#run, parcels, tab);
    }
    return true;
  }

  /** A tab that has gone is waited for no longer. */
  leave(tab: string): void {
    this.#tabs.delete(tab);
    this.#late.delete(tab);
    for (const entry of [...this.#pending.values()]) if (entry.waiting.delete(tab)) this.#decide(entry);
  }

  /** What became of messages in a tab. */
  say(tab: string, run: string, { seqs = [], hold = [], nack = [] }: AckForms): void {
    if (this.#late.delete(tab)) this.#tabs.add(tab);
    if (run !== this.#run) return;
    for (const seq of seqs) {
      this.#said(tab, seq, (entry) => {
        entry.isProcessed = true;
        this.#processedAt(entry.key, Date.now());
      });
    }
    for (const seq of hold) this.#said(tab, seq, (entry) => entry.holding.add(tab));
    for (const { seq, retryAfter = 0 } of nack) {
      this.#said(tab, seq, (entry) => {
        entry.retryAfter = Math.max(entry.retryAfter ?? 0, retryAfter);
      });
    }
  }

  position(): Position {
    return { epoch: this.#epoch, cursor: this.#cursor, window: this.#window };
  }

  async room(): Promise<number> {
    while (this.#pending.size >= this.#window) await new Promise<void>((resolve) => this.#roomWaiters.push(resolve));
    return this.#window - this.#pending.size;
  }

  begin(epoch: string, head: number): void {
    // Below what we have: a store that was put back. Everything unsettled comes again; repeats are dropped by name.
    if (epoch !== this.#epoch || head < this.#cursor) this.#restart(this.#run, epoch);
  }

  deliver(deliveries: unknown): void {
    const parcels: Parcel[] = [];
    for (const delivery of listOf(deliveries)) {
      if (!isRecord(delivery) || !isSeq(delivery.seq)) continue;
      this.advance(delivery.seq);
      if (isRecord(delivery.event)) this.#receive(delivery as unknown as Parcel["delivery"], delivery.event, parcels);
    }
    this.#outlet.give(this.#run, parcels);
    if (this.#pending.size >= this.#window) this.#letGo();
  }

  advance(to: unknown): void {
    if (isSeq(to) && to > this.#cursor) this.#cursor = to;
  }

  settled(seqs: unknown): void {
    for (const seq of listOf(seqs) as number[]) {
      const entry = this.#bySeq.get(seq);
      // What is at work goes on.
      if (entry && this.#held.delete(entry.key)) this.#bySeq.delete(seq);
    }
    this.#outlet.settled(listOf(seqs) as number[]);
  }

  #restart(seed: string, epoch: string | undefined): void {
    this.#run = `${seed.split(" ")[0]} ${Date.now()} ${++this.#runs}`;
    this.#epoch = epoch;
    this.#cursor = 0;
    this.acks.begin(epoch);
    // Everything comes again, under other numbers; the tabs know what they have in hand.
    this.#pending.clear();
    this.#held.clear();
    this.#bySeq.clear();
    this.#makeRoom();
  }

  #processedAt(key: string, atMs: number): void {
    if (!this.#processed.has(key)) this.#processed.set(key, atMs);
    forgetOldest(this.#processed, MAX_SEEN);
  }

  #receive(delivery: Parcel["delivery"], { source, id }: Record<string, unknown>, parcels: Parcel[]): void {
    const key = `${source} ${id}`;
    const { seq } = delivery;
    const known = this.#pending.get(key) ?? this.#held.get(key);
    const entry = known ?? { key, delivery, waiting: new Set(this.#tabs), holding: new Set(), isProcessed: false, retryAfter: undefined };
    this.#bySeq.delete(entry.delivery.seq);
    entry.delivery = delivery;
    this.#bySeq.set(seq, entry);
    if (this.#held.has(key)) this.acks.add(seq, "held");
    else this.#pending.set(key, entry);
    parcels.push({ delivery, key, processedAtMs: this.#processed.get(key) });
  }

  #said(tab: string, seq: number, note: (entry: Entry) => void): void {
    const entry = this.#bySeq.get(seq);
    if (!entry) return;
    entry.waiting.delete(tab);
    entry.holding.delete(tab);
    note(entry);
    this.#decide(entry);
  }

  #decide(entry: Entry): void {
    const { key, waiting, isProcessed, retryAfter } = entry;
    const { seq } = entry.delivery;
    if (waiting.size > 0) return;
    this.#pending.delete(key);
    this.#held.delete(key);
    if (isProcessed || retryAfter !== undefined) this.#bySeq.delete(seq);
    else {
      this.#held.set(key, entry);
      forgetOldest(this.#held, MAX_HELD);
    }
    this.acks.add(seq, retryAfter !== undefined ? { retryAfter } : isProcessed ? "acked" : "held");
    // Another tab has read it.
    if (isProcessed) for (const tab of entry.holding) this.#outlet.settled([seq], tab);
    this.#makeRoom();
  }

  /** A tab that has a whole window of messages in hand, while another has not, stops only itself: it is not waited for until it says something. */
  #letGo(): void {
    const counts = [...this.#tabs].map((tab) => [tab, [...this.#pending.values()].filter(({ waiting }) => waiting.has(tab)).length] as const);
    const isLate = ([, count]: (typeof counts)[number]) => count >= this.#window;
    if (counts.every(isLate)) return;
    for (const [tab] of counts.filter(isLate)) {
      this.leave(tab);
      this.#late.add(tab);
    }
  }

  #makeRoom(): void {
    for (const wake of this.#roomWaiters.splice(0)) wake();
  }
}
