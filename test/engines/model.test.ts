/**
 * Two engines that share no code that decides anything, SQLite and memory, are asked the same random things at the same moments and must
 * answer the same. A failure prints its seed and the shortest sequence: run it again with HANDOVER_SEED.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Addressed, Attachment, Engine, Recipient, Settlement } from "../../src/engine.ts";
import { type MemoryEngine, memoryEngine } from "../../src/engines/memory.ts";
import { type SqliteEngine, sqliteEngine } from "../../src/engines/sqlite.ts";
import type { MessageId, ReceiverId, SessionId, UserId } from "../../src/protocol.ts";
import { played } from "../support/soak.ts";
import { makeFolder } from "./folder.ts";

const RUNS = Number(process.env.HANDOVER_RUNS ?? 200);
const SEED = Number(process.env.HANDOVER_SEED ?? Date.now() % 2 ** 31);
const HOUR_MS = 3600_000;
const LIMITS = { mailboxMaxMessages: 5, mailboxMaxBytes: 900, maxAttempts: 3 };

const user = fc.constantFrom("a", "b", "c");
const session = fc.constantFrom("s1", "s2");
/** Mostly one of those that a young mailbox has: settlements that hit nothing show little. */
const seq = fc.oneof({ weight: 3, arbitrary: fc.nat({ max: 6 }) }, { weight: 1, arbitrary: fc.nat({ max: 25 }) });
const receiver = fc.constantFrom("r1", "r2").map((name) => name as ReceiverId);
const item = fc.record({
  to: fc.uniqueArray(fc.record({ user, session: fc.option(session, { nil: undefined, freq: 3 }) }), {
    minLength: 1,
    maxLength: 3,
    selector: (each) => each.user,
  }),
  source: fc.constantFrom("/users/x", "/users/y"),
  bytes: fc.constantFrom(60, 60, 60, 300),
  ttlMs: fc.constantFrom(0, 50, HOUR_MS, HOUR_MS, 100 * HOUR_MS),
  topic: fc.option(fc.constantFrom("t1", "t2"), { nil: undefined, freq: 2 }),
  key: fc.option(fc.record({ key: fc.constantFrom("k1", "k2", "k3"), hash: fc.constantFrom("h1", "h1", "h2") }), { nil: undefined, freq: 3 }),
});
const change: fc.Arbitrary<Settlement> = fc.oneof(
  fc.record({ kind: fc.constant("acked" as const), seqs: fc.array(seq, { maxLength: 4 }) }),
  fc.record({ kind: fc.constant("acked-upto" as const), upto: seq, except: fc.array(seq, { maxLength: 2 }) }),
  fc.record({ kind: fc.constant("rejected" as const), seq, reason: fc.constant("no") }),
  fc.record({ kind: fc.constant("held" as const), receiver, seqs: fc.array(seq, { maxLength: 6 }) }),
  fc.record({ kind: fc.constant("released" as const), receiver, above: seq }),
  fc.record({ kind: fc.constant("nacked" as const), seq, retryAfterMs: fc.constantFrom(0, 0, 40, 2 * HOUR_MS) }),
);
const read = fc.record({ after: seq, limit: fc.integer({ min: 1, max: 6 }), maxBytes: fc.constantFrom(1, 200, 10_000), session });
/** What is asked in one moment; its parts may share a commit. */
const ask = fc.oneof(
  { weight: 4, arbitrary: fc.record({ what: fc.constant("append" as const), items: fc.array(item, { minLength: 1, maxLength: 3 }) }) },
  {
    weight: 3,
    arbitrary: fc.record({ what: fc.constant("settle" as const), user, session, changes: fc.array(change, { minLength: 1, maxLength: 3 }) }),
  },
  { weight: 3, arbitrary: fc.record({ what: fc.constant("read" as const), user, request: read }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("held" as const), user, session, receiver }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("evict" as const), nth: fc.nat({ max: 30 }) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("find" as const), nth: fc.nat({ max: 30 }) }) },
  { weight: 2, arbitrary: fc.record({ what: fc.constant("admit" as const), user, session, forMs: fc.constantFrom(0, HOUR_MS, 30 * HOUR_MS) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("users" as const), session, limit: fc.constantFrom(1, 10) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("end" as const), session }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("totals" as const) }) },
);
const step = fc.oneof(
  { weight: 8, arbitrary: fc.record({ what: fc.constant("ask" as const), asks: fc.array(ask, { minLength: 1, maxLength: 4 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({ what: fc.constant("wait" as const), ms: fc.constantFrom(10, 50, HOUR_MS, 3 * HOUR_MS, 26 * HOUR_MS, 200 * HOUR_MS) }),
  },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("detach" as const), user }) },
);
type Ask = typeof ask extends fc.Arbitrary<infer T> ? T : never;
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** One engine with its attachments and all that they were told. */
class Side {
  engine: Engine & { sweep(): Promise<void> };
  readonly #desks = new Map<UserId, Attachment>();
  #told: unknown[] = [];

  constructor(engine: MemoryEngine | SqliteEngine) {
    this.engine = engine;
  }

  async attach(name: UserId): Promise<number> {
    const known = this.#desks.get(name);
    if (known) return known.head;
    const desk = await this.engine.attach(name, {
      deliver: (entries) => this.#told.push(...entries.map((entry) => ["deliver", name, entry])),
      ended: (endings) => this.#told.push(...endings.map((ended) => ["ended", name, ended])),
      lost: (cause) => this.#told.push(["lost", String(cause)]),
    });
    this.#desks.set(name, desk);
    return desk.head;
  }

  async detach(name: UserId): Promise<void> {
    await this.#desks.get(name)?.detach();
    this.#desks.delete(name);
  }

  async detachAll(): Promise<void> {
    for (const name of [...this.#desks.keys()]) await this.detach(name);
  }

  /** What was told since the last look, per user in the order of telling. */
  takeTold(): unknown[] {
    const told = this.#told;
    this.#told = [];
    return told.sort((one, other) => String((one as unknown[])[1]).localeCompare(String((other as unknown[])[1])));
  }

  async ask(ask: Ask, run: string, nowMs: number, messages: readonly Addressed[], batch: readonly Addressed[]): Promise<unknown> {
    switch (ask.what) {
      case "append":
        return this.engine.append(batch);
      case "settle":
        return this.#desks.get(`${run}-${ask.user}` as UserId)?.settle(ask.changes, `${run}-${ask.session}` as SessionId);
      case "read":
        return this.#desks.get(`${run}-${ask.user}` as UserId)?.read({ ...ask.request, session: `${run}-${ask.request.session}` as SessionId });
      case "held":
        return this.#desks.get(`${run}-${ask.user}` as UserId)?.held(ask.receiver, `${run}-${ask.session}` as SessionId);
      case "evict":
        return this.engine.evict(messages[ask.nth]?.id ?? ("none" as MessageId));
      case "find": {
        const state = await this.engine.find(messages[ask.nth]?.id ?? ("none" as MessageId));
        return state && { ...state, recipients: [...state.recipients].sort((one, other) => one.user.localeCompare(other.user)) };
      }
      case "admit":
        return this.engine.admitSession(`${run}-${ask.session}` as SessionId, `${run}-${ask.user}` as UserId, nowMs + ask.forMs);
      case "users":
        return this.engine.usersOfSession(`${run}-${ask.session}` as SessionId, ask.limit);
      case "end":
        return this.engine.endSession(`${run}-${ask.session}` as SessionId);
      case "totals": {
        const totals = await this.engine.totals();
        expect(totals.accepted).toBe(totals.unsettled + totals.acked + totals.expired + totals.replaced + totals.evicted + totals.dead);
        return totals;
      }
    }
  }
}

test(
  `[E57] SQLite and memory agree on whatever is asked (${RUNS} runs, HANDOVER_SEED=${SEED})`,
  async () => {
    console.log(`model: HANDOVER_SEED=${SEED} HANDOVER_RUNS=${RUNS}`);
    const { dir, remove } = makeFolder();
    let nowMs = Date.now();
    const now = () => nowMs;
    const fail = (cause: Error) => {
      throw cause;
    };
    const openSqlite = async () => {
      const engine = sqliteEngine({ dir, ...LIMITS, now, reserveBytes: 65_536 });
      await engine.open(fail);
      return engine;
    };
    const memory = new Side(memoryEngine({ ...LIMITS, now }));
    await memory.engine.open(fail);
    const sqlite = new Side(await openSqlite());
    const sides = [memory, sqlite];
    const both = async <T>(act: (side: Side) => Promise<T>) => Promise.all(sides.map(act));
    const agree = ([one, other]: readonly unknown[]) => expect(other).toEqual(one);
    let runs = 0;

    const play = async (steps: readonly Step[]) => {
      runs += 1;
      const run = `r${runs}`;
      const messages: Addressed[] = [];
      const make = ({ to, source, bytes, ttlMs, topic, key }: typeof item extends fc.Arbitrary<infer T> ? T : never): Addressed => {
        const message: Addressed = {
          id: `${run}-m${messages.length}` as MessageId,
          source: `${run}${source}`,
          event: JSON.stringify("x".repeat(bytes)),
          acceptedAtMs: nowMs,
          expiresAtMs: nowMs + ttlMs,
          ttlSeconds: Math.round(ttlMs / 1000),
          recipients: to.map((each): Recipient => {
            const name = `${run}-${each.user}` as UserId;
            return each.session === undefined ? { user: name } : { user: name, session: `${run}-${each.session}` as SessionId };
          }),
          ...(topic === undefined ? {} : { topic }),
          ...(key === undefined ? {} : { idempotency: key }),
        };
        messages.push(message);
        return message;
      };
      for (const each of steps) {
        if (each.what === "wait") {
          nowMs += each.ms;
          await both((side) => side.engine.sweep());
        } else if (each.what === "detach") await both((side) => side.detach(`${run}-${each.user}` as UserId));
        else {
          for (const one of each.asks) if ("user" in one) agree(await both((side) => side.attach(`${run}-${one.user}` as UserId)));
          const batches = each.asks.map((one) => (one.what === "append" ? one.items.map(make) : []));
          agree(await both((side) => Promise.all(each.asks.map((one, place) => side.ask(one, run, nowMs, messages, batches[place] ?? [])))));
        }
        agree(sides.map((side) => side.takeTold()));
      }
      for (const name of ["a", "b", "c"].map((each) => `${run}-${each}` as UserId)) {
        agree(await both((side) => side.attach(name)));
        await both((side) => side.detach(name));
      }
      agree(await both((side) => side.engine.totals()));
      // What is on the disk is what was said: memory goes on, SQLite is opened anew.
      if (runs % 20 !== 0) return;
      await sqlite.engine.close();
      sqlite.engine = await openSqlite();
      agree(await both((side) => side.engine.totals()));
    };
    try {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), async (steps) => {
          try {
            await play(steps);
          } finally {
            await both((side) => side.detachAll());
            for (const side of sides) side.takeTold();
          }
        }),
        { numRuns: RUNS, seed: SEED, interruptAfterTimeLimit: 100_000 + RUNS * 300, markInterruptAsFailure: true },
      );
      // The sequences are of use only if they reach everything that can happen.
      const { unsettled: _open, ...reached } = await memory.engine.totals();
      played(`${runs} sequences`);
      if (RUNS >= 100) expect(Object.entries(reached).filter(([, n]) => n === 0)).toEqual([]);
    } finally {
      await both((side) => side.engine.close());
      remove();
    }
  },
  120_000 + RUNS * 300,
);
