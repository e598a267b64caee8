/**
 * One user of the loss table: the lines and pages of its tabs, and what became of its messages.
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";
import { openRelay, type Relay } from "../../test/support/demo.ts";
import type { Page, Peer, PeerServer } from "./peer.ts";

/** Bytes; more than any heartbeat. Five of these with their envelopes are less than the 4,096 that x0's server can answer. */
export const TEXT = "x".repeat(300);
/** How long a page is waited for, and how long a sender waits for each answer before it sends the next. */
const BACK_MS = 40_000;
const ANSWER_MS = 20_000;

/** What all users of a round share. */
export interface Round {
  readonly peer: Peer;
  readonly server: PeerServer;
  readonly sender: Awaited<ReturnType<Peer["openSender"]>>;
  readonly users: readonly User[];
}

/** A promise that is never fulfilled: the work of a page that is gone. */
const never = () => new Promise<void>(() => {});

export class User {
  readonly name: string;
  /** What the sender was told is accepted. */
  readonly accepted = new Set<number>();
  /** Per tab and message: how often its handler ended. */
  readonly handled = new Map<string, Map<number, number>>();
  /** Messages whose handler began, in any page. */
  readonly started = new Set<number>();
  /** The handler of this one does not end in the page where it begins first. */
  interrupted: number | undefined;
  /** The line is cut in the moment in which the handler of this one ends first. */
  cutsAfter: number | undefined;
  /** Whether nothing got to its page any more, not even what was sent afterwards. */
  isDeaf = false;
  readonly #round: Round;
  readonly #lines = new Map<string, Relay>();
  /** Lines of pages that were left: they stay cut, so that such a page says nothing any more. */
  readonly #oldLines: Relay[] = [];
  readonly #pages = new Map<string, { leave(): unknown }>();
  #probes = 0;

  constructor(name: string, round: Round) {
    this.name = name;
    this.#round = round;
  }

  line(tab = "a"): Relay {
    const line = this.#lines.get(tab);
    if (!line) throw new Error(`no tab ${tab}`);
    return line;
  }

  async open(tab = "a"): Promise<void> {
    const line = this.#lines.get(tab) ?? (await openRelay(this.#round.server.url));
    this.#lines.set(tab, line);
    const counts = this.handled.get(tab) ?? new Map<number, number>();
    this.handled.set(tab, counts);
    let isLeft = false;
    const handle = async (n: number) => {
      // A page that is left runs no more of its script.
      if (isLeft) return never();
      const isFirst = !this.started.has(n);
      this.started.add(n);
      if (isFirst && n === this.interrupted) return never();
      await sleep(1);
      if (isLeft) return never();
      counts.set(n, (counts.get(n) ?? 0) + 1);
      if (isFirst && n === this.cutsAfter) {
        line.cut();
        isLeft = true;
      }
    };
    const page: Page = await this.#round.peer.openPage({ url: line.url, user: this.name, tab, handle, nowMs: this.#round.server.nowMs });
    this.#pages.set(tab, {
      leave() {
        isLeft = true;
        return page.drop();
      },
    });
  }

  /** The page is gone, without a word getting out any more. */
  leave(tab = "a"): void {
    const line = this.#lines.get(tab);
    if (!line) return;
    line.cut();
    void this.#pages.get(tab)?.leave();
    this.#pages.delete(tab);
    this.#lines.delete(tab);
    this.#oldLines.push(line);
  }

  /** The page is left, and loaded anew. */
  async reload(): Promise<void> {
    this.leave();
    await this.open();
  }

  /** Sends one after the other, as soon as the one before was accepted. */
  async send(from: number, to: number): Promise<void> {
    for (let n = from; n <= to; n++) {
      const sent = Promise.resolve(this.#round.sender.send(this.name, { n, text: TEXT })).then(() => this.accepted.add(n));
      await Promise.race([sent, sleep(ANSWER_MS)]).catch(() => {});
    }
  }

  /** Resolves when a message that is not counted gets to the page: it is back. When none does for long, the page is deaf. */
  async isBack(tab = "a"): Promise<void> {
    const first = this.#probes - 1;
    for (const until = Date.now() + BACK_MS; Date.now() < until; ) {
      const sent = this.#round.sender.send(this.name, { n: --this.#probes, text: "" });
      await Promise.race([Promise.resolve(sent).catch(() => {}), sleep(2_000)]);
      for (let tries = 0; tries < 40; tries++) {
        if ([...(this.handled.get(tab)?.keys() ?? [])].some((n) => n <= first)) return;
        await sleep(50);
      }
    }
    this.isDeaf = true;
  }

  /** Messages that a handler worked on to its end, in any tab. */
  get seen(): Set<number> {
    return new Set([...this.handled.values()].flatMap((counts) => [...counts.keys()].filter((n) => n > 0)));
  }

  /** How many of those that were accepted no handler worked on to its end. */
  get lost(): number {
    const { seen } = this;
    return [...this.accepted].filter((n) => !seen.has(n)).length;
  }

  /** How often a handler worked on a message to its end again, in the same tab. */
  get repeated(): number {
    let repeated = 0;
    for (const counts of this.handled.values()) for (const [n, times] of counts) if (n > 0) repeated += times - 1;
    return repeated;
  }

  /** What became of each message, for a look at one run: tab, message, how often it was handled. */
  toString(): string {
    const tabs = [...this.handled].map(
      ([tab, counts]) => `${tab}: ${[...counts].map(([n, times]) => (times === 1 ? n : `${n}×${times}`)).join(" ")}`,
    );
    return `${this.name}, accepted ${[...this.accepted].join(" ")}; handled in ${tabs.join("; ")}${this.isDeaf ? "; deaf" : ""}`;
  }

  async close(): Promise<void> {
    for (const tab of [...this.#pages.keys()]) this.leave(tab);
    await Promise.all([...this.#lines.values(), ...this.#oldLines].map((line) => line.close()));
  }
}
