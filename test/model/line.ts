/**
 * One connection or one poll, from its client's side: what it was given, in order, and how it ended.
 * @module
 */
import type { HandoverError } from "../../src/errors.ts";
import { type PollRequest, parse, type ReceiverId, SCHEMAS, type ServerFrame, type UserIdentity } from "../../src/protocol.ts";
import type { Channel, Gateway, Link } from "../../src/transport.ts";
import { type HeldPoll, holdPoll } from "../../src/transports/poll.ts";

/** What a client is given. */
export type Told =
  | { readonly what: "delivery"; readonly seq: number; readonly deliveryCount: number; readonly id: string; readonly data: unknown }
  | { readonly what: "gap"; readonly from: number; readonly to: number; readonly reason: string }
  | { readonly what: "settled"; readonly seqs: readonly number[] };

/** Where a client comes back. */
export interface Where {
  readonly epoch: string | undefined;
  readonly cursor: number;
}

/** How a line ended: a connection with the code of the reason, a poll with its answer. */
export type End =
  | { readonly code: string }
  | { readonly status: 204 }
  | { readonly status: 200; readonly epoch: string; readonly cursor: number; readonly head: number };

interface Line {
  readonly kind: Link["kind"];
  readonly end: End | undefined;
  /** What it was given since this was asked last. */
  take(): readonly Told[];
  /** Goes away without a word. */
  leave(): void;
}

/** A connection as WebSocket and SSE have it. */
export class Connection implements Line, Link {
  readonly kind: "websocket" | "sse";
  end: End | undefined;
  ready: { readonly epoch: string; readonly head: number } | undefined;
  #told: Told[] = [];
  #channel: Channel | undefined;

  constructor(kind: "websocket" | "sse") {
    this.kind = kind;
  }

  /** @returns whether it was taken up at its cursor */
  async open(gateway: Gateway, identity: UserIdentity, receiver: ReceiverId, where: Where, window: number): Promise<boolean> {
    this.#channel = await gateway.open(identity, this, { receiver, ...where, window });
    return this.#channel.resumed;
  }

  send(frame: ServerFrame): boolean {
    if (frame.op === "ready") this.ready = frame;
    else if (frame.op === "deliver") this.#told.push(...frame.deliveries.map(({ text }) => toDelivery(JSON.parse(text) as Written)));
    else if (frame.op === "settled") this.#told.push({ what: "settled", seqs: frame.seqs });
    else if (frame.op === "gap") this.#told.push({ what: "gap", from: frame.from, to: frame.to, reason: frame.reason });
    return true;
  }

  close(reason: HandoverError): void {
    this.end = { code: reason.code };
  }

  take(): readonly Told[] {
    const told = this.#told;
    this.#told = [];
    return told;
  }

  leave(): void {
    this.#channel?.closed();
  }
}

/** One poll. */
export class Poll implements Line {
  readonly kind = "poll";
  /** Its answer does not reach the client. */
  readonly isLost: boolean;
  /** When its time is up, ms since the Unix epoch. */
  readonly untilMs: number;
  /** The step that it belongs to, whether it goes on from its cursor, and whether it named an epoch at all. */
  step = 0;
  resumed = false;
  isNew = false;
  end: End | undefined;
  #told: Told[] = [];
  readonly #held: HeldPoll;

  constructor(gateway: Gateway, identity: UserIdentity, request: PollRequest & { readonly wait: number }, isLost: boolean) {
    this.isLost = isLost;
    this.untilMs = Date.now() + request.wait * 1000;
    this.#held = holdPoll(gateway, identity, parse(SCHEMAS.poll, request, "The poll"));
    this.#held.answer.then(
      (text) => this.#answered(text),
      (reason: HandoverError) => {
        this.end = { code: reason.code };
      },
    );
  }

  take(): readonly Told[] {
    const told = this.#told;
    this.#told = [];
    return told;
  }

  leave(): void {
    this.#held.abandon();
  }

  #answered(text: string | undefined): void {
    if (text === undefined) {
      this.end = { status: 204 };
      return;
    }
    const { epoch, cursor, head, deliveries, gaps, settled } = JSON.parse(text) as Answer;
    const inOrder = [...deliveries.map(toDelivery), ...gaps.map((gap) => ({ what: "gap" as const, ...gap }))];
    const start = (each: (typeof inOrder)[number]) => (each.what === "gap" ? each.from : each.seq);
    this.#told = [...inOrder.sort((one, other) => start(one) - start(other)), { what: "settled", seqs: settled }];
    this.end = { status: 200, epoch, cursor, head };
  }
}

interface Written {
  readonly seq: number;
  readonly deliveryCount: number;
  readonly event: { readonly id: string; readonly data: unknown };
}

interface Answer {
  readonly epoch: string;
  readonly cursor: number;
  readonly head: number;
  readonly deliveries: readonly Written[];
  readonly settled: readonly number[];
  readonly gaps: readonly { readonly from: number; readonly to: number; readonly reason: string }[];
}

function toDelivery({ seq, deliveryCount, event }: Written) {
  return { what: "delivery" as const, seq, deliveryCount, id: event.id, data: event.data };
}
