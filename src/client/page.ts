/**
 * What a browser page has beyond a connection: a store that outlives it, and other tabs of the same user. Loaded when a page connects; what it
 * needs of the rest it is given.
 * @module
 */
import { defer } from "./deferred.ts";
import type { Inbox } from "./inbox.ts";
import type { Outbox } from "./outbox.ts";
import { Store } from "./store.ts";
import { type Host, Tabs } from "./tabs.ts";
import type { Sender, Status, Turns } from "./wire.ts";

/** How long a new leader waits for what is kept. */
const RECALL_MS = 500;

/** What this page is given. */
export interface Ground extends Host {
  readonly base: string;
  /** Whether tabs share a connection, where they can. */
  readonly shares: boolean;
  readonly inbox: Inbox;
  readonly outbox: Outbox;
  readonly turns: Turns | undefined;
}

export class Page {
  readonly #ground: Ground;
  readonly #prefix: string;
  #user: string | undefined;
  #store: Store | undefined;
  #tabs: Tabs | undefined;
  /** Sends of others that this page has taken over. */
  readonly #adopted = new Set<IDBValidKey>();
  #turn = defer<void>();

  constructor(ground: Ground) {
    this.#ground = ground;
    this.#prefix = `handover ${ground.base} `;
  }

  /** Resolves when this page is to have a connection of its own. @param group  of this user's tabs, those that share */
  async enter(user: string, group: string): Promise<void> {
    if (user !== this.#user) await this.#become(user, group);
    await this.#tabs?.enter();
    if (this.#tabs) await this.#turn.promise;
  }

  tell(status: Status, sender: Sender | undefined): void {
    this.#tabs?.tell(status, sender);
  }

  /** @returns whether there may be others who go on, so that this page needs no connection until it is back */
  leave(isFrozen: boolean): boolean {
    this.#tabs?.leave(isFrozen);
    return this.#tabs !== undefined;
  }

  /** This page is one user's from now on. Nothing of another one's is left. */
  async #become(user: string, group: string): Promise<void> {
    const { inbox, intake, outbox, id, shares } = this.#ground;
    if (this.#user !== undefined) {
      this.#tabs?.leave();
      inbox.forget();
      outbox.forget();
    }
    const name = this.#prefix + user;
    let store: Store | undefined;
    try {
      store = await Store.open(name);
      await this.#removeOthers(name);
    } catch (error) {
      if (!store)
        console.warn("Handover: this browser keeps nothing. After a reload, messages may be shown again, and sends that waited are lost.", error);
    }
    this.#store?.close();
    this.#store = store;
    this.#user = user;
    inbox.mark = (key) => store?.mark(key);
    outbox.keepIn(store, id);
    await this.#recall();
    if (shares && navigator.locks && globalThis.BroadcastChannel) {
      this.#tabs = new Tabs(`${name} ${group}`, {
        host: this.#ground,
        gone: (tab) => void this.#adopt((each) => each === tab),
        leads: (isLeading) => void this.#leads(isLeading),
      });
      this.#ground.company = this.#tabs;
    } else {
      intake.restart(id);
      void this.#adopt(() => true);
    }
  }

  async #leads(isLeading: boolean): Promise<void> {
    if (!isLeading) {
      this.#turn = defer();
      this.#ground.turns?.over();
      return;
    }
    const turn = this.#turn;
    console.log('DBG leads', performance.now());
    await this.#recall();
    console.log('DBG recalled', performance.now());
    turn.resolve();
    // Each when its tab has gone, if it has not.
    void this.#adopt((tab) => void this.#tabs?.watch(tab));
  }

  /** What was processed by others since; nothing stops for a store that does not answer. */
  async #recall(): Promise<void> {
    const recalled = this.#store?.seen().catch(() => []);
    void recalled?.then((keys) => this.#ground.intake.remember(keys));
    await Promise.race([recalled, new Promise((resolve) => setTimeout(resolve, RECALL_MS))]);
  }

  async #adopt(isOrphan: (tab: string) => unknown): Promise<void> {
    const { id, outbox } = this.#ground;
    const tabs = new Map<string, unknown>();
    for (const [key, kept] of (await this.#store?.kept().catch(() => [])) ?? []) {
      const { tab } = kept;
      if (tab === id || this.#adopted.has(key)) continue;
      if (!tabs.has(tab)) tabs.set(tab, isOrphan(tab));
      if (!tabs.get(tab)) continue;
      this.#adopted.add(key);
      outbox.adopt(key, kept);
    }
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
