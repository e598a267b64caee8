/**
 * What the rules of the engine suite work with: an engine under test, with words for what they do again and again.
 * @module
 */
import { deepEqual, fail } from "node:assert/strict";
import type { Addressed, Appended, Attachment, Ended, Engine, EngineSupports, Entry, Settlement } from "../engine.ts";
import type { HandoverError } from "../errors.ts";
import type { MessageId, Seq, SessionId, UserId } from "../protocol.ts";

/** The limits that a rule asks for; those left out are the engine's own. */
export interface EngineLimits {
  readonly mailboxMaxMessages?: number;
  readonly mailboxMaxBytes?: number;
  readonly maxAttempts?: number;
}

/** A fresh store, open. */
export interface EngineUnderTest {
  readonly engine: Engine;
  /** The clock that the engine goes by, ms since the Unix epoch; the system's unless given. */
  readonly now?: () => number;
  /** Closes the engine and opens the same store in a new one. Only where `supports.durable` is not `no`. */
  reopen?(): Promise<Engine>;
  /** Moves the engine's clock on, then does what has become due. Without it, the rules about hours are left out. */
  advance?(ms: number): Promise<void>;
  /** Moves the engine's clock on while the store is closed, and opens it again. Only with `reopen` and `advance`. */
  reopenAfter?(ms: number): Promise<Engine>;
  /** Closes the engine and removes the store. */
  dispose(): Promise<void>;
}

/** One numbered rule of SPEC.md and its proof. */
export interface Rule {
  readonly title: string;
  readonly limits?: EngineLimits;
  /** What the rule needs of an engine beyond the promises. */
  readonly needs?: readonly ("durable" | "topic" | "takeBack" | "state" | "advance")[];
  readonly run: (bench: Bench) => Promise<void>;
}

export const HOUR_MS = 3600_000;
export const BOB = "bob" as UserId;
export const EVE = "eve" as UserId;
export const TAB = "tab-1" as SessionId;
export const OTHER_TAB = "tab-2" as SessionId;

/** How long a rule waits for something that has no event of its own. */
const PATIENCE_MS = 15_000;

export class Bench {
  engine: Engine;
  readonly supports: EngineSupports;
  readonly #subject: EngineUnderTest;
  #count = 0;

  constructor(subject: EngineUnderTest) {
    this.#subject = subject;
    this.engine = subject.engine;
    this.supports = subject.engine.supports;
  }

  now(): number {
    return this.#subject.now?.() ?? Date.now();
  }

  /** A message to `bob` that lives an hour, unless said otherwise. */
  message(change: Partial<Addressed> & { readonly to?: readonly UserId[]; readonly ttlMs?: number } = {}): Addressed {
    this.#count += 1;
    const { to = [BOB], ttlMs = HOUR_MS, ...rest } = change;
    const id = (rest.id ?? `m${this.#count}`) as MessageId;
    const acceptedAtMs = this.now();
    const source = rest.source ?? "/users/alice";
    const event = JSON.stringify({ specversion: "1.0", id, source, type: "test", data: { n: this.#count, text: "ä 🙂 \u0000 </script>" } });
    const ttlSeconds = Math.round(ttlMs / 1000);
    return { id, source, event, acceptedAtMs, expiresAtMs: acceptedAtMs + ttlMs, ttlSeconds, recipients: to.map((user) => ({ user })), ...rest };
  }

  /** Appends one message to `bob` and expects it to be stored. */
  async stored(change: Parameters<Bench["message"]>[0] = {}): Promise<Addressed> {
    const message = this.message(change);
    deepEqual(outcomes(await this.engine.append([message])), ["stored"]);
    return message;
  }

  /** Appends `count` messages in one call. */
  async many(count: number, change: Parameters<Bench["message"]>[0] = {}): Promise<readonly Addressed[]> {
    const messages = Array.from({ length: count }, () => this.message(change));
    deepEqual(
      outcomes(await this.engine.append(messages)),
      messages.map(() => "stored"),
    );
    return messages;
  }

  async attach(user: UserId = BOB): Promise<Desk> {
    const desk = new Desk();
    desk.attachment = await this.engine.attach(user, desk);
    return desk;
  }

  /** Reads the mailbox of a user who is not attached. */
  async mail(user: UserId = BOB, session: SessionId = TAB): Promise<readonly Entry[]> {
    const desk = await this.attach(user);
    const { entries } = await desk.read({ session });
    await desk.attachment.detach();
    return entries;
  }

  async reopen(): Promise<void> {
    if (!this.#subject.reopen) throw new Error("an engine whose `supports.durable` is not `no` has to be reopened: give `reopen`");
    this.engine = await this.#subject.reopen();
  }

  async advance(ms: number): Promise<void> {
    await this.#subject.advance?.(ms);
  }

  /** Lets time pass while the store is closed, where it can be; else while it is open and nobody is attached. */
  async absent(ms: number): Promise<void> {
    if (this.#subject.reopenAfter) this.engine = await this.#subject.reopenAfter(ms);
    else await this.#subject.advance?.(ms);
  }
}

/** One attachment with what it was told. */
export class Desk {
  attachment: Attachment = undefined as unknown as Attachment;
  readonly entries: Entry[] = [];
  /** Without their ids: the rules know the numbers. */
  readonly endings: Omit<Ended, "id">[] = [];
  /** The messages that the endings named, in the same order. */
  readonly endedIds: MessageId[] = [];
  readonly losses: HandoverError[] = [];

  deliver(entries: readonly Entry[]): void {
    this.entries.push(...entries);
  }

  ended(endings: readonly Ended[]): void {
    this.endedIds.push(...ids(endings));
    this.endings.push(...endings.map(({ seq, ending }) => ({ seq, ending })));
  }

  lost(cause: HandoverError): void {
    this.losses.push(cause);
  }

  read(request: { after?: Seq; limit?: number; maxBytes?: number; session?: SessionId } = {}) {
    return this.attachment.read({ after: 0, limit: 1_000, maxBytes: 10_000_000, session: TAB, ...request });
  }

  async settle(...changes: readonly Settlement[]): Promise<readonly Omit<Ended, "id">[]> {
    return (await this.attachment.settle(changes, TAB)).map(({ seq, ending }) => ({ seq, ending }));
  }

  /** Waits until it was told so many entries. */
  async delivered(count: number): Promise<readonly Entry[]> {
    await until(
      () => this.entries.length >= count,
      () => `${count} entries delivered, not ${this.entries.length}`,
    );
    return this.entries;
  }

  async told(count: number): Promise<readonly Omit<Ended, "id">[]> {
    await until(
      () => this.endings.length >= count,
      () => `${count} endings told, not ${this.endings.length}`,
    );
    return this.endings;
  }
}

/** Waits for a condition, and fails when it does not come true in time. */
export async function until(isTrue: () => boolean | Promise<boolean>, expected: () => string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await isTrue())) {
    if (performance.now() > deadline) fail(`expected ${expected()} within ${PATIENCE_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export function outcomes(results: readonly Appended[]): readonly Appended["outcome"][] {
  return results.map(({ outcome }) => outcome);
}

export function ids(entries: readonly { readonly id: MessageId }[]): readonly MessageId[] {
  return entries.map(({ id }) => id);
}

export function seqs(entries: readonly { readonly seq: Seq }[]): readonly Seq[] {
  return entries.map(({ seq }) => seq);
}
