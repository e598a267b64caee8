import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import type { Appended } from "../engine.ts";
import { BOB, EVE, HOUR_MS, ids, outcomes, type Rule, seqs } from "./engine-bench.ts";

/** Rules about storing: E1 to E16. */
export const APPEND_RULES: readonly Rule[] = [
  {
    title: "[E1] what append resolved for is there after the store was closed and opened again",
    needs: ["durable"],
    run: async (bench) => {
      const messages = await bench.many(3);
      await bench.reopen();
      const entries = await bench.mail();
      deepEqual(ids(entries), ids(messages));
      deepEqual(
        entries.map(({ event }) => event),
        messages.map(({ event }) => event),
      );
    },
  },
  {
    title: "[E2] a call stores all of its items or none: one that cannot be stored leaves the others `not-stored`",
    limits: { mailboxMaxMessages: 2 },
    run: async (bench) => {
      const results = await bench.engine.append([
        bench.message({ to: [EVE] }),
        bench.message(),
        bench.message(),
        bench.message(),
        bench.message({ to: [EVE] }),
      ]);
      deepEqual(outcomes(results), ["not-stored", "not-stored", "not-stored", "full", "not-stored"]);
      deepEqual(await bench.mail(), []);
      deepEqual(await bench.mail(EVE), []);
      equal((await bench.engine.totals()).accepted, 0);
      // Nothing is left behind: there is room for two, and numbers begin at 1.
      const messages = await bench.many(2);
      deepEqual(seqs(await bench.mail()), [1, 2]);
      deepEqual(ids(await bench.mail()), ids(messages));
    },
  },
  {
    title: "[E79] items that were appended each by itself share no fate: one that is refused leaves the others stored, in their order",
    limits: { mailboxMaxMessages: 2 },
    run: async (bench) => {
      const keyed = bench.message({ to: [EVE], idempotency: { key: "k", hash: "h" } });
      const spoiled = bench.message({ idempotency: { key: "k", hash: "other" } });
      const [first, second, third] = [bench.message(), bench.message(), bench.message()];
      const none = bench.message({ to: [] });
      const twice = bench.message({ id: first.id });
      const results = await bench.engine.appendEach([keyed, none, first, spoiled, keyed, twice, second, third]);
      deepEqual(
        results.map((each) => ("outcome" in each ? each.outcome : each.code)),
        ["stored", "internal", "stored", "conflict", "repeated", "internal", "stored", "full"],
      );
      deepEqual(ids(await bench.mail()), ids([first, second]));
      deepEqual(ids(await bench.mail(EVE)), ids([keyed]));
    },
  },
  {
    title: "[E3] the order in a mailbox is the order of acceptance, numbered upwards from 1, each mailbox on its own",
    run: async (bench) => {
      const first = await bench.many(3, { to: [BOB, EVE] });
      const second = await bench.stored();
      const third = await bench.stored({ to: [EVE] });
      const [bob, eve] = [await bench.mail(), await bench.mail(EVE)];
      deepEqual(ids(bob), ids([...first, second]));
      deepEqual(ids(eve), ids([...first, third]));
      for (const entries of [bob, eve]) {
        const numbers = seqs(entries);
        ok(
          numbers.every((seq, place) => Number.isSafeInteger(seq) && seq > (numbers[place - 1] ?? 0)),
          `ascending from 1: ${numbers}`,
        );
      }
    },
  },
  {
    title: "[E4] calls made at the same time all succeed, each message once, each under a number of its own",
    run: async (bench) => {
      const messages = Array.from({ length: 300 }, (_none, n) => bench.message({ to: n % 3 === 0 ? [EVE, BOB] : [BOB] }));
      const results = await Promise.all(messages.map((message) => bench.engine.append([message])));
      ok(results.every(([result]) => result?.outcome === "stored"));
      const entries = await bench.mail();
      deepEqual([...ids(entries)].sort(), [...ids(messages)].sort());
      equal(new Set(seqs(entries)).size, 300);
      equal((await bench.mail(EVE)).length, 100);
    },
  },
  {
    title: "[E5] a mailbox with its most messages takes no more; others get theirs and it is named in `refused`; `full` when nobody is left",
    limits: { mailboxMaxMessages: 3 },
    run: async (bench) => {
      const [oldest] = await bench.many(3);
      const both = bench.message({ to: [EVE, BOB] });
      const [shared] = await bench.engine.append([both]);
      ok(shared?.outcome === "stored");
      deepEqual([shared.accepted.recipients, shared.accepted.refused], [[EVE], [BOB]]);
      deepEqual(outcomes(await bench.engine.append([bench.message()])), ["full"]);
      deepEqual(ids(await bench.mail(EVE)), [both.id]);
      equal((await bench.mail()).length, 3);
      // What waits longest is never dropped for it, and settling makes room.
      const desk = await bench.attach();
      const [first] = (await desk.read()).entries;
      equal(first?.id, oldest?.id);
      await desk.settle({ kind: "acked", seqs: [first?.seq ?? 0] });
      await bench.stored();
      deepEqual(outcomes(await bench.engine.append([bench.message()])), ["full"]);
    },
  },
  {
    title: "[E6] a mailbox with its most bytes takes no more, until there is room again",
    limits: { mailboxMaxBytes: 1_000 },
    run: async (bench) => {
      // 400 characters, 800 bytes: what counts is bytes.
      const large = await bench.stored({ event: `"${"ä".repeat(400)}"` });
      deepEqual(outcomes(await bench.engine.append([bench.message({ event: `"${"x".repeat(300)}"` })])), ["full"]);
      const small = await bench.stored({ event: `"${"x".repeat(100)}"` });
      deepEqual(ids(await bench.mail()), [large.id, small.id]);
      const desk = await bench.attach();
      await desk.settle({ kind: "acked-upto", upto: desk.attachment.head, except: [] });
      await bench.stored({ event: `"${"x".repeat(900)}"` });
    },
  },
  {
    title: "[E7] the answer says what was accepted: id, time, time to live and recipients",
    run: async (bench) => {
      const acceptedAtMs = bench.now();
      const message = bench.message({ to: [EVE, BOB], acceptedAtMs, expiresAtMs: acceptedAtMs + 90_000, ttlSeconds: 90 });
      const brief = bench.message({ acceptedAtMs, expiresAtMs: acceptedAtMs + 30_000, ttlSeconds: 0 });
      const time = new Date(acceptedAtMs).toISOString();
      deepEqual(await bench.engine.append([message, brief]), [
        { outcome: "stored", accepted: { id: message.id, time, ttl: 90, recipients: [EVE, BOB] } },
        { outcome: "stored", accepted: { id: brief.id, time, ttl: 0, recipients: [BOB] } },
      ]);
    },
  },
  {
    title: "[E8] a repeat of an idempotency key with the same hash gets the first answer and stores nothing, however close it follows",
    limits: { mailboxMaxMessages: 4 },
    run: async (bench) => {
      await bench.many(4, { to: [EVE] });
      const idempotency = { key: "k1", hash: "h1" };
      const calls = Array.from({ length: 5 }, () => bench.engine.append([bench.message({ to: [BOB, EVE], idempotency })]));
      const results = (await Promise.all(calls)).flat();
      deepEqual(outcomes(results), ["stored", "repeated", "repeated", "repeated", "repeated"]);
      const answers = results.map((result: Appended) => ("accepted" in result ? result.accepted : undefined));
      for (const answer of answers) deepEqual(answer, answers[0]);
      deepEqual(answers[0]?.refused, [EVE]);
      equal((await bench.mail()).length, 1);
      // Within one call as well.
      const twice = { key: "k2", hash: "h2" };
      deepEqual(outcomes(await bench.engine.append([bench.message({ idempotency: twice }), bench.message({ idempotency: twice })])), [
        "stored",
        "repeated",
      ]);
      equal((await bench.engine.totals()).accepted, 6);
    },
  },
  {
    title: "[E9] the same key with another hash is a conflict and stores nothing; keys of different sources are different keys",
    run: async (bench) => {
      await bench.stored({ idempotency: { key: "k", hash: "one" } });
      const results = await bench.engine.append([bench.message({ idempotency: { key: "k", hash: "two" } })]);
      deepEqual(outcomes(results), ["conflict"]);
      await bench.stored({ source: "/users/eve", idempotency: { key: "k", hash: "two" } });
      equal((await bench.mail()).length, 2);
      const call = await bench.engine.append([
        bench.message(),
        bench.message({ idempotency: { key: "k", hash: "two" } }),
        bench.message({ idempotency: { key: "k", hash: "one" } }),
      ]);
      deepEqual(outcomes(call), ["not-stored", "conflict", "repeated"]);
      equal((await bench.mail()).length, 2);
    },
  },
  {
    title: "[E10] the key of a message that was not stored is not kept",
    limits: { mailboxMaxMessages: 1 },
    run: async (bench) => {
      await bench.stored();
      const idempotency = { key: "k", hash: "h" };
      deepEqual(outcomes(await bench.engine.append([bench.message({ idempotency })])), ["full"]);
      const call = [bench.message({ to: [EVE], idempotency }), bench.message({ to: [EVE], idempotency }), bench.message()];
      deepEqual(outcomes(await bench.engine.append(call)), ["not-stored", "not-stored", "full"]);
      await bench.stored({ to: [EVE], idempotency });
    },
  },
  {
    title: "[E11] an idempotency key is known after the store was opened again",
    needs: ["durable"],
    run: async (bench) => {
      const idempotency = { key: "k", hash: "h" };
      const message = bench.message({ idempotency });
      const [first] = await bench.engine.append([message]);
      await bench.reopen();
      const [again] = await bench.engine.append([bench.message({ idempotency })]);
      deepEqual(again, { ...first, outcome: "repeated" });
      equal((await bench.mail()).length, 1);
    },
  },
  {
    title: "[E12] an idempotency key is known for 24 hours and then forgotten",
    needs: ["advance"],
    run: async (bench) => {
      const idempotency = { key: "k", hash: "h" };
      await bench.stored({ idempotency });
      await bench.advance(23 * HOUR_MS);
      deepEqual(outcomes(await bench.engine.append([bench.message({ idempotency })])), ["repeated"]);
      await bench.advance(2 * HOUR_MS);
      await bench.stored({ idempotency: { key: "k", hash: "another" } });
    },
  },
  {
    title: "[E13] what has no time to live left at acceptance is stored as `expired`, delivered to nobody, and takes no room",
    limits: { mailboxMaxMessages: 1 },
    run: async (bench) => {
      const desk = await bench.attach();
      const message = await bench.stored({ ttlMs: 0, to: [BOB, EVE] });
      await bench.stored({ ttlMs: -5 });
      const waiting = await bench.stored();
      deepEqual(ids(await desk.delivered(1)), [waiting.id]);
      deepEqual(ids((await desk.read()).entries), [waiting.id]);
      deepEqual(await bench.mail(EVE), []);
      const { accepted, expired, unsettled } = await bench.engine.totals();
      deepEqual([accepted, expired, unsettled], [4, 3, 1]);
      if (!bench.supports.state) return;
      const state = await bench.engine.find(message.id);
      deepEqual(new Set(state?.recipients.map((each) => `${each.user} ${each.state}`)), new Set(["bob expired", "eve expired"]));
    },
  },
  {
    title: "[E14] an event comes back byte for byte, whatever it holds and however large",
    run: async (bench) => {
      const texts = [
        '{"data":{"a":-0,"b":9007199254740993,"c":1e21}}',
        `{"data":"${String.raw`🙂\u0000ä</script>\"`.repeat(20)}"}`,
        `{"data":"${"x".repeat(262_144)}"}`,
        `{"data":"${"€".repeat(100_000)}"}`,
      ];
      const desk = await bench.attach();
      for (const event of texts) await bench.stored({ event });
      deepEqual(
        (await desk.delivered(4)).map(({ event }) => event),
        texts,
      );
      deepEqual(
        (await desk.read()).entries.map(({ event }) => event),
        texts,
      );
    },
  },
  {
    title: "[E15] a call that cannot be carried out is rejected alone: calls made at the same time are stored",
    run: async (bench) => {
      const first = await bench.stored();
      const good = [bench.message(), bench.message()];
      const calls = [
        bench.engine.append([good[0] ?? first]),
        bench.engine.append([bench.message({ id: first.id })]),
        bench.engine.append([bench.message({ recipients: [] })]),
        bench.engine.append([bench.message({ event: undefined as unknown as string })]),
        bench.engine.append([bench.message({ expiresAtMs: Number.NaN })]),
        bench.engine.append([good[1] ?? first]),
      ];
      const settled = await Promise.allSettled(calls);
      deepEqual(
        settled.map(({ status }) => status),
        ["fulfilled", "rejected", "rejected", "rejected", "rejected", "fulfilled"],
      );
      for (const result of settled) if (result.status === "rejected") equal((result.reason as { code?: string }).code, "internal");
      deepEqual(ids(await bench.mail()), ids([first, ...good]));
      equal((await bench.engine.totals()).accepted, 3);
    },
  },
  {
    title: "[E16] close finishes what was asked for before it; what is asked for afterwards is refused with `store-unavailable`",
    run: async (bench) => {
      const desk = await bench.attach();
      const asked = Array.from({ length: 20 }, () => bench.engine.append([bench.message()]));
      await Promise.all([...asked, bench.engine.close()]);
      for (const call of asked) deepEqual(outcomes(await call), ["stored"]);
      const code = { code: "store-unavailable" };
      await rejects(bench.engine.append([bench.message()]), code);
      await rejects(bench.engine.attach(EVE, desk), code);
      await rejects(desk.read(), code);
      await rejects(desk.settle({ kind: "acked", seqs: [1] }), code);
      await rejects(bench.engine.totals(), code);
      await bench.engine.close();
      deepEqual(desk.losses, []);
      if (bench.supports.durable === "no") return;
      await bench.reopen();
      equal((await bench.mail()).length, 20);
    },
  },
];
