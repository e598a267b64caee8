/**
 * What the hub answers, and when: after the engine has said that it is durable, never sooner. The engine here is a real one whose
 * commits are let through by hand.
 * @module
 */
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Attachment, Engine } from "../src/engine.ts";
import { memoryEngine } from "../src/engines/memory.ts";
import { HandoverError } from "../src/errors.ts";
import { Hub } from "../src/hub.ts";
import { Mailbox } from "../src/mailbox.ts";
import type { MessageId, ReceiverId, ServerFrame, SessionId, UserId, UserIdentity } from "../src/protocol.ts";
import type { Link } from "../src/transport.ts";

/** A gate: who passes waits until it is opened. */
class Gate {
  #open: () => void = () => {};
  #passing = Promise.resolve();
  waiting = 0;

  shut(): void {
    this.#passing = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  open(): void {
    this.#open();
  }

  async pass(): Promise<void> {
    this.waiting += 1;
    await this.#passing;
    this.waiting -= 1;
  }
}

/** The memory engine; what it stores or settles is "on disk" only when the gate is open. */
function gated(engine: Engine, gate: Gate): Engine {
  return {
    ...engine,
    name: engine.name,
    supports: engine.supports,
    open: (failed) => engine.open(failed),
    find: (id) => engine.find(id),
    evict: (id) => engine.evict(id),
    admitSession: (session, user, untilMs) => engine.admitSession(session, user, untilMs),
    usersOfSession: (session, limit) => engine.usersOfSession(session, limit),
    endSession: (session) => engine.endSession(session),
    totals: () => engine.totals(),
    close: () => engine.close(),
    async append(batch) {
      const appended = await engine.append(batch);
      await gate.pass();
      return appended;
    },
    async attach(user, events): Promise<Attachment> {
      const attachment = await engine.attach(user, events);
      return {
        epoch: attachment.epoch,
        head: attachment.head,
        read: (request) => attachment.read(request),
        held: (receiver, session) => attachment.held(receiver, session),
        detach: () => attachment.detach(),
        async settle(changes, session) {
          const ended = await attachment.settle(changes, session);
          await gate.pass();
          return ended;
        },
      };
    },
  };
}

const bob: UserIdentity = {
  kind: "user",
  user: "bob" as UserId,
  session: "s" as SessionId,
  scopes: ["receive", "send:user:*"],
  expiresAtMs: Number.MAX_SAFE_INTEGER,
};

let gate: Gate;
let engine: Engine;
let hub: Hub;
beforeEach(async () => {
  gate = new Gate();
  engine = gated(memoryEngine({}), gate);
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
  gate.open();
  hub.drain(0);
  await engine.close();
});

/** Whether a promise is settled after everything that was ready has run. */
async function isAnswered(promise: Promise<unknown>): Promise<boolean> {
  let answered = false;
  promise.then(
    () => {
      answered = true;
    },
    () => {
      answered = true;
    },
  );
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
  return answered;
}

test("[H58] a send is answered when the engine has it on disk, and not before", async () => {
  gate.shut();
  const sent = hub.send(bob, { to: { user: "bob" }, type: "t", data: 1 });
  expect(await isAnswered(sent)).toBe(false);
  expect(gate.waiting).toBe(1);
  gate.open();
  expect(await sent).toMatchObject({ recipients: ["bob"] });
});

test("[H59] an acknowledgement is answered when the engine has it on disk, and not before; only then is there room in the window", async () => {
  const frames: ServerFrame[] = [];
  const link: Link = {
    kind: "websocket",
    send(frame) {
      frames.push(frame);
      return true;
    },
    close() {},
  };
  for (let n = 0; n < 2; n++) expect(await hub.send(bob, { to: { user: "bob" }, type: "t", data: n })).not.toBeInstanceOf(HandoverError);
  const receiver = "r" as ReceiverId;
  const channel = await hub.open(bob, link, { receiver, epoch: undefined, cursor: 0, window: 1 });
  const delivered = () => frames.flatMap((frame) => (frame.op === "deliver" ? frame.deliveries.map(({ seq }) => seq) : []));
  expect(delivered()).toEqual([1]);
  gate.shut();
  const acked = hub.acknowledge(bob, { receiver, epoch: channel.epoch, cursor: undefined, seqs: [1] });
  expect(await isAnswered(acked)).toBe(false);
  expect(delivered()).toEqual([1]);
  gate.open();
  expect(await acked).toBe(1);
  await expect.poll(delivered).toEqual([1, 2]);
});

test("[H100] however many messages end at once, whoever has the mailbox open is told of all of them", async () => {
  const mailbox = await Mailbox.attach(engine, bob.user, () => {});
  const receiver = mailbox.addReceiver("r" as ReceiverId, bob.session);
  const settled: number[] = [];
  const link: Link = {
    kind: "websocket",
    send(frame) {
      if (frame.op === "settled") settled.push(...frame.seqs);
      return true;
    },
    close() {},
  };
  const endings = Array.from({ length: 200_000 }, (_, n) => ({ seq: n + 1, id: `m${n}` as MessageId, ending: "expired" as const }));
  await receiver.open(link, 200_000, 32);
  mailbox.ended(endings);
  expect(mailbox.head).toBe(200_000);
  // A hint: of very many, the newest.
  expect(settled).toEqual(Array.from({ length: 1_000 }, (_, n) => 199_001 + n));
});
