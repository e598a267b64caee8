/**
 * Sessions from inside: what an end finds half done, and when the engine is asked. The engine is a real one whose answers are held back by hand.
 * @module
 */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { memoryEngine } from "../src/engines/memory.ts";
import { HandoverError } from "../src/errors.ts";
import { Hub } from "../src/hub.ts";
import type { ReceiverId, ServerFrame, SessionId, UserId, UserIdentity } from "../src/protocol.ts";
import { Sessions } from "../src/sessions.ts";
import type { Link } from "../src/transport.ts";

const HOUR_MS = 3600_000;
const TAB = "tab-1" as SessionId;
const identityOf = (user: string, session: string, expiresAtMs = Date.now() + HOUR_MS): UserIdentity => ({
  kind: "user",
  user: user as UserId,
  session: session as SessionId,
  scopes: ["receive", "send:user:*"],
  expiresAtMs,
});
const bob = identityOf("bob", TAB);

class TestLink implements Link {
  readonly kind: Link["kind"];
  readonly frames: ServerFrame[] = [];
  closedWith: string | undefined;

  constructor(kind: Link["kind"] = "websocket") {
    this.kind = kind;
  }
  send(frame: ServerFrame): boolean {
    this.frames.push(frame);
    return true;
  }
  close(reason: HandoverError): void {
    this.closedWith = reason.code;
  }
  get deliveries(): number {
    return this.frames.filter(({ op }) => op === "deliver").length;
  }
}

let engine: ReturnType<typeof memoryEngine>;
let hub: Hub;
beforeEach(async () => {
  engine = memoryEngine({});
  await engine.open((cause) => {
    throw cause;
  });
  hub = new Hub({
    engine,
    authenticate: async () => bob,
    maxMessageBytes: 100_000,
    maxTtlSeconds: 3_600,
    maxReceiversPerUser: 10,
    isKnown: () => true,
  });
});
afterEach(async () => {
  hub.drain(0);
  await engine.close();
  vi.restoreAllMocks();
});

/** Holds back what a method of the engine answers. @returns what lets it through, and what it is waiting for */
function hold<M extends "attach" | "admitSession">(method: M): { readonly asked: Promise<void>; release(): void } {
  let release = () => {};
  let tellAsked = () => {};
  const asked = new Promise<void>((resolve) => {
    tellAsked = resolve;
  });
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const original = engine[method].bind(engine) as (...args: unknown[]) => Promise<unknown>;
  vi.spyOn(engine, method).mockImplementation((async (...args: unknown[]) => {
    const answer = await original(...args);
    tellAsked();
    await released;
    return answer;
  }) as never);
  return { asked, release };
}

const resume = { receiver: "r" as ReceiverId, epoch: undefined, cursor: 0, window: 10 };
const send = (data: unknown) => hub.send(bob, { to: { user: "bob" }, type: "t", data });
const refused = { code: "token-invalid" };

for (const method of ["attach", "admitSession"] as const) {
  test(`[H92] what waits for the store while its session ends is refused when it goes on, and neither handed anything nor settles (${method})`, async () => {
    await send(1);
    if (method === "attach") await hub.authenticate("a token");
    else
      hub = new Hub({
        engine,
        authenticate: async () => bob,
        maxMessageBytes: 1_000,
        maxTtlSeconds: 60,
        maxReceiversPerUser: 10,
        isKnown: () => true,
      });
    const held = hold(method);
    const link = new TestLink();
    const opening = hub.open(bob, link, resume);
    const acking = hub.acknowledge(bob, { receiver: "r" as ReceiverId, epoch: undefined, cursor: 1, upto: 1 });
    const watching = hub.watch(bob, () => {});
    // Each has its own answer; none may be missed.
    const results = Promise.allSettled([opening, acking, watching]);
    await held.asked;
    await hub.endSession(TAB);
    held.release();
    const outcomes = (await results).map((result) => (result.status === "rejected" ? (result.reason as HandoverError).code : "done"));
    // Watching asks the store for the session only, and that was answered before it ended; but it is told.
    expect(outcomes).toEqual(method === "attach" ? ["token-invalid", "token-invalid", "done"] : Array(3).fill("token-invalid"));
    expect(link.deliveries).toBe(0);
    expect((await engine.totals()).unsettled).toBe(1);
    expect(hub.isLive("bob" as UserId)).toBe(false);
    expect(await send(2)).toMatchObject(refused);
  });
}

