/**
 * A link that is attached to its receiver, as its transport sees it.
 * @module
 */
import type { Mailbox } from "./mailbox.ts";
import type { Epoch, ReceiverId, Seq } from "./protocol.ts";
import type { Receiver } from "./receiver.ts";
import type { SessionWatch } from "./sessions.ts";
import type { Channel, Link, Resume } from "./transport.ts";

export class OpenChannel implements Channel {
  readonly epoch: Epoch;
  readonly resumed: boolean;
  readonly #mailbox: Mailbox;
  readonly #receiver: Receiver;
  readonly #link: Link;
  readonly #watch: SessionWatch;

  constructor(mailbox: Mailbox, receiver: Receiver, link: Link, watch: SessionWatch, { epoch, cursor }: Resume) {
    this.epoch = mailbox.epoch;
    this.resumed = epoch === mailbox.epoch && cursor <= mailbox.head;
    this.#mailbox = mailbox;
    this.#receiver = receiver;
    this.#link = link;
    this.#watch = watch;
  }

  get receiver(): ReceiverId {
    return this.#receiver.id;
  }

  /** Says that it is ready, and sends what is waiting, as far as the window allows. Resolves when that is sent. */
  open({ cursor, window }: Resume): Promise<void> {
    this.#link.send({ op: "ready", receiver: this.receiver, epoch: this.epoch, head: this.head() });
    return this.#receiver.open(this.#link, this.resumed ? cursor : undefined, window);
  }

  head(): Seq {
    return this.#mailbox.head;
  }

  position(): Seq | undefined {
    return this.#receiver.positionOf(this.#link);
  }

  drained(): void {
    void this.#receiver.drained(this.#link);
  }

  closed(isReturning?: boolean): void {
    this.#watch.stop();
    this.#receiver.close(this.#link, isReturning);
  }
}
