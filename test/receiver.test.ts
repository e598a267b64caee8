/**
 * A receiver by itself, on a mailbox and links that the test holds in its hands: what the wire cannot reach well.
 * @module
 */
import { describe, expect, test } from "vitest";
import type { Entry, Gap, Page } from "../src/engine.ts";
import { HandoverError } from "../src/errors.ts";
import { Mailbox } from "../src/mailbox.ts";
import type { Epoch, MessageId, ReceiverId, Seq, ServerFrame, SessionId, UserId, UserIdentity } from "../src/protocol.ts";
import { writeDelivery } from "../src/protocol.ts";
import { type ReadableMailbox, Receiver } from "../src/receiver.ts";
import type { Channel, Gateway, Link, Resume } from "../src/transport.ts";
import { holdPoll } from "../src/transports/poll.ts";

/** A link that notes what it was given, and says no when told to. */
class NotingLink implements Link {
  readonly kind: Link["kind"];
  readonly frames: ServerFrame[] = [];
  takes = true;
  closed: HandoverError | undefined;

  constructor(kind: Link["kind"] = "websocket") {
    this.kind = kind;
  }

  send(frame: ServerFrame): boolean {
    this.frames.push(frame);
    return this.takes;
  }

  close(reason: HandoverError): void {
    this.closed = reason;
  }

  /** `3` a delivery, `-3` a gap up to 3, `s3` a settled hint. */
  get told(): (number | string)[] {
    return this.frames.flatMap((frame): (number | string)[] => {
      if (frame.op === "deliver") return frame.deliveries.map(({ seq }) => seq);
      if (frame.op === "gap") return [-frame.to];
      if (frame.op === "settled") return frame.seqs.map((seq) => `s${seq}`);
      return [];
    });
  }
}

/** A mailbox with the given unsettled numbers; reads wait while it is held. */
class TestMailbox implements ReadableMailbox {
  isFor(): boolean {
    return true;
  }

  notFor(): readonly Seq[] {
    return [];
  }

  head: Seq;
  entries: Entry[];
  gaps: Gap[] = [];
  reads: { after: Seq; limit: number }[] = [];
  /** What the engine remembers as held by the receiver. */
  remembered: readonly Seq[] = [];
  readonly releases: Seq[] = [];
  failingHeld: HandoverError | undefined;
  failing: HandoverError | undefined;
  #gate: Promise<void> = Promise.resolve();
  #open: () => void = () => {};

  constructor(seqs: readonly Seq[], bytes = 10) {
    this.entries = seqs.map((seq) => entryOf(seq, bytes));
    this.head = seqs.at(-1) ?? 0;
  }

  async held(): Promise<readonly Seq[]> {
    if (this.failingHeld) throw this.failingHeld;
    return this.remembered;
  }

  async releaseHeld(_receiver: Receiver, above: Seq): Promise<void> {
    this.releases.push(above);
    await this.#gate;
    this.remembered = this.remembered.filter((seq) => seq <= above);
  }

  hold(): void {
    this.#gate = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  release(): void {
    this.#open();
  }

  async read({ after, limit, maxBytes }: { after: Seq; limit: number; maxBytes: number }): Promise<Page> {
    this.reads.push({ after, limit });
    await this.#gate;
    if (this.failing) throw this.failing;
    const entries: Entry[] = [];
    let bytes = 0;
    let upto = this.head;
    for (const entry of this.entries.filter(({ seq }) => seq > after)) {
      if (entries.length > 0 && (entries.length >= limit || bytes + entry.event.length > maxBytes)) {
        upto = entries.at(-1)?.seq ?? after;
        break;
      }
      entries.push(entry);
      bytes += entry.event.length;
    }
    return { entries, gaps: this.gaps.filter(({ from, to }) => from > after && to <= upto), upto };
  }
}

function entryOf(seq: Seq, bytes = 10, session?: SessionId): Entry {
  const event = JSON.stringify({ id: `m${seq}`, data: "x".repeat(bytes) });
  return { seq, id: `m${seq}` as MessageId, deliveryCount: 1, event, ...(session ? { session } : {}) };
}

