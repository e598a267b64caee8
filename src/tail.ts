import type { Ended, Entry, MailboxEvents } from "./engine.ts";
import type { UserId } from "./protocol.ts";

/** An attached mailbox as its engine sees it, with what it is to be told. */
export interface Tail {
  readonly user: UserId;
  readonly events: MailboxEvents;
  entries: Entry[];
  ended: Ended[];
}

/**
 * Hands on what there is to tell: deliveries first, since an ending may be of one of them.
 * @param isAttached  asked before each, since whoever is told may detach
 * @param log  takes a line about a receiver of news that threw; nothing is thrown from here
 */
export function tell(tail: Tail, isAttached: () => boolean, log: (line: string) => void): void {
  const { entries, ended } = tail;
  tail.entries = [];
  tail.ended = [];
  try {
    if (entries.length > 0 && isAttached()) tail.events.deliver(entries);
    if (ended.length > 0 && isAttached()) tail.events.ended(ended);
  } catch (thrown) {
    log(`A mailbox's events could not be handed on: ${String(thrown)}`);
  }
}
