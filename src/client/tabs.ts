/**
 * The tabs of one user in one browser: one leads and has the connection, the others use it. Who leads holds a Web Lock, which passes on when its tab
 * closes or crashes; from one that hangs it is taken. Every tab holds a lock of its own, by which the leader knows that it is there. They talk by
 * BroadcastChannel.
 * @module
 */
import type { AckForms } from "../protocol.ts";
import { type Deferred, defer } from "./deferred.ts";
import type { HandoverError } from "./error.ts";
import type { Intake, Outlet, Parcel } from "./intake.ts";
import type { Sent } from "./message.ts";
import type { Sender, Status } from "./wire.ts";

/** How often a tab looks whether its leader lives, and how many times in vain before it takes its place: under a second. */
const LOOK_MS = 120;
const PATIENCE = 4;
const MAX_PATIENCE = 64;

/** What tabs say. `to`: for one of them. A tab's `join` is answered by `lead`: that is how it finds its leader, and sees that it lives. */
type Word = { readonly from?: string; readonly to?: string | undefined } & (
  | { readonly op: "lead"; readonly status: Status }
  | { readonly op: "join" | "leave" }
  | { readonly op: "give"; readonly run: string; readonly parcels: readonly Parcel[] }
  | { readonly op: "settled"; readonly seqs: readonly number[] }
  | { readonly op: "say"; readonly run: string; readonly forms: AckForms }
  | { readonly op: "send"; readonly ref: number; readonly text: string }
  | { readonly op: "sent"; readonly ref: number; readonly sent?: Sent; readonly error?: Fields }
);

/** An error on its way: instances lose their fields, and a cause may not be able to go. */
type Fields = Pick<HandoverError, "code" | "detail" | "status" | "retryable" | "retryAfterMs">;

/** What is asked of a leader that has gone is asked of the next one. */
const LOST: Fields = { code: "connection-lost", detail: "Another tab leads.", status: 0, retryable: true, retryAfterMs: undefined };

/** What of this page the tabs use. */
export interface Host extends Outlet {
  /** This tab's name. */
  readonly id: string;
  readonly intake: Intake;
  /** How the leader's connection is, and what to send by. */
  followed(status: Status, sender: Sender | undefined): void;
  /** Another tab asks whether anybody is there: a good moment for what a throttled timer has not done yet. */
  asked(): void;
  /** This tab leads from now on, or no longer. */
  leads(isLeading: boolean): void;
  /** A tab has gone: what it left behind is the leader's to send. */
  gone(tab: string): void;
}

export class Tabs implements Outlet {
  readonly id: string;
  readonly #name: string;
  readonly #host: Host;
  #channel: BroadcastChannel | undefined;
  /** Who leads, as far as we know. */
  #leader: string | undefined;
  #isLeading = false;
  /** How the connection of this tab is, while it leads. */
  #status: Status = { state: "connecting" };
  /** What to send by: the connection, or the leader. */
  #sender: Sender | undefined;
  /** Gives up every lock and every wait of this stay; aborted: this tab is not there. */
  #stay = new AbortController();
  /** Gives up waiting in the line for the lead. */
  #line = new AbortController();
  #release: () => void = () => {};
  #looks: ReturnType<typeof setInterval> | undefined;
  #misses = 0;
  #patience = PATIENCE;
  readonly #answers = new Map<number, Deferred<Sent>>();
  #lastRef = 0;

  /** @param name  the same for those who share: server, user and session */
  constructor(name: string, host: Host) {
    this.#name = name;
    this.#host = host;
    this.id = host.id;
    this.#stay.abort();
  }

