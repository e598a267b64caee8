/**
 * Rules of what must not wait for one another: mail that one reader leaves lying, and all other mail of the same user.
 * @module
 */
import assert from "node:assert/strict";
import { dataOf, got, type Person, type Rule, rule, type Scene, seqsOf } from "./scene.ts";
import type { WireReceiver } from "./wire.ts";

const MANY = 1_000;
/** Most messages of one array. */
const ARRAY = 100;
/** For what must come at once. A poll that nothing ends is held for ten seconds, so this is never somebody's next look by chance. */
const AT_ONCE_MS = 5_000;

const named = (name: string, count = MANY) => Array.from({ length: count }, (_, n) => `${name} ${n + 1}`);

async function sendMass(scene: Scene, token: string, to: object, name: string): Promise<void> {
  const messages = named(name).map((data) => ({ to, type: "test", data }));
  for (let start = 0; start < MANY; start += ARRAY) {
    const { status } = await scene.post(token, messages.slice(start, start + ARRAY));
    assert.equal(status, 201);
  }
}

/** Holds all but its first delivery, each time all that is there, until it has had `count`. */
async function holdRest(receiver: WireReceiver, count: number): Promise<void> {
  for (let next = 1; next < count; ) {
    await receiver.until(() => receiver.deliveries.length > next, `delivery ${next + 1} of ${count}, to hold it`);
    const seqs = seqsOf(receiver).slice(next);
    assert.equal(await receiver.ack({ hold: seqs }), 0);
    next += seqs.length;
  }
}

/** Sends one message and insists that it is the very next that each of the receivers gets, at once. */
async function comesAtOnce(scene: Scene, [from, to]: readonly [Person, Person], data: string, receivers: readonly WireReceiver[]): Promise<void> {
  const before = receivers.map(({ deliveries }) => deliveries.length);
  await scene.send(from, to, data);
  await Promise.all(
    receivers.map(async (receiver, place) => {
      const next = before[place] ?? 0;
      await receiver.until(() => receiver.deliveries.length > next, `${data}, at receiver ${place}`, AT_ONCE_MS);
      assert.equal(receiver.deliveries[next]?.event.data, data);
    }),
  );
}

export const STARVATION: readonly Rule[] = [
  rule(
    "[T90] 1,000 held messages, 1,000 for an absent session and one that is never settled stop no other mail of the user: it comes at once",
    async (scene) => {
      const [alice, bob] = [await scene.person("alice"), await scene.person("bob")];
      const [elsewhere, absent] = [await scene.session(bob.user), await scene.session(bob.user)];
      // What is never settled comes first: everything else is behind it.
      await scene.send(alice, bob, "never settled");
      await sendMass(scene, alice.token, { user: bob.user }, "held");
      await sendMass(scene, scene.target.serviceKey, { session: absent.session }, "absent");

      const burdened = await scene.open(bob);
      await holdRest(burdened, 1 + MANY);
      assert.deepEqual(dataOf(burdened), ["never settled", ...named("held")]);

      // Its handler never ends either, and its window has room for nothing else.
      const stuck = await scene.open(bob, { window: 2 });
      await got(stuck, 2);
      const { epoch } = burdened;
      const cursor = seqsOf(burdened).at(-1);
      const idle = await scene.open(bob, { epoch, cursor });
      // All that is for the absent session lies between this one and its mail.
      const away = await scene.open(elsewhere, { epoch, cursor });
      for (const data of ["one", "two", "three"]) {
        await comesAtOnce(scene, [alice, bob], data, [burdened, idle, away]);
        assert.equal(await burdened.ack({ seqs: [burdened.cursor] }), 1);
      }
      assert.deepEqual(dataOf(idle), ["one", "two", "three"]);
      assert.deepEqual(dataOf(stuck), ["never settled", "held 1"], "who settles nothing stops itself, and nobody else");

      // And nothing of all that is lost.
      assert.equal(await stuck.ack({ seqs: [stuck.cursor] }), 1);
      await got(stuck, 3);
      assert.deepEqual(dataOf(stuck), ["never settled", "held 1", "held 2"]);
      const back = await scene.open(absent, { epoch, cursor, window: MANY });
      await got(back, MANY);
      assert.deepEqual(dataOf(back), named("absent"));
      const fresh = await scene.open(bob, { window: MANY });
      await got(fresh, MANY);
      assert.deepEqual(dataOf(fresh), ["never settled", ...named("held").slice(1)]);
      assert.equal(await burdened.ack({ upto: burdened.cursor }), 1, "the one that it did not hold");
    },
    { limitMs: 60_000 },
  ),
];