function receiverOn(mailbox: ReadableMailbox): Receiver {
  return new Receiver("r" as ReceiverId, "s" as SessionId, mailbox);
}

/** What a mailbox does when an entry was appended. */
function append(mailbox: TestMailbox, receiver: Receiver, ...seqs: Seq[]): void {
  const before = mailbox.head;
  const entries = seqs.map((seq) => entryOf(seq));
  mailbox.entries.push(...entries);
  mailbox.head = seqs.at(-1) ?? before;
  receiver.offer(
    before,
    entries.map((entry) => ({ ...writeDelivery(entry), session: entry.session })),
    mailbox.head,
  );
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

describe("the window", () => {
  test("[H37] the window counts what is handed and neither settled nor held; every form of acknowledgement makes room", async () => {
    const mailbox = new TestMailbox([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, undefined, 2);
    expect(link.told).toEqual([1, 2]);
    for (const [forms, told] of [
      [{ seqs: [1] }, 3],
      [{ nack: [{ seq: 2 }] }, 4],
      [{ reject: [{ seq: 3 }] }, 5],
      [{ hold: [4] }, 6],
    ] as const) {
      const { seqs, nack, reject, hold } = { seqs: undefined, nack: undefined, reject: undefined, hold: undefined, ...forms };
      const asked = {
        ...(seqs && { seqs: [...seqs] }),
        ...(nack && { nack: [...nack] }),
        ...(reject && { reject: [...reject] }),
        ...(hold && { hold: [...hold] }),
      };
      receiver.acknowledged(receiver.settlements(asked, undefined));
      await settled();
      expect(link.told.at(-1)).toBe(told);
    }
    receiver.acknowledged(receiver.settlements({ upto: 6 }, undefined));
    await settled();
    expect(link.told).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    receiver.settledElsewhere([7]);
    await settled();
    expect(link.told).toEqual([1, 2, 3, 4, 5, 6, 7, 8, "s7", 9]);
  });

  test("[H38] a full window reads nothing, and what comes meanwhile is read when there is room, once", async () => {
    const mailbox = new TestMailbox([1]);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, undefined, 1);
    const reads = mailbox.reads.length;
    append(mailbox, receiver, 2);
    append(mailbox, receiver, 3, 4);
    await settled();
    expect([link.told, mailbox.reads.length]).toEqual([[1], reads]);
    receiver.acknowledged(receiver.settlements({ seqs: [1] }, undefined));
    await settled();
    expect(link.told).toEqual([1, 2]);
    expect(mailbox.reads.at(-1)).toEqual({ after: 1, limit: 1 });
  });

  test("[H39] the window is at most 1,000, whatever the client asks for", async () => {
    const mailbox = new TestMailbox(Array.from({ length: 1_200 }, (_, n) => n + 1));
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, undefined, 1_000_000);
    expect(link.told.length).toBe(1_000);
  });

  test("[H40] what was handed above the cursor of a newer link is no longer in flight; what is below it is, but not on a poll", async () => {
    const mailbox = new TestMailbox([1, 2, 3, 4, 5, 6]);
    const receiver = receiverOn(mailbox);
    await receiver.open(new NotingLink(), undefined, 4);
    const resumed = new NotingLink();
    await receiver.open(resumed, 2, 4);
    expect(resumed.told).toEqual([3, 4]);
    const poll = new NotingLink("poll");
    await receiver.open(poll, 2, 4);
    expect(poll.told).toEqual([3, 4, 5, 6]);
  });
});

