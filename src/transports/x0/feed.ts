/**
 * The link of one session of x0 to the hub, which stays open from poll to poll.
 * @module
 */
import type { HandoverError } from "../../errors.ts";
import type { ReceiverId, ServerFrame, UserIdentity } from "../../protocol.ts";
import type { Channel, Gateway, Link } from "../../transport.ts";

/** How much is read ahead of the pages. */
const WINDOW = 32;

/** Hands on what comes as long as there is room for it. */
export class Feed implements Link {
  readonly kind = "poll";
  readonly #take: (frame: ServerFrame) => boolean;
  readonly #onClose: (reason: HandoverError) => void;
  #channel: Channel | undefined;
  #isOver = false;
  #isBlocked = false;

  constructor(take: (frame: ServerFrame) => boolean, onClose: (reason: HandoverError) => void) {
    this.#take = take;
    this.#onClose = onClose;
  }

  /** @throws HandoverError as {@link Gateway.open} */
  async open(gateway: Gateway, identity: UserIdentity, receiver: ReceiverId): Promise<void> {
    const channel = await gateway.open(identity, this, { receiver, epoch: undefined, cursor: 0, window: WINDOW });
    if (this.#isOver) channel.closed();
    else this.#channel = channel;
    // The list may have got shorter before there was a channel to say it to.
    if (!this.#isBlocked) channel.drained();
  }

  send(frame: ServerFrame): boolean {
    if (this.#isOver) return false;
    this.#isBlocked = !this.#take(frame);
    return !this.#isBlocked;
  }

  drained(): void {
    if (!this.#isBlocked) return;
    this.#isBlocked = false;
    this.#channel?.drained();
  }

  close(reason: HandoverError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#onClose(reason);
  }

  /** Nobody polls any more. */
  end(): void {
    this.#isOver = true;
    this.#channel?.closed();
  }
}
