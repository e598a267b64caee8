/**
 * Examples for the descriptions. A test sends those that go in to a running server, and holds all of them against their schemas.
 * @module
 */
import { problemExample } from "./document.ts";

const ID = "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071";
const TIME = "2026-11-24T09:30:00.000Z";
const DATA = { name: "Ada", answer: 42 };

const message = { to: { user: "bob" }, type: "form.data", data: DATA };
const accepted = { id: ID, time: TIME, ttl: 604_800, recipients: ["bob"] };
const delivery = {
  seq: 1042,
  deliveryCount: 1,
  event: {
    specversion: "1.0",
    id: ID,
    source: "/users/alice",
    type: "form.data",
    time: TIME,
    datacontenttype: "application/json",
    expirytime: "2026-12-01T09:30:00.000Z",
    data: DATA,
  },
};
const epoch = "U1I7IQu9aiMX-qOc";
const gap = { from: 1040, to: 1041, reason: "expired" };

export const EXAMPLES = {
  id: ID,
  message,
  messageWithEverything: {
    to: { users: ["bob", "carol"] },
    type: "order.changed",
    data: { order: 7, state: "packed" },
    subject: "order 7",
    correlationid: "q-1",
    replyto: "orders",
    ttl: 3_600,
    idempotencyKey: "order-7-packed",
    topic: "order-7",
    urgency: "high",
  },
  messages: [message, { to: { user: "carol" }, type: "form.data", data: DATA }],
  accepted,
  messageState: {
    id: ID,
    recipients: [
      { user: "bob", state: "acked", endedAt: TIME },
      { user: "carol", state: "waiting" },
    ],
  },
  takenBack: { evicted: 1 },
  newPoll: { receiver: "tab-1", wait: 0 },
  poll: { receiver: "tab-1", epoch, cursor: 1042, ack: { upto: 1042 }, max: 100, wait: 0 },
  polled: { epoch, cursor: 1042, head: 1042, deliveries: [delivery], settled: [1039], gaps: [gap] },
  ack: {
    receiver: "tab-1",
    epoch,
    cursor: 1042,
    seqs: [1042],
    nack: [{ seq: 1041, retryAfter: 5 }],
    reject: [{ seq: 1040, reason: "no such form" }],
    hold: [1039],
  },
  acked: { acked: 1 },
  sessionRequest: { user: "alice", ttl: 3_600, scope: "receive send:user:*" },
  session: { session: "kQ3nJ0p1vB7yXz5dT9aRf2Lw", token: "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.…", expires: TIME },
  hello: { op: "hello", token: "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.…", receiver: "tab-1", epoch, cursor: 1041, window: 32 },
  send: { op: "send", messages: [{ ref: 1, ...message }] },
  ackFrame: { op: "ack", ref: "a-1", epoch, upto: 1042 },
  auth: { op: "auth", token: "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.…" },
  ready: { op: "ready", receiver: "tab-1", epoch, head: 1042 },
  deliver: { op: "deliver", deliveries: [delivery] },
  sent: {
    op: "sent",
    results: [
      { ref: 1, status: 201, ...accepted },
      { ref: 2, ...problemExample("mailbox-full") },
    ],
  },
  ackedFrame: { op: "acked", ref: "a-1", acked: 1 },
  settled: { op: "settled", seqs: [1039] },
  gap: { op: "gap", ...gap },
  delivery,
  drain: { op: "drain", delay: 5 },
  error: { op: "error", ref: "a-1", ...problemExample("bad-request") },
} as const;
