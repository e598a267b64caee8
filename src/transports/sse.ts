/**
 * Server-sent events: an answer that does not end, with one event per delivery. This file knows nothing of the HTTP server: it is given
 * where to go on and something to write to. Acknowledgements come beside it, by `POST /v1/ack`.
 * @see HTML standard, section 9.2 "Server-sent events"
 * @module
 */
import type { Writable } from "node:stream";
import { asHandoverError, HandoverError } from "../errors.ts";
import { whenExpired } from "../expiry.ts";
import { Heartbeat, LATE_MS } from "../heartbeat.ts";
import { PROTOCOL, parse, type ReceiverId, SCHEMAS, type ServerFrame, type UserIdentity } from "../protocol.ts";
import type { Channel, Gateway, Link, Resume } from "../transport.ts";
import { parseEventId, writeEvents, writeProblem, writeReturn } from "./sse/event.ts";

const COMMENT_MS = 15_000;
/**
 * How long a stream lasts at most, and at least. It carries nothing back, so a peer that has vanished is known by this alone: it does not come back.
 * Not the same for all, so that those who came together do not go on together.
 */
const MAX_STREAM_MS = 28_000;
const MIN_STREAM_MS = 23_000;
/** Deliveries stop while this much waits for the peer to read it; they stay in the mailbox. */
const MAX_BUFFERED_BYTES = 1_048_576;
/** A peer that reads nothing while hints for it go on is let go. */
const MAX_UNREAD_BYTES = 4 * MAX_BUFFERED_BYTES;
/** How long a peer may take to read the rest of a stream that has ended. */
const END_TIMEOUT_MS = 2_000;

/**
 * Where a stream goes on.
 * @param query  of the address, as texts
 * @param lastEventId  the header: what an EventSource received last; wins over the query
 * @throws HandoverError bad-request
 */
export function parseStreamRequest(query: unknown, lastEventId: unknown): Resume {
  const { cursor: cursorText, window: windowText, ...rest } = query as Record<string, unknown>;
  const numbers = {
    ...(cursorText === undefined ? {} : { cursor: numberOf(cursorText) }),
    ...(windowText === undefined ? {} : { window: numberOf(windowText) }),
  };
  const { receiver, epoch, cursor, window } = parse(SCHEMAS.events, { ...rest, ...numbers }, "The query");
  return {
    receiver: receiver as ReceiverId | undefined,
    window: window ?? PROTOCOL.defaultWindow,
    ...(lastEventId === undefined ? { epoch: epoch ?? undefined, cursor: cursor ?? 0 } : parseEventId(lastEventId)),
  };
}

function numberOf(text: unknown): unknown {
  return typeof text === "string" && /^-?\d+$/.test(text) ? Number(text) : text;
}

export interface OpenStream {
  /** Resolves when it has begun, or its client has gone. Rejects with a HandoverError when it could not begin: a problem. */
  readonly opened: Promise<void>;
  /** The client has gone: nothing more is handed to it. */
  abandon(): void;
}

/**
 * Opens a stream: it lasts until its client goes, its token expires, or the hub ends it.
 * @param identity  whose mailbox
 * @param begin  begins the answer, once the mailbox is open, and gives what it is written to
 */
export function openStream(gateway: Gateway, identity: UserIdentity, resume: Resume, begin: () => Writable): OpenStream {
  const link = new StreamLink(begin);
  return { opened: link.open(gateway, identity, resume), abandon: () => link.abandon() };
}

class StreamLink implements Link {
  readonly kind = "sse";
  readonly #begin: () => Writable;
  /** From `ready` on. */
  #answer: Writable | undefined;
  #channel: Channel | undefined;
  #epoch = "";
  #refusal: HandoverError | undefined;
  #isOpen = true;
  #endExpiry: () => void = () => {};
  /** From `ready` on: comments, and when it is time to begin anew. */
  #comments: Heartbeat | undefined;
  #renewals: Heartbeat | undefined;
  /** Events of this turn. */
  #outgoing: string[] = [];
  #outgoingLength = 0;
  #isFlushing = false;
  #isBlocked = false;

  constructor(begin: () => Writable) {
    this.#begin = begin;
  }

