/**
 * Where a connection is: in a page, with a store that outlives it and other tabs of the same user (page.ts), or alone, as in Node.
 * @module
 */
import { defer } from "./deferred.ts";
import { asHandoverError, lost } from "./error.ts";
import { Inbox } from "./inbox.ts";
import { type Company, Intake } from "./intake.ts";
import type { Report } from "./listeners.ts";
import { loadPage } from "./load.ts";
import { Outbox } from "./outbox.ts";
import type { Ground, Page } from "./page.ts";
import { randomId } from "./random.ts";
import { readClaims, type Token } from "./token.ts";
import type { Sender, Status, Turns } from "./wire.ts";

/** So often the part for pages is asked for. */
const MAX_LOADS = 3;

export class Place implements Ground {
  /** This tab's name. */
  readonly id = randomId();
  readonly base: string;
  /** Whether tabs share a connection, where they can. */
  readonly shares: boolean;
  readonly inbox: Inbox;
  readonly intake: Intake;
  readonly outbox: Outbox;
  turns: Turns | undefined;
  company: Company;
  readonly #token: Token;
  #page: Page | undefined;
  #loads = 0;
  #isAway = false;
  #back = defer<void>();

  constructor(base: string, token: Token, window: number, shares: boolean, report: Report) {
    this.base = base;
    this.shares = shares;
    this.#token = token;
    this.inbox = new Inbox(report);
    this.outbox = new Outbox(report);
    this.intake = new Intake(window, report, {
      give: (parcels, tab) => this.company.give(parcels, tab),
      settled: (messages) => this.company.settled(messages),
    });
    this.intake.restart(this.id);
    this.company = {
      give: (parcels) => this.inbox.take(parcels),
      settled: (messages) => this.inbox.settled(messages),
      say: (key, verdict) => this.intake.say(this.id, key, verdict),
    };
    this.inbox.say = (key, verdict) => this.company.say(key, verdict);
  }

  /** Resolves when this page is to have a connection of its own. @throws HandoverError token-failed, or connection-lost */
  async enter(): Promise<void> {
    if (!globalThis.document) return;
    if (this.#isAway) await this.#back.promise;
    const claims = readClaims(await this.#token.get());
    if (typeof claims.sub === "string") await (await this.#load())?.enter(claims.sub, `${claims.sid} ${claims.scope ?? ""}`);
  }

  /** How the leader's connection is, and what to send by. */
  followed(status: Status, sender: Sender | undefined): void {
    this.outbox.use(sender);
    this.turns?.followed(status.error ? { ...status, error: asHandoverError(status.error) } : status);
  }

  /** How the connection is, for the other tabs. */
  tell(status: Status, sender: Sender | undefined): void {
    this.#page?.tell(status, sender);
  }

  /** The page is left, and may come back. */
  leave(isFrozen = false): void {
    this.outbox.keep();
    this.#isAway = this.#page?.leave(isFrozen) ?? false;
  }

  /** The page is back. */
  back(): void {
    this.#isAway = false;
    this.#back.resolve();
    this.#back = defer();
  }

  async #load(): Promise<Page | undefined> {
    try {
      if (this.#loads < MAX_LOADS) this.#page ??= new (await loadPage(this.base)).Page(this);
    } catch (cause) {
      if (++this.#loads < MAX_LOADS) throw lost("A part of the SDK could not be loaded.", { cause });
      console.warn("Handover: a part of the SDK could not be loaded. Tabs share nothing, and nothing is kept for the next page.", cause);
    }
    return this.#page;
  }
}
