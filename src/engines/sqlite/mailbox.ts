/**
 * A mailbox that is attached: what is asked of the store's thread for it, and what there is to tell of it.
 * @module
 */
import type { Attachment, Ended, Entry, Gap, MailboxEvents, Page, Settlement } from "../../engine.ts";
import type { Epoch, ReceiverId, Seq, SessionId, UserId } from "../../protocol.ts";
import type { Tail } from "../../tail.ts";
import type { ResultOf } from "./call.ts";
import type { StoreThread } from "./thread.ts";
import { checkText, checkWhole, toChange, toEnded, toEntry, toGaps } from "./value.ts";

/** A page with so many gaps is full: whoever missed very much is told of it page by page. */
const MAX_GAPS = 1_000;

/** One object for both sides: there is one for each user who is there. */
export class AttachedMailbox implements Attachment, Tail {
  readonly user: UserId;
  readonly events: MailboxEvents;
  readonly epoch: Epoch;
  head: Seq = 0;
  /** Whether the thread has carried out the attachment: it is told of what came after that. */
  isLive = false;
  entries: Entry[] = [];
  ended: Ended[] = [];
  readonly #thread: StoreThread;
  readonly #detach: (mailbox: AttachedMailbox) => Promise<void>;

  constructor(user: UserId, events: MailboxEvents, epoch: Epoch, thread: StoreThread, detach: (mailbox: AttachedMailbox) => Promise<void>) {
    this.user = user;
    this.events = events;
    this.epoch = epoch;
    this.#thread = thread;
    this.#detach = detach;
  }

  async read(request: Parameters<Attachment["read"]>[0]): Promise<Page> {
    const session = checkText(request.session, "session");
    const [limit, maxBytes] = [checkWhole(request.limit, "limit"), checkWhole(request.maxBytes, "maxBytes")];
    let upto = checkWhole(request.after, "after");
    let bytes = 0;
    const entries: Entry[] = [];
    const gaps: Gap[] = [];
    // One step looks at a bounded number of rows; a mailbox with very many endings takes several, and others get their turn between them.
    for (;;) {
      const op = ["read", this.user, session, upto, limit - entries.length, maxBytes - bytes] as const;
      const step = await this.#thread.call<ResultOf["read"]>(op, 100);
      for (const row of step.entries) {
        entries.push(toEntry(row));
        bytes += Buffer.byteLength(row[3]);
      }
      gaps.push(...toGaps(step.gaps));
      upto = step.lookedAt;
      if (!step.more || entries.length >= limit || bytes >= maxBytes || gaps.length >= MAX_GAPS) return { entries, gaps, upto };
    }
  }

  async settle(changes: readonly Settlement[], session: SessionId): Promise<readonly Ended[]> {
    const op = ["settle", this.user, checkText(session, "session"), changes.map(toChange)] as const;
    const weight = changes.reduce((sum, change) => sum + ("seqs" in change ? change.seqs.length : 10), 1);
    return (await this.#thread.call<ResultOf["settle"]>(op, weight)).map(toEnded);
  }

  async held(receiver: ReceiverId, session: SessionId): Promise<readonly Seq[]> {
    return this.#thread.call(["held", this.user, checkText(session, "session"), checkText(receiver, "receiver")], 1);
  }

  detach(): Promise<void> {
    return this.#detach(this);
  }
}
