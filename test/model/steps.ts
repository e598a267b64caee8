/**
 * What can happen in a sequence, and how often.
 * @module
 */
import fc from "fast-check";

/** The receivers of a sequence: two tabs of one session, another session of that user (with a receiver of the same name), another user. */
export const RECEIVERS = [
  { user: "u", session: "s1", id: "a" },
  { user: "u", session: "s1", id: "b" },
  { user: "u", session: "s2", id: "a" },
  { user: "v", session: "s3", id: "a" },
] as const;
/** One tick of the clock: everything that has a time has a multiple of it. */
export const TICK_MS = 5_000;

const who = fc.constantFrom(0, 0, 0, 1, 1, 2, 3);
const sender = fc.constantFrom("u", "v", "service");
/** Where a client comes back: at its cursor, below it (it lost something), as a new receiver, above head, or with another epoch. */
const from = fc.constantFrom("mine", "mine", "mine", "mine", "back", "back", "none", "ahead", "alien");
/** What it says in an acknowledgement to have received; `none` says nothing of it. */
const cursor = fc.constantFrom("mine", "mine", "mine", "none", "none", "back", "head", "ahead");
const window = fc.constantFrom(1, 2, 3, 32);

const plain = fc.record({
  to: fc.constantFrom(["u"], ["u"], ["u"], ["v"], ["u", "v"], ["v", "u"]),
  /** For one session only; the last one that ended is one too. */
  session: fc.constantFrom(undefined, undefined, undefined, undefined, undefined, "s1", "s2", "s3", "ended"),
  data: fc.constantFrom(1, 2),
  ttl: fc.constantFrom(undefined, undefined, undefined, undefined, 0, 5, 20, 60),
  topic: fc.constantFrom(undefined, undefined, undefined, "t1", "t2"),
});
/** Mostly the same content, so that a key is repeated now and then, and sometimes with another. */
const keyed = fc.record({ to: fc.constant(["u"]), data: fc.constantFrom(1, 1, 1, 2), key: fc.constantFrom("k1", "k1", "k2") });
const sending = fc.oneof({ weight: 5, arbitrary: plain }, { weight: 1, arbitrary: keyed });

/** What is sent while a connection is being opened. */
const meanwhile = fc.oneof(
  fc.constant([]),
  fc.array(fc.record({ to: fc.constantFrom(["u"], ["u"], ["v"]), data: fc.constantFrom(1, 2) }), { maxLength: 3 }),
);

/** A number to acknowledge: one that the client has in hand, one that it ever had (counted back from the last), or any at all. */
const target = fc.oneof(
  { weight: 6, arbitrary: fc.record({ inHand: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ had: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ any: fc.nat(30) }) },
);
const form = fc.constantFrom("seqs", "seqs", "seqs", "nack", "nack", "nack", "reject", "hold", "hold");
const each = fc.array(fc.record({ target, form, after: fc.constantFrom(0, 0, 5, 20) }), { minLength: 1, maxLength: 3 });
const forms = fc.oneof(
  { weight: 2, arbitrary: fc.record({ upto: target, each: fc.constant([]) }) },
  { weight: 3, arbitrary: fc.record({ upto: fc.constant(undefined), each }) },
  { weight: 2, arbitrary: fc.record({ upto: target, each }) },
);

export const step = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant("send" as const), sender, sendings: fc.array(sending, { minLength: 1, maxLength: 1 }) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("send" as const), sender, sendings: fc.array(sending, { minLength: 2, maxLength: 4 }) }) },
  {
    weight: 7,
    arbitrary: fc.record({ do: fc.constant("connect" as const), who, from, window, kind: fc.constantFrom("websocket", "sse"), meanwhile }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("poll" as const),
      who,
      from,
      max: fc.constantFrom(1, 2, 100),
      wait: fc.constantFrom(0, 5, 20),
      isLost: fc.constantFrom(false, false, true),
      ack: fc.option(forms, { freq: 2, nil: undefined }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("leave" as const), who }) },
  {
    weight: 9,
    arbitrary: fc.record({
      do: fc.constant("acknowledge" as const),
      who,
      forms,
      epoch: fc.constantFrom(...Array<"mine">(12).fill("mine"), "alien", "none"),
      cursor,
      times: fc.constantFrom(1, 1, 2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("takeBack" as const), sender, message: fc.nat(5) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("endSession" as const), session: fc.constantFrom("s1", "s2", "s3") }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("wait" as const), ticks: fc.constantFrom(1, 1, 2, 4, 7, 20) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("restart" as const), how: fc.constantFrom("drained", "drained", "drained", "closed", "killed") }),
  },
);

export type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;
export type FormsStep = typeof forms extends fc.Arbitrary<infer T> ? T : never;
export type Target = typeof target extends fc.Arbitrary<infer T> ? T : never;
export type StepOf<D extends Step["do"]> = Extract<Step, { readonly do: D }>;