describe("gaps", () => {
  test("[H41] gaps come in the order of the numbers, between the deliveries where they lie, and count for no window", async () => {
    const mailbox = new TestMailbox([1, 4, 7]);
    mailbox.gaps = [
      { from: 2, to: 3, reason: "expired" },
      { from: 5, to: 6, reason: "replaced" },
      { from: 8, to: 9, reason: "dead" },
    ];
    mailbox.head = 9;
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, 0, 3);
    expect(link.told).toEqual([1, -3, 4, -6, 7, -9]);
    expect(receiver.positionOf(link)).toBe(9);
  });

  test("[H42] gaps behind a full window are told only when the window has come that far", async () => {
    const mailbox = new TestMailbox([1, 4]);
    mailbox.gaps = [{ from: 2, to: 3, reason: "expired" }];
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, 0, 1);
    expect(link.told).toEqual([1]);
    receiver.acknowledged(receiver.settlements({ seqs: [1] }, undefined));
    await settled();
    expect(link.told).toEqual([1, -3, 4]);
  });

  test("[H43] gaps are not told to a receiver that is new, for numbers from before it came; for later ones they are", async () => {
    const mailbox = new TestMailbox([1, 4, 5]);
    mailbox.gaps = [{ from: 2, to: 3, reason: "expired" }];
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, undefined, 2);
    expect(link.told).toEqual([1, 4]);
    // 5 was there when it came, and ends behind its window; 6 came later.
    mailbox.entries = mailbox.entries.filter(({ seq }) => seq < 5);
    append(mailbox, receiver, 7);
    mailbox.gaps.push({ from: 5, to: 5, reason: "dead" }, { from: 6, to: 6, reason: "replaced" });
    receiver.acknowledged(receiver.settlements({ seqs: [1, 4] }, undefined));
    await settled();
    expect(link.told).toEqual([1, 4, -6, 7]);
  });
});

describe("links", () => {
  test("[H44] a link that comes in the middle of a read gets what is after its own cursor, and the older gets nothing more", async () => {
    const mailbox = new TestMailbox([1, 2, 3]);
    const receiver = receiverOn(mailbox);
    const [older, newer] = [new NotingLink(), new NotingLink()];
    mailbox.hold();
    const first = receiver.open(older, 0, 9);
    await settled();
    expect(mailbox.reads.length).toBe(1);
    const second = receiver.open(newer, 2, 9);
    expect(older.closed?.code).toBe("replaced");
    mailbox.release();
    await Promise.all([first, second]);
    expect([older.told, newer.told]).toEqual([[], [3]]);
    const [third, fourth] = [new NotingLink(), new NotingLink()];
    mailbox.hold();
    const again = [receiver.open(third, 1, 9)];
    await settled();
    again.push(receiver.open(fourth, 1, 9));
    mailbox.release();
    await Promise.all(again);
    expect([third.told, fourth.told]).toEqual([[], [2, 3]]);
  });

  test("[H45] a link that goes in the middle of a read is handed nothing, and nothing is counted as handed", async () => {
    const mailbox = new TestMailbox([1, 2, 3]);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    mailbox.hold();
    const opening = receiver.open(link, undefined, 9);
    await settled();
    expect(mailbox.reads.length).toBe(1);
    receiver.close(link);
    mailbox.release();
    await opening;
    expect(link.told).toEqual([]);
    expect(receiver.settlements({ upto: 9, seqs: [1, 2, 3] }, undefined)).toEqual([]);
  });

  test("[H46] a blocked link gets nothing more until it is drained; then it goes on where it was", async () => {
    const mailbox = new TestMailbox([1, 2, 3, 4]);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    link.takes = false;
    await receiver.open(link, undefined, 2);
    expect(link.told).toEqual([1, 2]);
    receiver.acknowledged(receiver.settlements({ upto: 2 }, undefined));
    append(mailbox, receiver, 5);
    await settled();
    expect(link.told).toEqual([1, 2]);
    link.takes = true;
    await receiver.drained(link);
    expect(link.told).toEqual([1, 2, 3, 4]);
    await receiver.drained(new NotingLink());
    expect(link.told).toEqual([1, 2, 3, 4]);
  });

  test("[H47] deliveries go out in frames of at most 1 MiB, and a blocked link stops between them", async () => {
    const mailbox = new TestMailbox([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 250_000);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    link.takes = false;
    await receiver.open(link, undefined, 32);
    expect(link.told).toEqual([1, 2, 3, 4]);
    link.takes = true;
    await receiver.drained(link);
    expect(link.told).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for (const frame of link.frames) {
      if (frame.op === "deliver") expect(frame.deliveries.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0)).toBeLessThan(1_048_576);
    }
  });

  test("[H48] a read that fails ends the link with the reason; the next link starts again", async () => {
    const mailbox = new TestMailbox([1]);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    mailbox.failing = new HandoverError("store-unavailable", "The disk is gone.");
    await receiver.open(link, undefined, 9);
    expect(link.closed).toBe(mailbox.failing);
    expect(receiver.isConnected).toBe(false);
    mailbox.failing = undefined;
    const next = new NotingLink();
    await receiver.open(next, undefined, 9);
    expect(next.told).toEqual([1]);
  });

  test("[H49] mail that a read has found already is not handed a second time when it is announced, and the rest of it is not missed", async () => {
    const mailbox = new TestMailbox([1]);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    mailbox.hold();
    const opening = receiver.open(link, undefined, 9);
    // Committed, and read by the page under way, before anybody was told.
    mailbox.entries.push(entryOf(2), entryOf(3));
    mailbox.head = 3;
    mailbox.release();
    await opening;
    expect(link.told).toEqual([1, 2, 3]);
    const late = [entryOf(2), entryOf(3), entryOf(4)];
    mailbox.entries.push(entryOf(4));
    mailbox.head = 4;
    receiver.offer(
      1,
      late.map((entry) => ({ ...writeDelivery(entry), session: undefined })),
      4,
    );
    await settled();
    expect(link.told).toEqual([1, 2, 3, 4]);
  });

  test("[H50] mail addressed to another session is passed over, live and when catching up", async () => {
    const mailbox = new TestMailbox([]);
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, undefined, 9);
    const entries = [entryOf(1, 10, "other" as SessionId), entryOf(2, 10, "s" as SessionId), entryOf(3)];
    mailbox.head = 3;
    receiver.offer(
      0,
      entries.map((entry) => ({ ...writeDelivery(entry), session: entry.session })),
      3,
    );
    expect(link.told).toEqual([2, 3]);
    expect(receiver.positionOf(link)).toBe(3);
  });
});

