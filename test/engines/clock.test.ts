import { expect, test } from "vitest";
import { memoryEngine } from "../../src/engines/memory.ts";
import { sqliteEngine } from "../../src/engines/sqlite.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { makeFolder } from "./folder.ts";
import { makeMessage } from "./message.ts";

const HOUR_MS = 3600_000;
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
