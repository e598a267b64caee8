/**
 * What the memory engine holds, and how a mailbox is numbered and read.
 * @module
 */
import type { Accepted } from "../../answers.ts";
import type { Addressed, Attachment, Ending, Entry, Gap, Page } from "../../engine.ts";
import { HandoverError } from "../../errors.ts";
import type { MessageId, Seq, SessionId, UserId } from "../../protocol.ts";
import type { Due } from "./due.ts";
import type { HoldBook } from "./hold.ts";

/** What may be forgotten is forgotten in strokes of this, not each on its own. */
const STROKE_MS = 10_000;

export interface Message {
  readonly id: MessageId;
  readonly source: string;
  /** Dropped when no recipient needs it any more. */
  event: string;
  readonly bytes: number;
  readonly expiresAtMs: number;
  readonly deliveries: Delivery[];
  unsettled: number;
}

/** One message for one recipient. */
export interface Delivery extends Due {
  readonly message: Message;
  readonly box: Box;
  readonly session: SessionId | undefined;
  readonly topic: string | undefined;
  /** Undefined while a nack delays it. */
  slot: Slot | undefined;
  attempts: number;
  ending: Ending | undefined;
  endedAtMs: number;
}

/** One number of a mailbox; `delivery` is gone when it was acknowledged, has moved on or was purged. */
export interface Slot {
  readonly seq: Seq;
  delivery: Delivery | undefined;
}

export interface Box {
  readonly user: UserId;
  /** Which mailbox it was to be made. */
  readonly place: number;
  head: Seq;
  count: number;
  bytes: number;
  /** The highest number of an unacknowledged ending that was purged. */
  forgotten: Seq;
  /** By number, ascending. */
  slots: Slot[];
  gone: number;
  readonly bySeq: Map<Seq, Slot>;
  readonly byTopic: Map<string, Delivery>;
  readonly holds: HoldBook;
}

export interface Key extends Due {
  readonly hash: string;
  readonly accepted: Accepted;
  readonly untilMs: number;
}

export type ReadRequest = Parameters<Attachment["read"]>[0];

/** Puts a delivery at the end of its mailbox. */
export function number(delivery: Delivery): Slot {
  const { box } = delivery;
  unnumber(delivery);
  box.head += 1;
  const slot: Slot = { seq: box.head, delivery };
  delivery.slot = slot;
  box.slots.push(slot);
  box.bySeq.set(slot.seq, slot);
  return slot;
}

/** Takes a delivery's number away. */
export function unnumber(delivery: Delivery): void {
  const { box, slot } = delivery;
  if (!slot) return;
  slot.delivery = undefined;
  delivery.slot = undefined;
  box.holds.drop(slot.seq);
  box.bySeq.delete(slot.seq);
  box.gone += 1;
  if (box.gone < 64 || box.gone * 2 < box.slots.length) return;
  box.slots = box.slots.filter((each) => each.delivery);
  box.gone = 0;
}

/** Reads a mailbox. */
export function readBox(box: Box, request: ReadRequest, nowMs: number): Page {
  const { after, limit, maxBytes, session } = request;
  const entries: Entry[] = [];
  const gaps: Gap[] = [];
  let segment: { from: Seq; to: Seq; reason: Gap["reason"] }[] = [];
  let from = after + 1;
  let upto = box.head;
  let bytes = 0;
  const endSegment = (to: Seq) => {
    if (from <= Math.min(box.forgotten, to)) gaps.push({ from, to: Math.min(box.forgotten, to), reason: "unknown" });
    gaps.push(...segment);
    segment = [];
    from = to + 2;
  };
  for (let at = firstAbove(box.slots, after); at < box.slots.length; at += 1) {
    const { seq, delivery } = box.slots[at] ?? { seq: 0, delivery: undefined };
    if (!delivery) continue;
    const isMine = delivery.session === undefined || delivery.session === session;
    if (delivery.ending !== undefined) {
      const reason = delivery.ending;
      if (!isMine || reason === "acked" || seq <= box.forgotten) continue;
      const last = segment.at(-1);
      if (last?.reason === reason) last.to = seq;
      else segment.push({ from: seq, to: seq, reason });
      continue;
    }
    if (isMine && delivery.message.expiresAtMs > nowMs) {
      const last = entries.at(-1);
      if (last && (entries.length >= limit || bytes + delivery.message.bytes > maxBytes)) {
        upto = last.seq;
        break;
      }
      entries.push(toEntry(delivery, seq));
      bytes += delivery.message.bytes;
    }
    endSegment(seq - 1);
  }
  endSegment(upto);
  return { entries, gaps: gaps.filter((gap) => gap.to <= upto), upto };
}

export function toEntry(delivery: Delivery, seq: Seq): Entry {
  const { message, attempts, session } = delivery;
  return { seq, id: message.id, deliveryCount: attempts, event: message.event, ...(session === undefined ? {} : { session }) };
}

export function keyName({ source, idempotency }: Addressed): string {
  return JSON.stringify([source, idempotency?.key]);
}

export function topicName({ source, topic }: Addressed, session: SessionId | undefined): string | undefined {
  return topic === undefined ? undefined : JSON.stringify([topic, source, session]);
}

export function stroke(ms: number): number {
  return Math.ceil(ms / STROKE_MS) * STROKE_MS;
}

/** Place of the first slot above a number. */
function firstAbove(slots: readonly Slot[], after: Seq): number {
  let low = 0;
  let high = slots.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((slots[middle]?.seq ?? 0) > after) high = middle;
    else low = middle + 1;
  }
  return low;
}

export function wrong(what: string): HandoverError {
  return new HandoverError("internal", `The store was asked for something it cannot do: ${what}. Nothing was stored.`);
}
