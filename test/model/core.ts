/**
 * The real core as the model test has it: a hub on an engine, in this process, with a clock that only the test moves. It knows when everything
 * that was asked has had its effect.
 * @module
 */
import { cpSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { vi } from "vitest";
import type { Engine, Totals } from "../../src/engine.ts";
import { memoryEngine } from "../../src/engines/memory.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import { Hub } from "../../src/hub.ts";
import { CAP, MAX_ATTEMPTS } from "./reference.ts";

export type EngineName = "memory" | "sqlite";
type Swept = Engine & { sweep(): Promise<void> };

/** A disk that syncs at once, where there is one: what a sync is worth is not the question here. */
const FOLDERS = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

/** The engine of many sequences: each has users of its own. */
export class Store {
  readonly name: EngineName;
  #dir = newFolder();
  readonly #asked = new Set<Promise<unknown>>();
  readonly #attached = new Set<() => Promise<void>>();
  engine: Swept;

  private constructor(name: EngineName) {
    this.name = name;
    this.engine = this.#make();
  }

  static async open(name: EngineName): Promise<Store> {
    const store = new Store(name);
    await store.engine.open(fail);
    return store;
  }

  async close(): Promise<void> {
    await this.engine.close();
    rmSync(this.#dir, { recursive: true });
  }

  /** Whether what it stored is there after it was opened again. */
  get isDurable(): boolean {
    return this.engine.supports.durable !== "no";
  }

  /** Whatever a hub had attached; it is about to be gone. */
  async detachAll(): Promise<void> {
    for (const detach of this.#attached) await detach();
    this.#attached.clear();
  }

  /** The process ends in order, and another one begins. */
  async reopen(): Promise<void> {
    await this.detachAll();
    await this.engine.close();
    this.engine = this.#make();
    await this.engine.open(fail);
  }

  /**
   * The process is killed, and another one begins with what was written until then: with a copy of the folder as it is under the open store, which is
   * not told. Nothing that the killed one had planned happens any more.
   */
  async kill(): Promise<void> {
    const nowMs = Date.now();
    // It sets the clock back, too.
    vi.clearAllTimers();
    vi.setSystemTime(nowMs);
    const dir = this.#dir;
    this.#dir = newFolder();
    cpSync(dir, this.#dir, { recursive: true });
    this.#attached.clear();
    await this.engine.close();
    rmSync(dir, { recursive: true });
    this.engine = this.#make();
    await this.engine.open(fail);
  }

  hub(): Hub {
    return new Hub({
      engine: this.engine,
      authenticate: () => Promise.reject(new Error("nobody asks")),
      maxMessageBytes: 10_000,
      maxTtlSeconds: 7 * 24 * 3600,
      maxReceiversPerUser: 20,
      isKnown: () => true,
    });
  }

  totals(): Promise<Totals> {
    return this.engine.totals();
  }

  /** Resolves when nothing that was asked of the engine is under way, and whoever waited for it has gone on. */
  async idle(): Promise<void> {
    for (let quietTurns = 0; quietTurns < 3; quietTurns++) {
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#asked.size === 0) continue;
      await Promise.allSettled(this.#asked);
      quietTurns = -1;
    }
  }

  #make(): Swept {
    const options = { mailboxMaxMessages: CAP, maxAttempts: MAX_ATTEMPTS };
    const durable = { ...options, dir: this.#dir, reserveBytes: 65_536, commitTimeoutMs: 600_000 };
    return this.#watched(this.name === "memory" ? memoryEngine(options) : sqliteEngine(durable));
  }

  #track<T>(asked: Promise<T>): Promise<T> {
    this.#asked.add(asked);
    const done = () => this.#asked.delete(asked);
    asked.then(done, done);
    return asked;
  }

  #watched(engine: Swept): Swept {
    return {
      name: engine.name,
      supports: engine.supports,
      open: (failed) => engine.open(failed),
      append: (batch) => this.#track(engine.append(batch)),
      appendEach: (batch) => this.#track(engine.appendEach(batch)),
      attach: (user, events) => this.#track(this.#attach(engine, user, events)),
      find: (id) => this.#track(engine.find(id)),
      evict: (id) => this.#track(engine.evict(id)),
      admitSession: (session, user, untilMs) => this.#track(engine.admitSession(session, user, untilMs)),
      usersOfSession: (session, limit) => this.#track(engine.usersOfSession(session, limit)),
      endSession: (session) => this.#track(engine.endSession(session)),
      totals: () => engine.totals(),
      sweep: () => this.#track(engine.sweep()),
      close: () => engine.close(),
    };
  }

  async #attach(engine: Engine, ...[user, events]: Parameters<Engine["attach"]>): ReturnType<Engine["attach"]> {
    const attachment = await engine.attach(user, events);
    this.#attached.add(() => attachment.detach());
    return {
      epoch: attachment.epoch,
      head: attachment.head,
      read: (request) => this.#track(attachment.read(request)),
      settle: (changes, session) => this.#track(attachment.settle(changes, session)),
      held: (receiver, session) => this.#track(attachment.held(receiver, session)),
      detach: () => this.#track(attachment.detach()),
    };
  }
}

function newFolder(): string {
  return mkdtempSync(join(FOLDERS, "handover-model-"));
}

function fail(cause: Error): never {
  throw cause;
}
