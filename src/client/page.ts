/**
 * What a browser page has beyond a connection: a store that outlives it, and other tabs of the same user. Loaded when a page connects; what it
 * needs of the rest it is given.
 * @module
 */
import type { AckForms } from "../protocol.ts";
import type { Acks } from "./acks.ts";
import type { Kept } from "./database.ts";
import { defer } from "./deferred.ts";
import type { HandoverError } from "./error.ts";
import { Intake, type Outlet, type Parcel } from "./intake.ts";
import type { Unsent } from "./message.ts";
import type { Item } from "./outbox.ts";
import type { Line, Parts } from "./parts.ts";
import { Store } from "./store.ts";
import { type Host, Tabs } from "./tabs.ts";
import { readClaims } from "./token.ts";
import type { Sender, Status, Wire } from "./wire.ts";

/** Most time between two tries to connect, unless the server says otherwise. */
const LONGEST_PAUSE_MS = 4_000;
/** How long a new leader waits for what is kept. */
const RECALL_MS = 500;
/** The server knows an idempotency key for 24 h: what is older could be stored twice. */
const MAX_AGE_MS = 23 * 3_600_000;

export class Page implements Host {
  readonly id = crypto.getRandomValues(new Uint32Array(4)).join("-");
  readonly intake: Intake;
  readonly acks: Acks;
  readonly #line: Line;
  readonly #parts: Parts;
  readonly #errorType: typeof HandoverError;
  readonly #prefix: string;
  /** What was processed after this is this page's to process, too. */
  readonly #startedMs = Date.now();
  /** What messages that this page has in hand are called, by their numbers. */
  #keys = new Map<number, string>();
  #user: string | undefined;
  #store: Store | undefined;
  #tabs: Tabs | undefined;
  /** The numbers of sends in the store. */
  readonly #kept = new Map<Item, Promise<IDBValidKey | undefined>>();
  /** Sends of others that this page has taken over. */
  readonly #adopted = new Set<string>();
  #turn = defer<void>();
  #away: ReturnType<typeof defer<void>> | undefined;
  #isLeading = false;
  #receiver = "";
  /** When the next try to connect is overdue, by `performance.now()`. */
  #dueMs = 0;
  /** Acknowledgements without an answer. */
  readonly #unanswered = new Set<AckForms>();