describe("polls", () => {
  test("[T37] a poll that was replaced after it got something says a cursor of its own, not of the newer one, whose answer may be lost", async () => {
    const mailbox = new TestMailbox([1, 2, 3]);
    const receiver = receiverOn(mailbox);
    const gateway = {
      async open(_identity: UserIdentity, link: Link, { cursor, window }: Resume): Promise<Channel> {
        await receiver.open(link, cursor, window);
        const [id, epoch] = ["r" as ReceiverId, "e" as Epoch];
        const position = () => receiver.positionOf(link);
        return { receiver: id, epoch, head: () => mailbox.head, resumed: true, position, drained() {}, closed: () => receiver.close(link) };
      },
    } as unknown as Gateway;
    const identity = { kind: "user", expiresAtMs: Date.now() + 60_000 } as UserIdentity;
    const poll = () => holdPoll(gateway, identity, { receiver: "r", epoch: "e", cursor: 3, wait: 5 }).answer;
    const older = poll();
    await settled();
    // All in one turn: a hint for the older, the newer poll, and mail for it.
    receiver.settledElsewhere([1]);
    const newer = poll();
    append(mailbox, receiver, 4);
    expect(JSON.parse((await older) ?? "null")).toMatchObject({ cursor: 3, settled: [1], deliveries: [] });
    expect(JSON.parse((await newer) ?? "null")).toMatchObject({ cursor: 4, deliveries: [{ seq: 4 }] });
  });
});