  async open(gateway: Gateway, identity: UserIdentity, resume: Resume): Promise<void> {
    // The stream ends with what the token allows.
    this.#endExpiry = whenExpired(identity, () =>
      this.close(new HandoverError("token-expired", "The token has expired. Ask the backend for a new one, and come back with it.")),
    );
    try {
      const channel = await gateway.open(identity, this, resume);
      this.#channel = channel;
      if (!this.#isOpen) channel.closed();
      // It may have been blocked, and be free again, before there was anybody to tell.
      else if (!this.#isBlocked) channel.drained();
    } catch (thrown) {
      if (!this.#answer) {
        this.abandon();
        throw thrown;
      }
      this.close(asHandoverError(thrown));
    }
    if (this.#refusal) throw this.#refusal;
  }

  send(frame: ServerFrame): boolean {
    if (!this.#isOpen) return false;
    if (frame.op === "ready") {
      this.#epoch = frame.epoch;
      this.#answer = this.#begin();
      // Who writes to a peer that has gone is told so here; that it has gone is known otherwise.
      this.#answer.on("error", () => {});
      const renewEveryMs = MIN_STREAM_MS + Math.random() * (MAX_STREAM_MS - LATE_MS - MIN_STREAM_MS);
      this.#renewals = new Heartbeat(renewEveryMs, () => this.#renew());
      this.#comments = new Heartbeat(COMMENT_MS, () => this.#comment());
    }
    this.#write(writeEvents(frame, this.#epoch));
    // Blocked until it is drained, not merely until there is less.
    if (this.#outgoingLength + (this.#answer?.writableLength ?? 0) > MAX_BUFFERED_BYTES) this.#isBlocked = true;
    return !this.#isBlocked;
  }

  close(reason: HandoverError): void {
    if (!this.#isOpen) return;
    this.#finish();
    // It has not begun: a problem document says more than a stream with nothing else in it.
    const answer = this.#answer;
    if (!answer) {
      this.#refusal = reason;
      return;
    }
    // The event `drain` has said that one.
    if (reason.code !== "draining") this.#outgoing.push(writeProblem(reason));
    this.#end(answer);
  }

  #end(answer: Writable): void {
    this.#flush();
    answer.end();
    // What was handed to a token that has ended must not arrive much later, and a peer that sleeps keeps nobody waiting.
    const timer = setTimeout(() => answer.destroy(), END_TIMEOUT_MS);
    timer.unref();
    answer.once("close", () => clearTimeout(timer));
  }

  abandon(): void {
    this.#outgoing = [];
    this.#finish();
  }

  #finish(isReturning = false): void {
    this.#isOpen = false;
    this.#endExpiry();
    this.#comments?.stop();
    this.#renewals?.stop();
    this.#channel?.closed(isReturning);
  }

  /** Lets the client come back, and so show that it is there. One that reads slowly shows it by reading: `beginAnswer` watches that. */
  #renew(): void {
    const answer = this.#answer;
    if (!answer || !this.#isOpen || answer.writableLength > 0) return;
    this.#finish(true);
    this.#outgoing.push(writeReturn());
    this.#end(answer);
  }

  /** A comment, so that nobody on the way takes the connection for idle. What waits to be read is sign enough. */
  #comment(): void {
    if (this.#isOpen && this.#answer?.writableLength === 0) this.#write(":\n\n");
  }

  #write(text: string): void {
    this.#outgoing.push(text);
    this.#outgoingLength += text.length;
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    // After this turn, and its promises if it is one of them: whatever is ready by then is one write.
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    this.#isFlushing = false;
    if (!this.#answer || this.#outgoing.length === 0) return;
    const bytes = Buffer.from(this.#outgoing.join(""));
    this.#outgoing = [];
    this.#outgoingLength = 0;
    this.#answer.write(bytes, () => this.#drained());
    if (this.#isOpen && this.#answer.writableLength > MAX_UNREAD_BYTES) {
      this.close(new HandoverError("slow-consumer", "The client does not read what it is sent; it is in the mailbox still."));
    }
  }

  #drained(): void {
    if (!this.#isBlocked || !this.#isOpen || (this.#answer?.writableLength ?? 0) > MAX_BUFFERED_BYTES / 2) return;
    this.#isBlocked = false;
    this.#channel?.drained();
  }
}