  /** @param acks  for what the server is told */
  constructor(line: Line, parts: Parts, acks: Acks, errorType: typeof HandoverError) {
    this.#line = line;
    this.#parts = parts;
    this.#errorType = errorType;
    this.acks = acks;
    this.#prefix = `handover ${parts.base} `;
    const outlet: Outlet = {
      give: (run, parcels, tab) => (this.#tabs ?? this).give(run, parcels, tab),
      settled: (seqs, tab) => (this.#tabs ?? this).settled(seqs, tab),
    };
    this.intake = new Intake(parts.options.window ?? 32, acks, outlet);
    this.intake.restart(this.id);
    // To the handlers of this tab it is the server.
    const wire: Pick<Wire, "maxAcks" | "ack"> = { maxAcks: Number.POSITIVE_INFINITY, ack: async (run, forms) => this.#processed(run, forms) };
    parts.inbox.acks.use(wire as Wire);
    parts.outbox.keeper = { keep: (item) => void this.#keep(item), drop: (item) => this.#drop(item) };
    line.mute.swallowed = this.#note()?.split(" ") ?? [];
    addEventListener("online", () => {
      // What the old network swallowed the new one may let through.
      line.mute.swallowed = [];
      line.nudge();
    });
    for (const name of ["pagehide", "pageshow"]) addEventListener(name, () => this.#lifecycle(name));
    for (const name of ["freeze", "resume", "visibilitychange"]) document.addEventListener(name, () => this.#lifecycle(name));
  }

  /** Whether another tab has the connection, or this page is left. */
  get isElsewhere(): boolean {
    return this.#away !== undefined || (this.#tabs !== undefined && !this.#isLeading);
  }

  /** Resolves when this page is to have a connection of its own. */
  async enter(token: string): Promise<void> {
    await this.#away?.promise;
    const { sub, sid, scope } = readClaims(token);
    // A service's key: it has no mailbox.
    if (typeof sub !== "string") return;
    // A session is one login: those who share hear and may say the same.
    if (sub !== this.#user) await this.#become(sub, `${sid} ${scope ?? ""}`);
    await this.#tabs?.enter();
    while (this.isElsewhere) await this.#turn.promise;
  }

  /** Which wire to use; undefined: none. @param receiver  our name on it */
  use(wire: Wire | undefined, receiver: string): void {
    this.#receiver = receiver;
    this.#unanswered.clear();
    if (!wire) {
      this.acks.use(undefined);
      return;
    }
    const ack = async (epoch: string, forms: AckForms) => {
      this.#unanswered.add(forms);
      await wire.ack(epoch, forms);
      this.#unanswered.delete(forms);
    };
    this.acks.use({ maxAcks: wire.maxAcks, ack } as Wire);
  }

  /** How the connection is, for the other tabs. */
  tell(status: Status, sender: Sender | undefined): void {
    this.#note(this.#line.mute.swallowed.join(" "));
    this.#dueMs = performance.now() + LONGEST_PAUSE_MS;
    this.#tabs?.tell(status, sender);
    if (status.state === "closed") this.#tabs?.leave();
  }

  followed(status: Status, sender: Sender | undefined): void {
    const { error } = status;
    const { outbox } = this.#parts;
    outbox.use(sender && { send: (text) => sender.send(text).catch((thrown) => Promise.reject(this.#revive(thrown))) });
    this.#line.become(error ? { ...status, error: this.#revive(error) } : status);
  }

  asked(): void {
    // A hidden tab's timers are slow, and this one asks because it is not.
    if (performance.now() > this.#dueMs) this.#line.nudge();
  }

  leads(isLeading: boolean): void {
    if (isLeading) void this.#lead();
    else {
      this.#isLeading = false;
      // Who waits looks again, and waits for the next turn.
      this.#turn.resolve();
      this.#turn = defer();
      this.#line.over();
    }
  }

  gone(tab: string): void {
    void this.#adopt((each) => each === tab);
  }

  give(run: string, parcels: readonly Parcel[]): void {
    const { inbox } = this.#parts;
    const isRepeat = ({ processedAtMs = Number.POSITIVE_INFINITY }: Parcel) => processedAtMs < this.#startedMs;
    const repeats = parcels.filter(isRepeat).map(({ delivery }) => delivery.seq);
    const fresh = parcels.filter((parcel) => !isRepeat(parcel));
    for (const { delivery, key } of fresh) this.#keys.set(delivery.seq, key);
    inbox.begin(run, Number.MAX_SAFE_INTEGER);
    inbox.deliver(fresh.map(({ delivery }) => delivery));
    if (repeats[0] !== undefined) this.#say(run, { seqs: repeats });
  }

  settled(seqs: readonly number[]): void {
    this.#parts.inbox.settled(seqs);
  }

  #say(run: string, forms: AckForms): void {
    if (this.#tabs) this.#tabs.say(run, forms);
    else this.intake.say(this.id, run, forms);
  }

  /** The handlers of this tab say what became of messages. */
  #processed(run: string, forms: AckForms): void {
    for (const seq of forms.seqs ?? []) {
      const key = this.#keys.get(seq);
      if (key !== undefined) this.#store?.mark(key);
    }
    for (const seq of [...(forms.seqs ?? []), ...(forms.nack ?? []).map((each) => each.seq)]) this.#keys.delete(seq);
    this.#say(run, forms);
  }

  /** Notes for this tab's later pages which transports something on the way swallows. @returns what is noted */
  #note(text?: string): string | null {
    try {
      if (text !== undefined) sessionStorage.setItem(`handover.mute ${this.#parts.base}`, text);
      return sessionStorage.getItem(`handover.mute ${this.#parts.base}`);
    } catch {
      // In a page that may store nothing.
      return null;
    }
  }

  #lifecycle(name: string): void {
    if (name !== "pagehide" && name !== "freeze" && document.visibilityState !== "hidden") this.#line.nudge();
    if (name === "visibilitychange") return;
    if (name === "pageshow" || name === "resume") {
      this.#away?.resolve();
      this.#away = undefined;
      void this.#tabs?.enter();
      return;
    }
    this.#parts.outbox.keepAll();
    this.#store?.flush();
    void this.#lastWords();
    if (!this.#tabs) return;
    this.#away ??= defer();
    this.#tabs.leave(name === "freeze");
  }

  /** What the server has not heard for sure is said once more, by a request that outlives the page. */
  async #lastWords(): Promise<void> {
    this.#parts.inbox.acks.flush();
    this.acks.flush();
    const { base, token } = this.#parts;
    const { epoch, cursor } = this.intake.position();
    const said = [...this.#unanswered];
    if (!said[0]) return;
    const headers = { authorization: `Bearer ${await token.get()}`, "content-type": "application/json" };
    for (const forms of said) {
      const body = JSON.stringify({ receiver: this.#receiver, epoch, cursor, ...forms });
      fetch(`${base}/v1/ack`, { method: "POST", headers, body, keepalive: true }).catch(() => {});
    }
  }

  #revive(error: Partial<HandoverError>): HandoverError {
    return new this.#errorType(error.code ?? "connection-lost", String(error.detail ?? error), { retryable: true, ...error });
  }

  /** This page is one user's from now on. Nothing of another one's is left. */
  async #become(user: string, group: string): Promise<void> {
    const { warn } = this.#parts;
    this.#tabs?.leave();
    this.#tabs = undefined;
    const before = this.#store;
    const name = this.#prefix + user;
    this.#user = user;
    this.#store = undefined;
    try {
      this.#store = await Store.open(name);
      before?.close();
      await this.#removeOthers(name);
    } catch (error) {
      if (!this.#store) warn(`This browser keeps nothing: after a reload, messages may be shown again, and sends that waited are lost. ${error}`);
    }
    this.intake.restart(this.id);
    this.#parts.outbox.keepAll();
    await this.#recall();
    if (this.#parts.options.share !== false && navigator.locks && globalThis.BroadcastChannel) this.#tabs = new Tabs(`${name} ${group}`, this);
    else void this.#adopt(() => true);
  }

  async #lead(): Promise<void> {
    const turn = this.#turn;
    await this.#recall();
    if (turn !== this.#turn) return;
    this.#isLeading = true;
    turn.resolve();
    // Each when its tab has gone, if it has not.
    void this.#adopt((tab) => void this.#tabs?.watch(tab));
  }

  /** What was processed by others since; nothing stops for a store that does not answer. */
  async #recall(): Promise<void> {
    const recalled = this.#store?.seen().catch(() => []);
    void recalled?.then((marks) => this.intake.remember(marks));
    await Promise.race([recalled, new Promise((resolve) => setTimeout(resolve, RECALL_MS))]);
  }

  async #adopt(isOrphan: (tab: string) => unknown): Promise<void> {
    const tabs = new Map<string, unknown>();
    for (const [key, kept] of (await this.#store?.kept().catch(() => [])) ?? []) {
      const { tab, text } = kept;
      if (tab === this.id || this.#adopted.has(text)) continue;
      if (!tabs.has(tab)) tabs.set(tab, isOrphan(tab));
      if (tabs.get(tab)) void this.#sendAdopted(key, kept);
    }
  }

  /** Sends what an earlier page, or a tab that has gone, has left behind. */
  async #sendAdopted(key: IDBValidKey, { text, atMs }: Kept): Promise<void> {
    const { outbox, options } = this.#parts;
    this.#adopted.add(text);
    try {
      if (atMs < Date.now() - MAX_AGE_MS) throw new this.#errorType("outbox-expired", "It waited for a day.");
      await outbox.send(text, undefined);
    } catch (thrown) {
      const error = thrown as HandoverError;
      // Left for the next page, as it was found.
      if (error.code === "closed" || error.code === "outbox-full" || error.code === "user-changed") return;
      options.onUnsent?.({ message: JSON.parse(text) as Unsent["message"], error });
    }
    this.#store?.drop(key);
  }

  async #keep(item: Item): Promise<void> {
    const { text, onQueued } = item;
    if (!this.#store || this.#kept.has(item) || this.#adopted.has(text)) return;
    const kept = this.#store.keep({ tab: this.id, text, atMs: Date.now() });
    this.#kept.set(item, kept);
    if ((await kept) !== undefined) onQueued?.();
  }

  #drop(item: Item): void {
    const store = this.#store;
    void this.#kept.get(item)?.then((key) => key !== undefined && store?.drop(key));
    this.#kept.delete(item);
  }

  /** What earlier users have left behind here, unless they are there in another tab. */
  async #removeOthers(name: string): Promise<void> {
    const held = (await navigator.locks?.query())?.held ?? [];
    for (const { name: other = "" } of (await indexedDB.databases?.()) ?? []) {
      if (other === name || !other.startsWith(this.#prefix)) continue;
      if (!held.some((lock) => lock.name?.startsWith(`${other} `))) indexedDB.deleteDatabase(other);
    }
  }
}
