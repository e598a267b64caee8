import { deepEqual, equal, ok } from "node:assert/strict";
import type { Ending, Engine } from "../engine.ts";
import type { SessionId, UserId } from "../protocol.ts";
import { type Bench, BOB, EVE, HOUR_MS, ids, OTHER_TAB, outcomes, type Rule, TAB } from "./engine-bench.ts";

const DAY_MS = 24 * HOUR_MS;
const mine = { recipients: [{ user: BOB, session: TAB }] };
const hers = { recipients: [{ user: EVE, session: TAB }] };
const other = { recipients: [{ user: BOB, session: OTHER_TAB }] };

const usersOf = (engine: Engine, session: SessionId) => engine.usersOfSession(session, 100);

/** What has ended one way, and what waits. */
async function counts(bench: Bench, ending: Ending): Promise<readonly [ended: number, unsettled: number]> {
  const totals = await bench.engine.totals();
  equal(totals.accepted, totals.unsettled + totals.acked + totals.expired + totals.replaced + totals.evicted + totals.dead);
  return [totals[ending], totals.unsettled];
}

/** Rules about sessions: E60 to E67. */
export const SESSION_RULES: readonly Rule[] = [
  {
    title: "[E60] a session that was made known is its user's; two users with a session of the same name have two",
    run: async (bench) => {
      const { engine } = bench;
      deepEqual(await usersOf(engine, TAB), []);
      const untilMs = bench.now() + HOUR_MS;
      equal(await engine.admitSession(TAB, EVE, untilMs), true);
      equal(await engine.admitSession(TAB, BOB, untilMs), true);
      equal(await engine.admitSession(TAB, BOB, untilMs - HOUR_MS / 2), true);
      equal(await engine.admitSession(OTHER_TAB, BOB, untilMs), true);
      deepEqual(await usersOf(engine, TAB), [BOB, EVE]);
      deepEqual(await usersOf(engine, OTHER_TAB), [BOB]);
      deepEqual(await engine.usersOfSession(TAB, 1), [BOB]);
      // Each one's mail is in their own mailbox.
      const [toBob, toEve] = [await bench.stored(mine), await bench.stored(hers)];
      deepEqual([ids(await bench.mail(BOB, TAB)), ids(await bench.mail(EVE, TAB))], [[toBob.id], [toEve.id]]);
    },
  },
  {
    title: "[E61] a session is known as long as was said, also after the store was opened again, and then no more",
    needs: ["durable", "advance"],
    run: async (bench) => {
      await bench.engine.admitSession(TAB, BOB, bench.now() + HOUR_MS);
      await bench.engine.admitSession(TAB, EVE, bench.now() + HOUR_MS);
      await bench.engine.admitSession(TAB, EVE, bench.now() + 3 * HOUR_MS);
      await bench.engine.admitSession(TAB, EVE, bench.now() + HOUR_MS);
      await bench.reopen();
      deepEqual(await usersOf(bench.engine, TAB), [BOB, EVE]);
      await bench.absent(2 * HOUR_MS);
      deepEqual(await usersOf(bench.engine, TAB), [EVE]);
      await bench.advance(2 * HOUR_MS);
      deepEqual(await usersOf(bench.engine, TAB), []);
      equal(await bench.engine.admitSession(TAB, BOB, bench.now() + HOUR_MS), true);
      deepEqual(await usersOf(bench.engine, TAB), [BOB]);
    },
  },
  {
    title: "[E62] an ended session is not let in again, whoever had it, seen before or not; others go on",
    run: async (bench) => {
      const { engine } = bench;
      const untilMs = bench.now() + HOUR_MS;
      for (const user of [EVE, BOB]) await engine.admitSession(TAB, user, untilMs);
      await engine.admitSession(OTHER_TAB, BOB, untilMs);
      deepEqual(await engine.endSession(TAB), { users: [BOB, EVE], evicted: [] });
      deepEqual(await engine.endSession("never-seen" as SessionId), { users: [], evicted: [] });
      for (const user of [BOB, EVE, "zoe" as UserId]) {
        equal(await engine.admitSession(TAB, user, untilMs + HOUR_MS), false);
        equal(await engine.admitSession("never-seen" as SessionId, user, untilMs), false);
        equal(await engine.admitSession(OTHER_TAB, user, untilMs), true);
      }
      deepEqual(await usersOf(engine, "never-seen" as SessionId), []);
      // Ending it again does no harm.
      deepEqual((await engine.endSession(TAB)).evicted, []);
      equal(await engine.admitSession(TAB, BOB, untilMs), false);
    },
  },
  {
    title: "[E63] an ended session stays ended when the store is opened again",
    needs: ["durable"],
    run: async (bench) => {
      await bench.engine.admitSession(TAB, BOB, bench.now() + HOUR_MS);
      const message = await bench.stored(mine);
      await bench.engine.endSession(TAB);
      await bench.reopen();
      equal(await bench.engine.admitSession(TAB, BOB, bench.now() + HOUR_MS), false);
      deepEqual(await bench.mail(BOB, TAB), []);
      deepEqual(await counts(bench, "evicted"), [1, 0]);
      if (bench.supports.state) equal((await bench.engine.find(message.id))?.recipients[0]?.state, "evicted");
    },
  },
  {
    title:
      "[E64] with a session everything unsettled ends as `evicted` that is addressed to it, in every mailbox, delayed mail too, and nothing else",
    limits: { mailboxMaxMessages: 5 },
    run: async (bench) => {
      const { engine } = bench;
      const [waiting, delayed, settled] = await bench.many(3, mine);
      const everybody = await bench.stored();
      const others = await bench.stored(other);
      const toEve = await bench.stored(hers);
      const [bob, eve] = [await bench.attach(), await bench.attach(EVE)];
      await bob.settle({ kind: "acked", seqs: [3] }, { kind: "nacked", seq: 2, retryAfterMs: HOUR_MS });
      const { evicted } = await engine.endSession(TAB);
      const named = evicted.map(({ id, user }) => `${user} ${id}`).sort();
      deepEqual(named, [`bob ${waiting?.id}`, `bob ${delayed?.id}`, `eve ${toEve.id}`].sort());
      const told = await bob.told(2);
      deepEqual(
        told.map(({ ending }) => ending),
        ["evicted", "evicted"],
      );
      deepEqual([...bob.endedIds].sort(), ids([waiting, delayed].flatMap((each) => each ?? [])).toSorted());
      // The delayed one is told under a number that nobody was handed.
      deepEqual(told.map(({ seq }) => seq).sort(), [1, 6]);
      deepEqual(await eve.told(1), [{ seq: 1, ending: "evicted" }]);
      deepEqual(ids((await bob.read()).entries), [everybody.id]);
      deepEqual(ids((await bob.read({ session: OTHER_TAB })).entries), [everybody.id, others.id]);
      deepEqual(
        (await bob.read()).gaps.map(({ reason }) => reason),
        ["evicted", "evicted"],
      );
      deepEqual(await bob.settle({ kind: "acked-upto", upto: 100, except: [] }), [{ seq: 4, ending: "acked" }]);
      deepEqual(await counts(bench, "evicted"), [3, 1]);
      if (bench.supports.state) equal((await engine.find(settled?.id ?? waiting?.id ?? everybody.id))?.recipients[0]?.state, "acked");
      // And there is room again.
      await bench.many(4);
    },
  },
  {
    title:
      "[E65] a message to an ended session is refused as `session-ended`, and nothing of its call is stored; a repeat of an accepted one gets its answer",
    run: async (bench) => {
      const { engine } = bench;
      const idempotency = { key: "k", hash: "h" };
      await engine.admitSession(TAB, BOB, bench.now() + HOUR_MS);
      const first = bench.message({ ...mine, idempotency });
      const [accepted] = await engine.append([first]);
      await engine.endSession(TAB);
      deepEqual(outcomes(await engine.append([bench.message(), bench.message(mine)])), ["not-stored", "session-ended"]);
      deepEqual(outcomes(await engine.append([bench.message({ recipients: [{ user: EVE }, { user: BOB, session: TAB }] })])), ["session-ended"]);
      deepEqual(outcomes(await engine.append([bench.message({ ...mine, ttlMs: 0 })])), ["session-ended"]);
      deepEqual([await bench.mail(BOB, TAB), await bench.mail(EVE, TAB)], [[], []]);
      ok(accepted?.outcome === "stored");
      deepEqual(await engine.append([bench.message({ ...mine, idempotency })]), [{ outcome: "repeated", accepted: accepted.accepted }]);
      equal((await engine.totals()).accepted, 1);
    },
  },
  {
    title: "[E66] sends that race with the end of a session leave nothing for it behind: each is refused or ends as `evicted`",
    run: async (bench) => {
      const { engine } = bench;
      const send = () => engine.append([bench.message(mine)]);
      const before = Array.from({ length: 30 }, send);
      const ending = engine.endSession(TAB);
      const after = Array.from({ length: 30 }, send);
      const [{ evicted }, again] = await Promise.all([ending, engine.endSession(TAB)]);
      const results = (await Promise.all([...before, ...after])).flat();
      const stored = results.filter(({ outcome }) => outcome === "stored").length;
      equal(results.filter(({ outcome }) => outcome === "session-ended").length, 60 - stored);
      deepEqual([evicted.length, again.evicted], [stored, []]);
      deepEqual(await counts(bench, "evicted"), [stored, 0]);
      deepEqual(await bench.mail(BOB, TAB), []);
    },
  },
  {
    title: "[E67] that a session has ended is remembered for 366 days, longer if it was known for longer, and then forgotten",
    needs: ["advance"],
    run: async (bench) => {
      await bench.engine.admitSession(OTHER_TAB, BOB, bench.now() + 400 * DAY_MS);
      for (const session of [TAB, OTHER_TAB]) await bench.engine.endSession(session);
      const isIn = (session: SessionId) => bench.engine.admitSession(session, BOB, bench.now() + HOUR_MS);
      await bench.advance(365 * DAY_MS + 23 * HOUR_MS);
      deepEqual([await isIn(TAB), await isIn(OTHER_TAB)], [false, false]);
      await bench.advance(2 * DAY_MS);
      deepEqual([await isIn(TAB), await isIn(OTHER_TAB)], [true, false]);
      await bench.advance(33 * DAY_MS);
      equal(await isIn(OTHER_TAB), true);
      await bench.stored(other);
      equal((await bench.mail(BOB, OTHER_TAB)).length, 1);
    },
  },
];
