/**
 * What has come from the server, and which tabs it waits for: one of the user's tabs leads and has the connection, its own handlers are those of
 * one tab among others. Without other tabs it is the only one. What becomes of a message:
 *
 * - every tab that has it says `acked`, or has gone, and one had processed it: it is acknowledged;
 * - one says `failed`: it comes again after 1 s, 2 s, 4 s … at most 60 s; the tabs that had processed it pass it over;
 * - no tab wants it, or those that did have gone: it is held; the tabs that come get it, until one has processed it;
 * - it comes again meanwhile: what the tabs say settles the newest entry.
 * @module
 */
import { Acks, type Settlement } from "./acks.ts";
import { isRecord, isSeq, listOf } from "./json.ts";
import type { Report } from "./listeners.ts";
import { keyOf, type Message, readMessage, type Settled } from "./message.ts";
import { MAX_SEEN, Seen } from "./seen.ts";
import type { Mail, Position } from "./wire.ts";

/** What a tab says of a message: processed; not wanted; its handler failed; wanted after all. */
export type Verdict = "acked" | "held" | "failed" | "taken";

/** A message on its way to the tabs. */
export interface Parcel {
  readonly message: Message;
  /** A tab of this user has processed it: only tabs where it failed go on. */
  readonly isRepeat: boolean;
}

/** Where messages go: to all tabs of this user, or to one. */
export interface Outlet {
  give(parcels: readonly Parcel[], tab?: string): void;
  settled(messages: readonly Settled[]): void;
}

/** The tabs of this user, as one of them sees them. */
export interface Company extends Outlet {
  /** What became of a message in this tab. */
  say(key: string, verdict: Verdict): void;
}

/** Messages that wait for a handler; beyond, the oldest is forgotten here and stays in the mailbox for the next page. */
const MAX_HELD = 1_000;
/** Entries for which a `settled` is understood. */
const MAX_KNOWN = 1_000;
const MAX_RETRY_SECONDS = 60;

interface Entry {
  message: Message;
  /** Its newest place in the current epoch; undefined: none yet. */
  seq: number | undefined;
  /** Tabs that have it and have not said what became of it. */
  readonly waiting: Set<string>;
  isProcessed: boolean;
  hasFailed: boolean;
}

export class Intake implements Mail {
  readonly acks: Acks;
  readonly #window: number;
  readonly #outlet: Outlet;
  readonly #tabs = new Set<string>();
  /** Tabs that have too much in hand to be waited for. */
  readonly #late = new Set<string>();
  /** Tabs wait for nothing else. */
  readonly #pending = new Map<string, Entry>();
  readonly #held = new Map<string, Entry>();
  readonly #known = new Map<number, Settled>();
  readonly #processed = new Seen(MAX_SEEN);
  #epoch: string | undefined;
  #cursor = 0;
  #roomWaiters: (() => void)[] = [];
  #isClosed = false;

  constructor(window: number, report: Report, outlet: Outlet) {
    this.#window = window;
    this.#outlet = outlet;
    this.acks = new Acks(report);
  }

  /** Begins anew, as a new receiver, with one tab. */
  restart(tab: string): void {
    this.#pending.clear();
    this.#held.clear();
    this.#tabs.clear();
    this.#late.clear();
    this.#tabs.add(tab);
    this.#restart(undefined);
  }

  /** What was processed before, by earlier pages too. */
  remember(keys: Iterable<string>): void {
    for (const key of keys) this.#processed.add(key);
  }