  /** Comes to the others. */
  async enter(): Promise<void> {
    if (!this.#stay.signal.aborted) return;
    this.#stay = new AbortController();
    const { signal } = this.#stay;
    if (!this.#channel) {
      this.#channel = new BroadcastChannel(this.#name);
      this.#channel.onmessage = ({ data }: MessageEvent<Word & { from: string }>) => {
        if (data.to === undefined || data.to === this.id) this.#hear(data);
      };
    }
    await hold(this.#lockOf(this.id), signal);
    if (signal.aborted) return;
    this.#await();
    this.#say({ op: "join" });
    this.#looks = setInterval(() => this.#look(), LOOK_MS);
  }

  /**
   * Goes: another tab leads, and nobody waits for this one.
   * @param isFrozen  what the others are given meanwhile waits for it, and is handled when it is thawed
   */
  leave(isFrozen = false): void {
    this.#say({ op: "leave" });
    this.#stay.abort();
    this.#line.abort();
    clearInterval(this.#looks);
    this.#lose();
    if (isFrozen) return;
    this.#channel?.close();
    this.#channel = undefined;
    this.#follow(undefined);
  }

  /** The leader says how its connection is. */
  tell(status: Status, sender: Sender | undefined): void {
    if (!this.#isLeading) return;
    this.#sender = sender;
    this.#status = status;
    this.#announce();
  }

  /** What became of messages in this tab. */
  say(run: string, forms: AckForms): void {
    if (this.#isLeading) this.#host.intake.say(this.id, run, forms);
    else this.#say({ op: "say", to: this.#leader, run, forms });
  }

  give(run: string, parcels: readonly Parcel[], to?: string): void {
    if (to !== this.id) this.#say({ op: "give", to, run, parcels });
    if (to === undefined || to === this.id) this.#host.give(run, parcels);
  }

  settled(seqs: readonly number[], to?: string): void {
    if (to !== this.id) this.#say({ op: "settled", to, seqs });
    if (to === undefined || to === this.id) this.#host.settled(seqs);
  }

  /** Waits until a tab has gone. */
  watch(tab: string): void {
    if (tab === this.id) return;
    const { signal } = this.#stay;
    navigator.locks.request(this.#lockOf(tab), { signal }, () => this.#isLeading && this.#gone(tab)).catch(() => {});
  }

  #lockOf(tab: string): string {
    return `${this.#name} ${tab}`;
  }

  #say(word: Word): void {
    this.#channel?.postMessage({ ...word, from: this.id });
  }

  #hear(word: Word & { from: string }): void {
    const { from, op } = word;
    const { intake } = this.#host;
    if (this.#isLeading) {
      if (op === "join") {
        this.#welcome(from);
        this.#announce();
        this.#host.asked();
      } else if (op === "leave") this.#gone(from);
      else if (op === "say") intake.say(from, word.run, word.forms);
      else if (op === "send") this.#sendFor(from, word.ref, word.text);
      // It has taken our place, or waits for a lock that we are about to give up.
      else if (op === "lead") this.#lose();
    }
    if (!this.#isLeading && op === "lead") this.#follow(from, word.status);
    if (from !== this.#leader) return;
    this.#misses = 0;
    this.#patience = Math.max(PATIENCE, this.#patience * 0.999);
    if (op === "give") this.#host.give(word.run, word.parcels);
    else if (op === "settled") this.#host.settled(word.seqs);
    else if (op === "leave") this.#follow(undefined);
    else if (op === "sent") {
      const answer = this.#answers.get(word.ref);
      this.#answers.delete(word.ref);
      if (word.sent) answer?.resolve(word.sent);
      else answer?.reject(word.error);
    }
  }

  // ------------------------------------------------------------------------------------------------------ as one who follows

  /** Stands in the line for the lead. */
  #await(): void {
    this.#line = new AbortController();
    this.#request({ signal: this.#line.signal });
  }

  #request(options: LockOptions): void {
    const { signal } = this.#stay;
    const held = navigator.locks.request(this.#name, options, () => !signal.aborted && this.#lead());
    held
      // Taken from us: AbortError.
      .catch(() => {})
      .then(() => {
        if (signal.aborted || options.signal?.aborted) return;
        this.#lose();
        this.#await();
        this.#say({ op: "join" });
      });
  }

  #follow(leader: string | undefined, status?: Status): void {
    if (leader !== this.#leader) {
      for (const answer of this.#answers.values()) answer.reject(LOST);
      this.#answers.clear();
      this.#leader = leader;
      this.#sender = { send: (text) => this.#send(text) };
      this.#host.followed({ state: "connecting" }, undefined);
      if (leader !== undefined) this.#say({ op: "join" });
    }
    if (status) this.#host.followed(status, status.state === "online" ? this.#sender : undefined);
  }

  #send(text: string): Promise<Sent> {
    const answer = defer<Sent>();
    const ref = ++this.#lastRef;
    this.#answers.set(ref, answer);
    this.#say({ op: "send", to: this.#leader, ref, text });
    return answer.promise;
  }

  /** A leader that hangs holds its lock for ever. A hidden tab's timer is slow, which makes this one slow too, and nothing else. */
  #look(): void {
    if (this.#isLeading) return;
    this.#misses += 1;
    if (this.#misses > 1) this.#say({ op: "join" });
    if (this.#misses <= this.#patience) return;
    this.#misses = 0;
    // Where it was a loaded machine and no hanging tab, it is not taken away again so soon.
    this.#patience = Math.min(this.#patience * 2, MAX_PATIENCE);
    this.#line.abort();
    this.#request({ steal: true });
  }

  // --------------------------------------------------------------------------------------------------------- as one who leads

  /** @returns a promise that holds the lock */
  async #lead(): Promise<void> {
    const hung = this.#leader;
    const prefix = this.#lockOf("");
    this.#follow(undefined);
    this.#isLeading = true;
    this.#status = { state: "connecting" };
    const held = new Promise<void>((resolve) => {
      this.#release = resolve;
    });
    this.#host.intake.restart(this.id);
    this.#announce();
    const { held: locks = [] } = await navigator.locks.query();
    for (const { name = "" } of locks) {
      const tab = name.slice(prefix.length);
      // Who hangs is not waited for; it comes back when it can.
      if (this.#isLeading && name.startsWith(prefix) && tab !== hung) this.#welcome(tab);
    }
    if (this.#isLeading) this.#host.leads(true);
    await held;
  }

  /** Leads no longer, if it did. */
  #lose(): void {
    if (!this.#isLeading) return;
    this.#isLeading = false;
    this.#sender = undefined;
    this.#release();
    this.#host.leads(false);
  }

  #announce(): void {
    const { error, ...status } = this.#status;
    this.#say({ op: "lead", status: error ? { ...status, error: fieldsOf(error) as HandoverError } : status });
  }

  #welcome(tab: string): void {
    if (this.#host.intake.join(tab)) this.watch(tab);
  }

  #gone(tab: string): void {
    this.#host.intake.leave(tab);
    this.#host.gone(tab);
  }

  #sendFor(to: string, ref: number, text: string): void {
    const sending = this.#sender?.send(text) ?? Promise.reject(LOST);
    sending.then(
      (sent) => this.#say({ op: "sent", to, ref, sent }),
      (error: Fields) => this.#say({ op: "sent", to, ref, error: fieldsOf(error) }),
    );
  }
}

function fieldsOf({ code, detail, status, retryable, retryAfterMs }: Fields): Fields {
  return { code, detail, status, retryable, retryAfterMs };
}

/** Takes a lock that nobody else asks for yet, until the signal. Resolves when it is held. */
async function hold(name: string, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const ended = new Promise<void>((end) => signal.addEventListener("abort", () => end()));
    navigator.locks
      .request(name, { signal }, () => {
        resolve();
        return ended;
      })
      .catch(() => resolve());
  });
}