test("[H93] a link whose session ends while it is being caught up is closed, and its receiver forgotten", async () => {
  await send(1);
  const attach = engine.attach.bind(engine);
  let letRead = () => {};
  let tellReading = () => {};
  const reading = new Promise<void>((resolve) => {
    tellReading = resolve;
  });
  vi.spyOn(engine, "attach").mockImplementation(async (user, events) => {
    const attachment = await attach(user, events);
    return {
      epoch: attachment.epoch,
      head: attachment.head,
      settle: attachment.settle,
      held: attachment.held,
      detach: attachment.detach,
      async read(request) {
        const page = await attachment.read(request);
        tellReading();
        await new Promise<void>((resolve) => {
          letRead = resolve;
        });
        return page;
      },
    };
  });
  const link = new TestLink();
  const opening = hub.open(bob, link, resume);
  const outcome = opening.then(
    () => "opened",
    (thrown: HandoverError) => thrown.code,
  );
  await reading;
  await hub.endSession(TAB);
  letRead();
  expect(await outcome).toBe("token-invalid");
  expect([link.closedWith, link.deliveries]).toEqual(["session-ended", 0]);
  expect(hub.isLive("bob" as UserId)).toBe(false);
});

test("[H94] with its session a receiver between two polls is not live any more", async () => {
  const channel = await hub.open(bob, new TestLink("poll"), resume);
  channel.closed();
  expect(hub.isLive("bob" as UserId)).toBe(true);
  await hub.endSession(TAB);
  expect(hub.isLive("bob" as UserId)).toBe(false);
});

test("[H95] the engine is asked once for each newer token, again when an answer was forgotten, and always about an ended session", async () => {
  const sessions = new Sessions(engine);
  const asked = vi.spyOn(engine, "admitSession");
  const soon = Date.now() + HOUR_MS;
  for (let n = 0; n < 3; n++) await sessions.admit(identityOf("bob", TAB, soon));
  await sessions.admit(identityOf("bob", TAB, soon - 1_000));
  expect(asked).toHaveBeenCalledTimes(1);
  await sessions.admit(identityOf("bob", TAB, soon + 1_000));
  await sessions.admit(identityOf("eve", TAB, soon));
  expect(asked).toHaveBeenCalledTimes(3);
  // 10,000 others, and it has been forgotten here, not there.
  for (let n = 0; n < 10_000; n++) await sessions.admit(identityOf(`u${n}`, "s", soon));
  asked.mockClear();
  await sessions.admit(identityOf("bob", TAB, soon));
  await sessions.admit(identityOf("u9999", "s", soon));
  expect(asked).toHaveBeenCalledTimes(1);
  expect(await sessions.end(TAB)).toEqual(["bob", "eve"]);
  for (let n = 0; n < 3; n++) await expect(sessions.admit(identityOf("bob", TAB, soon))).rejects.toMatchObject(refused);
  expect(asked).toHaveBeenCalledTimes(4);
});

test("[H96] an end that the store did not confirm closes nothing, and may have happened: the engine is asked again; ended anew, everything is closed", async () => {
  const link = new TestLink();
  await hub.open(bob, link, resume);
  const end = engine.endSession.bind(engine);
  vi.spyOn(engine, "endSession").mockImplementationOnce(async (session) => {
    await end(session);
    throw new HandoverError("store-unavailable", "Not confirmed in time.");
  });
  await expect(hub.endSession(TAB)).rejects.toMatchObject({ code: "store-unavailable" });
  expect(link.closedWith).toBeUndefined();
  await expect(hub.authenticate("a token")).rejects.toMatchObject(refused);
  await hub.endSession(TAB);
  expect(link.closedWith).toBe("session-ended");
});