  /** A tab that has come gets what nobody has processed yet. @returns whether it was not here */
  join(tab: string): boolean {
    if (this.#tabs.has(tab) || this.#late.has(tab)) return false;
    this.#tabs.add(tab);
    const open = [...this.#held, ...this.#pending].filter(([, entry]) => !entry.isProcessed);
    for (const [key, entry] of open) this.#wait(key, entry, tab);
    if (open[0])
      this.#outlet.give(
        open.map(([, { message }]) => ({ message, isRepeat: false })),
        tab,
      );
    return true;
  }

  /** A tab that has gone is waited for no longer. */
  leave(tab: string): void {
    this.#tabs.delete(tab);
    this.#late.delete(tab);
    for (const [key, entry] of [...this.#pending]) if (entry.waiting.delete(tab)) this.#decide(key, entry);
  }

  /** What became of a message in a tab. */
  say(tab: string, key: string, verdict: Verdict): void {
    if (this.#late.delete(tab)) this.#tabs.add(tab);
    if (verdict === "acked") this.#processed.add(key);
    const entry = this.#pending.get(key) ?? this.#held.get(key);
    if (!entry) return;
    if (verdict === "taken") {
      this.#wait(key, entry, tab);
      return;
    }
    entry.waiting.delete(tab);
    if (verdict === "acked") entry.isProcessed = true;
    if (verdict === "failed") entry.hasFailed = true;
    this.#decide(key, entry);
  }

  /** Takes nothing more. */
  close(): void {
    this.#isClosed = true;
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
    if (epoch !== this.#epoch || head < this.#cursor) this.#restart(epoch);
  }

  deliver(deliveries: unknown): void {
    if (this.#isClosed) return;
    const parcels: Parcel[] = [];
    for (const delivery of listOf(deliveries)) {
      if (!isRecord(delivery) || !isSeq(delivery.seq)) continue;
      this.advance(delivery.seq);
      const message = readMessage(delivery.event, delivery.deliveryCount);
      if (message) this.#receive(delivery.seq, message, parcels);
    }
    this.#outlet.give(parcels);
    if (this.#pending.size >= this.#window) this.#letGo();
  }

  advance(to: unknown): void {
    if (isSeq(to) && to > this.#cursor) this.#cursor = to;
  }

  settled(seqs: unknown): void {
    const over: Settled[] = [];
    for (const seq of listOf(seqs) as number[]) {
      const message = this.#known.get(seq);
      if (!message) continue;
      this.#known.delete(seq);
      this.#held.delete(keyOf(message));
      over.push(message);
    }
    this.#outlet.settled(over);
  }

  #restart(epoch: string | undefined): void {
    this.#epoch = epoch;
    this.#cursor = 0;
    this.acks.begin(epoch);
    this.#known.clear();
    for (const entry of [...this.#pending.values(), ...this.#held.values()]) entry.seq = undefined;
  }

  #receive(seq: number, message: Message, parcels: Parcel[]): void {
    const { source, id, type } = message;
    const key = keyOf(message);
    this.#known.set(seq, { source, id, type });
    forgetOldest(this.#known, MAX_KNOWN);
    const entry = this.#pending.get(key) ?? this.#held.get(key);
    if (entry) {
      entry.seq = seq;
      entry.message = message;
      if (this.#held.has(key)) this.acks.add(seq, "held");
      return;
    }
    this.#pending.set(key, { message, seq, waiting: new Set(this.#tabs), isProcessed: false, hasFailed: false });
    parcels.push({ message, isRepeat: this.#processed.has(key) });
  }

  #wait(key: string, entry: Entry, tab: string): void {
    entry.waiting.add(tab);
    this.#held.delete(key);
    this.#pending.set(key, entry);
  }

  #decide(key: string, entry: Entry): void {
    const { message, seq, waiting } = entry;
    if (waiting.size > 0) return;
    this.#pending.delete(key);
    let settlement: Settlement = "acked";
    if (entry.hasFailed) settlement = { retryAfter: Math.min(2 ** (message.deliveryCount - 1), MAX_RETRY_SECONDS) };
    else if (!entry.isProcessed) {
      settlement = "held";
      this.#held.set(key, entry);
      forgetOldest(this.#held, MAX_HELD);
    } else this.#held.delete(key);
    // Without an entry in this epoch there is nothing to settle yet: the repeat will bring one.
    if (seq !== undefined) this.acks.add(seq, settlement);
    for (const wake of this.#roomWaiters.splice(0)) wake();
  }

  /** A tab that has a whole window of messages in hand, while another has not, stops only itself: it is not waited for until it says something. */
  #letGo(): void {
    const counts = [...this.#tabs].map((tab) => [tab, [...this.#pending.values()].filter(({ waiting }) => waiting.has(tab)).length] as const);
    const isLate = ([, count]: (typeof counts)[number]) => count >= this.#window;
    if (counts.every(isLate)) return;
    for (const [late] of counts.filter(isLate)) {
      this.leave(late);
      this.#late.add(late);
    }
  }
}

function forgetOldest<K>(map: Map<K, unknown>, limit: number): void {
  if (map.size > limit) for (const oldest of map.keys()) return void map.delete(oldest);
}