describe("holds", () => {
  test("[H97] a receiver that this node does not remember holds what the engine says: `upto` spares it, its cursor says what is handed again", async () => {
    const mailbox = new TestMailbox([1, 2, 3, 4, 5]);
    mailbox.remembered = [1, 3, 5];
    const receiver = receiverOn(mailbox);
    // An acknowledgement may come first.
    await receiver.recall();
    expect(receiver.settlements({ upto: 4 }, 4)).toEqual([{ kind: "acked-upto", upto: 4, except: [1, 3] }]);
    const link = new NotingLink();
    mailbox.hold();
    const opening = receiver.open(link, 3, 9);
    await settled();
    // 5 is handed again, and before that it is held no longer.
    expect([mailbox.releases, mailbox.reads, link.told]).toEqual([[3], [], []]);
    append(mailbox, receiver, 6);
    await settled();
    expect([mailbox.reads, link.told]).toEqual([[], []]);
    mailbox.release();
    await opening;
    expect(link.told).toEqual([4, 5, 6]);
    expect(receiver.settlements({ upto: 6 }, undefined)).toEqual([{ kind: "acked-upto", upto: 6, except: [1, 3] }]);
    // Nothing to release: nothing is asked.
    await receiver.open(new NotingLink(), 6, 9);
    expect(mailbox.releases).toEqual([3]);
    await receiver.open(new NotingLink(), undefined, 9);
    expect(mailbox.releases).toEqual([3, 0]);
    expect(receiver.settlements({ upto: 6 }, undefined)).toEqual([{ kind: "acked-upto", upto: 6, except: [] }]);
  });

  test("[H98] a hold counts at once, before the engine has it; it is told to the engine again when it is said again", async () => {
    const mailbox = new TestMailbox([1, 2, 3]);
    const receiver = receiverOn(mailbox);
    await receiver.open(new NotingLink(), undefined, 9);
    const hold = { kind: "held", receiver: "r", seqs: [2] };
    expect(receiver.settlements({ hold: [2, 9] }, undefined)).toEqual([hold]);
    expect(receiver.settlements({ upto: 3 }, undefined)).toEqual([{ kind: "acked-upto", upto: 3, except: [2] }]);
    expect(receiver.settlements({ hold: [2] }, undefined)).toEqual([hold]);
  });

  test("[H99] a link that comes while it cannot be known what its receiver holds ends with the reason; the next one is asked for again", async () => {
    const mailbox = new TestMailbox([1]);
    mailbox.remembered = [1];
    mailbox.failingHeld = new HandoverError("store-unavailable", "The disk is gone.");
    const receiver = receiverOn(mailbox);
    const link = new NotingLink();
    await receiver.open(link, 1, 9);
    expect([link.closed, link.told, receiver.isConnected]).toEqual([mailbox.failingHeld, [], false]);
    await expect(receiver.recall()).rejects.toBe(mailbox.failingHeld);
    mailbox.failingHeld = undefined;
    await receiver.open(new NotingLink(), 1, 9);
    expect(receiver.settlements({ upto: 1 }, undefined)).toEqual([{ kind: "acked-upto", upto: 1, except: [1] }]);
  });
});

describe("a mailbox on an engine", () => {
  test("[H51] numbers that were given and ended without being delivered stop nobody: the next mail comes at once", async () => {
    let head = 0;
    const page: Page = { entries: [], gaps: [], upto: 0 };
    const attachment = {
      epoch: "e" as Epoch,
      head: 0,
      read: async ({ after }: { after: Seq }): Promise<Page> => ({ ...page, entries: after < 3 && head >= 3 ? [entryOf(3)] : [], upto: head }),
      settle: async () => [],
      held: async () => [],
      detach: async () => {},
    };
    const mailbox = await Mailbox.attach(
      { attach: async () => attachment } as unknown as Parameters<typeof Mailbox.attach>[0],
      "u" as UserId,
      () => {},
    );
    const receiver = mailbox.addReceiver("r" as ReceiverId, "s" as SessionId);
    const link = new NotingLink();
    await receiver.open(link, undefined, 9);
    head = 2;
    mailbox.ended([
      { seq: 1, id: "m1" as MessageId, ending: "expired" },
      { seq: 2, id: "m2" as MessageId, ending: "expired" },
    ]);
    await settled();
    expect(mailbox.head).toBe(2);
    head = 3;
    mailbox.deliver([entryOf(3)]);
    await settled();
    expect(link.told).toEqual([3]);
  });
});
