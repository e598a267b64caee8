/**
 * HTTP long polling: a poll is a link that lives until the first frame, or until its time is up. This file knows nothing of HTTP: it
 * takes a validated request and gives the text of the answer.
 * @module
 */
import { HandoverError } from "../errors.ts";
import { whenExpired } from "../expiry.ts";
import {
  type Delivery,
  leftMsOf,
  type PollRequest,
  PROTOCOL,
  type ReceiverId,
  type ServerFrame,
  type UserIdentity,
  writeDeliveries,
} from "../protocol.ts";
import type { Channel, Gateway, Link } from "../transport.ts";

/** An answer takes nothing more from here on, in characters; with one frame of at most 1 MiB it stays near that. */
const FULL_LENGTH = 262_144;

export interface HeldPoll {
  /** Resolves with the body of a 200, or with undefined: a 204. Rejects with a HandoverError: a problem. */
  readonly answer: Promise<string | undefined>;
  /** The client has gone: nothing more is handed to it, and the answer is a 204 that nobody reads. */
  abandon(): void;
}

/**
 * Answers one poll: acknowledges first (durably), then gives what is waiting, or waits for it.
 * @param identity  whose mailbox
 * @param request  as validated by `SCHEMAS.poll`
 */
export function holdPoll(gateway: Gateway, identity: UserIdentity, request: PollRequest): HeldPoll {
  const link = new PollLink(identity, request.wait === undefined ? PROTOCOL.defaultPollWaitMs : request.wait * 1000);
  return { answer: run(gateway, identity, request, link), abandon: () => link.finish() };
}

async function run(gateway: Gateway, identity: UserIdentity, request: PollRequest, link: PollLink): Promise<string | undefined> {
  const receiver = request.receiver as ReceiverId;
  const epoch = request.epoch ?? undefined;
  const cursor = request.cursor ?? 0;
  let channel: Channel | undefined;
  try {
    if (request.ack) await gateway.acknowledge(identity, { ...request.ack, receiver, epoch, cursor });
    channel = await gateway.open(identity, link, { receiver, epoch, cursor, window: request.max ?? PROTOCOL.defaultPollMax });
    // A cursor that cannot be continued is answered at once, with the epoch to go on with: never silence.
    if (epoch !== undefined && !channel.resumed) link.finish();
    const refusal = await link.finished;
    if (refusal) throw refusal;
    if (!link.hasContent && channel.resumed) return undefined;
    if (!link.hasContent && epoch === undefined) return undefined;
    // How far the receiver is after a newer poll took over is that poll's affair, and its answer can be lost.
    return link.write(channel.epoch, channel.position() ?? link.reach(channel.resumed ? cursor : 0), channel.head());
  } finally {
    channel?.closed();
    link.finish();
  }
}

class PollLink implements Link {
  readonly kind = "poll";
  /** Resolves with why there is no answer, or without that. */
  readonly finished: Promise<HandoverError | undefined>;
  readonly #endWait: () => void;
  #resolve: (refusal?: HandoverError) => void = () => {};
  #isFinishing = false;
  #deliveries: Delivery[] = [];
  #settled: number[] = [];
  #length = 0;
  #gaps: { from: number; to: number; reason: string }[] = [];

  constructor(identity: UserIdentity, waitMs: number) {
    this.finished = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    if (leftMsOf(identity) <= waitMs) {
      // What a token allows ends with it, in the middle of a poll too.
      this.#endWait = whenExpired(identity, () =>
        this.finish(new HandoverError("token-expired", "The token has expired. Ask the backend for a new one.")),
      );
    } else {
      const timer = setTimeout(() => this.finish(), waitMs);
      this.#endWait = () => clearTimeout(timer);
    }
  }

  get hasContent(): boolean {
    return this.#deliveries.length > 0 || this.#settled.length > 0 || this.#gaps.length > 0;
  }

  send(frame: ServerFrame): boolean {
    switch (frame.op) {
      case "deliver":
        for (const delivery of frame.deliveries) {
          this.#deliveries.push(delivery);
          this.#length += delivery.text.length;
        }
        break;
      case "settled":
        for (const seq of frame.seqs) this.#settled.push(seq);
        break;
      case "gap":
        this.#gaps.push({ from: frame.from, to: frame.to, reason: frame.reason });
        break;
      case "ready":
      case "drain":
        return true;
    }
    if (!this.#isFinishing) {
      this.#isFinishing = true;
      // What else this turn brings goes with the same answer.
      setImmediate(() => this.finish());
    }
    return this.#length < FULL_LENGTH;
  }

  close(reason: HandoverError): void {
    // A newer poll took over, or the server is stopping: an empty answer, and the client asks again.
    if (reason.code === "replaced" || reason.code === "draining") this.finish();
    // Like every later request of the session.
    else if (reason.code === "session-ended") this.finish(new HandoverError("token-invalid", reason.message));
    else this.finish(reason);
  }

  /** The first word counts. */
  finish(refusal?: HandoverError): void {
    this.#endWait();
    this.#resolve(refusal);
  }

  /** How far its own content goes. @param start  where the poll began */
  reach(start: number): number {
    return Math.max(start, this.#deliveries.at(-1)?.seq ?? 0, this.#gaps.at(-1)?.to ?? 0);
  }

  write(epoch: string, cursor: number, head: number): string {
    const rest = JSON.stringify({ settled: this.#settled, gaps: this.#gaps });
    return `{"epoch":${JSON.stringify(epoch)},"cursor":${cursor},"head":${Math.max(head, cursor)},"deliveries":${writeDeliveries(this.#deliveries)},${rest.slice(1)}`;
  }
}
