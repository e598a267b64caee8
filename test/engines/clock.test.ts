import { expect, test } from "vitest";
import type { Entry } from "../../src/engine.ts";
import { memoryEngine } from "../../src/engines/memory.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";

const HOUR_MS = 3600_000;
const DAY_MS = 24 * HOUR_MS;
const U = "u" as UserId;
const S = "s" as SessionId;

for (const name of ["memory", "sqlite"]) {
  // The engine's clock jumps; its timers, which sleep by real time, have not noticed yet.
  test(`[E56] ${name}: what has expired is not read, settled, nacked or taken back, before anything has swept it`, async () => {
    const { dir, remove } = makeFolder();
    let nowMs = Date.now();
    const now = () => nowMs;
    const engine = name === "memory" ? memoryEngine({ now }) : sqliteEngine({ dir, now, reserveBytes: 65_536 });
    await engine.open((cause) => {
      throw cause;
    });
    const ids = ["read", "acked", "upto", "rejected", "nacked", "evicted", "replaced"];
    const messages = ids.map((id) => makeMessage(id, ["u"], { acceptedAtMs: nowMs, ...(id === "replaced" ? { topic: "t" } : {}) }));
    await engine.append(messages);
    const ended: unknown[] = [];
    const desk = await engine.attach("u" as UserId, { deliver: () => {}, ended: (endings) => ended.push(...endings), lost: () => {} });
    nowMs += HOUR_MS - 1;
    expect((await desk.read({ after: 0, limit: 10, maxBytes: 10_000, session: S })).entries.length).toBe(7);
    nowMs += 1;
    expect(await desk.read({ after: 0, limit: 10, maxBytes: 10_000, session: S })).toEqual({ entries: [], gaps: [], upto: 7 });
    const settled = await desk.settle(
      [
        { kind: "acked", seqs: [2] },
        { kind: "acked-upto", upto: 3, except: [1, 2] },
        { kind: "rejected", seq: 4, reason: "" },
        { kind: "nacked", seq: 5, retryAfterMs: 0 },
      ],
      S,
    );
    expect(settled).toEqual([]);
    expect(await engine.evict(messages[5]?.id ?? makeMessage("none", []).id)).toBe(0);
    await engine.append([makeMessage("new", ["u"], { acceptedAtMs: nowMs, topic: "t" })]);
    const { expired, unsettled, accepted } = await engine.totals();
    expect([expired, unsettled, accepted]).toEqual([6, 2, 8]);
    expect(ended).toMatchObject([2, 3, 4, 5, 6, 7].map((seq) => ({ seq, ending: "expired" })));
    await engine.close();
    remove();
  });
}

for (const name of ["memory", "sqlite"] as const) {
  test(`[E80] ${name}: when the clock is set back, a nacked message waits as long as it was to and no longer, and what was never read waits as before`, async () => {
    const { dir, remove } = makeFolder();
    let nowMs = Date.now();
    const now = () => nowMs;
    const open = async () => {
      const engine = name === "memory" ? memoryEngine({ now }) : sqliteEngine({ dir, now, reserveBytes: 65_536 });
      await engine.open((cause) => {
        throw cause;
      });
      return engine;
    };
    let engine = await open();
    const again: string[] = [];
    const events = { deliver: (entries: readonly Entry[]) => again.push(...entries.map(({ id }) => id)), ended: () => {}, lost: () => {} };
    const lasting = { acceptedAtMs: nowMs, expiresAtMs: nowMs + 100 * DAY_MS };
    await engine.append(["before", "after", "never-read"].map((id) => makeMessage(id, ["u"], lasting)));
    const desk = await engine.attach(U, events);
    await desk.settle([{ kind: "nacked", seq: 1, retryAfterMs: HOUR_MS }], S);
    nowMs -= DAY_MS;
    // By the new time from the beginning.
    await desk.settle([{ kind: "nacked", seq: 2, retryAfterMs: 2 * HOUR_MS }], S);
    for (const [minutes, ids] of [
      [55, []],
      [10, ["before"]],
      [50, ["before"]],
      [10, ["before", "after"]],
    ] as const) {
      nowMs += minutes * 60_000;
      await engine.sweep();
      await engine.totals();
      expect(again).toEqual(ids);
    }
    if (name === "sqlite") {
      // Set back while nothing ran: by how much, nobody knows.
      await desk.settle([{ kind: "nacked", seq: 4, retryAfterMs: HOUR_MS }], S);
      await engine.close();
      nowMs -= 2 * DAY_MS;
      engine = await open();
    }
    const reader = name === "sqlite" ? await engine.attach(U, events) : desk;
    const { entries } = await reader.read({ after: 0, limit: 9, maxBytes: 99_999, session: S });
    const found = entries.map(({ id, deliveryCount }) => `${id} ${deliveryCount}`);
    expect(found).toEqual(name === "sqlite" ? ["never-read 1", "after 2", "before 3"] : ["never-read 1", "before 2", "after 2"]);
    await engine.close();
    remove();
  });
}
