/**
 * The embedded engine: one SQLite database in a data folder, owned by one worker thread (`sqlite/thread.ts` is how it is asked, `sqlite/worker.ts`
 * what it does). Here is what an engine is: operations out of calls, their results, and the news of attached mailboxes.
 * @module
 */
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import type {
  Addressed,
  Appended,
  Attachment,
  BackupFile,
  CommitDone,
  Engine,
  EngineFailed,
  MailboxEvents,
  MessageState,
  SessionEnd,
  Totals,
} from "../engine.ts";
import { asHandoverError, HandoverError } from "../errors.ts";
import type { Epoch, MessageId, SessionId, UserId } from "../protocol.ts";
import { tell } from "../tail.ts";
import type { AppendItem, Happening, ResultOf, UnsettledRow } from "./sqlite/call.ts";
import { COPY } from "./sqlite/call.ts";
import { AttachedMailbox } from "./sqlite/mailbox.ts";
import { Sweeps } from "./sqlite/sweeps.ts";
import { DELIVERY_BYTES, StoreThread } from "./sqlite/thread.ts";
import { checkText, checkWhole, toAddressed, toAppended, toEnded, toEntry, toItem, toSessionEnd, toState } from "./sqlite/value.ts";

export interface SqliteOptions {
  /** The data folder; made on first use, mode 0700. */
  readonly dir: string;
  /** Most unsettled messages in a mailbox. */
  readonly mailboxMaxMessages?: number;
  /** Most bytes of unsettled events in a mailbox. */
  readonly mailboxMaxBytes?: number;
  /** How often a message is handed out before a nack makes it a dead letter. */
  readonly maxAttempts?: number;
  /** How long a commit may take before the store counts as failed, ms. Four seconds: all who wait are answered, and the process has ended, within five. */
  readonly commitTimeoutMs?: number;
  /** Room on the disk that is kept for acknowledgements when it is full; more than what waits in the log and what one batch adds (worker.ts). */
  readonly reserveBytes?: number;
  /** The clock, ms since the Unix epoch. */
  readonly now?: () => number;
  /** Takes one line for the operator. */
  readonly log?: (line: string) => void;
  /** Told of each commit, for the metrics. */
  readonly committed?: (commit: CommitDone) => void;
  /** Told how much was found damaged on the disk, for the metrics; each has a line in the log. */
  readonly damaged?: (count: number) => void;
}

/** The embedded engine, with what only it has. */
export interface SqliteEngine extends Engine {
  /** Does now what time has made due: expiry, return of nacked mail, purge. It happens by itself; for tests with a clock of their own. */
  sweep(): Promise<void>;
  backup(): Promise<BackupFile>;
  /**
   * All that is unsettled, in the order of its acceptance, each message with the recipients for whom it waits. What the store does not keep is
   * not told: idempotency keys, and when a message was accepted (now, instead).
   */
  unsettled(): Promise<readonly Addressed[]>;
  /** Commits, each with its sync, since it was opened. */
  readonly commits: number;
  /** Messages, and keys of messages, that were found damaged on the disk since it was opened: each has a line in the log, and no receiver. */
  readonly damages: number;
}

/** Makes an engine that stores in `options.dir`; nothing is opened before `open`. */
export function sqliteEngine(options: SqliteOptions): SqliteEngine {
  return new Sqlite(options);
}

/** Deliveries that these messages become, their texts counted as so many more. */
function weightOf(items: readonly AppendItem[]): number {
  let weight = 0;
  for (const [, , , bytes, , , , users] of items) weight += users.length + bytes / DELIVERY_BYTES;
  return weight;
}

class Sqlite implements SqliteEngine {
  readonly name = "sqlite";
  readonly supports = { durable: "power", manyNodes: false, topic: true, takeBack: true, state: true, receipts: false } as const;

  readonly #dir: string;
  readonly #now: () => number;
  readonly #log: (line: string) => void;
  readonly #thread: StoreThread;
  readonly #sweeps: Sweeps;
  readonly #attached = new Map<UserId, AttachedMailbox>();
  #withNews = new Set<AttachedMailbox>();
  #epoch = "" as Epoch;
  #closing: Promise<void> | undefined;

  constructor(options: SqliteOptions) {
    this.#dir = options.dir;
    this.#now = options.now ?? Date.now;
    this.#log = options.log ?? ((line) => console.error(line));
    this.#thread = new StoreThread({
      dir: options.dir,
      mailboxMaxMessages: options.mailboxMaxMessages ?? 10_000,
      mailboxMaxBytes: options.mailboxMaxBytes ?? 64 * 1024 * 1024,
      maxAttempts: options.maxAttempts ?? 10,
      reserveBytes: options.reserveBytes ?? 8 * 1024 * 1024,
      timeoutMs: options.commitTimeoutMs ?? 4_000,
      now: this.#now,
      log: this.#log,
      committed: options.committed,
      damaged: options.damaged,
      beforeBatch: () => this.#sweeps.lookAtClock(),
      happened: (happening) => this.#hear(happening),
      answered: (dueMs) => this.#tellNews(dueMs),
    });
    this.#sweeps = new Sweeps(this.#thread, this.#now);
  }

  get commits(): number {
    return this.#thread.commits;
  }

  get damages(): number {
    return this.#thread.damages;
  }

  async open(failed: EngineFailed): Promise<void> {
    this.#epoch = (await this.#thread.open((cause) => this.#lose(cause, failed))) as Epoch;
    await this.#sweeps.begin();
  }

  async append(batch: readonly Addressed[]): Promise<readonly Appended[]> {
    if (batch.length === 0) return [];
    const items = batch.map(toItem);
    return new Promise((resolve, reject) => {
      this.#thread.ask(["append", items], weightOf(items), reject, (results: ResultOf["append"]) => {
        resolve(items.map((item, place) => toAppended(item, results[place])));
        for (const [place, message] of batch.entries()) {
          const seqs = results[place];
          if (typeof seqs === "object" && message.expiresAtMs > message.acceptedAtMs) this.#tellStored(message, seqs);
        }
      });
    });
  }

  async appendEach(batch: readonly Addressed[]): Promise<readonly (Appended | HandoverError)[]> {
    const items: AppendItem[] = [];
    // What cannot be asked of the other thread takes none of the others with it.
    const asked = batch.map((message) => {
      try {
        items.push(toItem(message));
        return message;
      } catch (thrown) {
        return asHandoverError(thrown);
      }
    });
    if (items.length === 0) return asked as readonly HandoverError[];
    return new Promise((resolve) => {
      const none = (cause: HandoverError) => resolve(asked.map((each) => (each instanceof HandoverError ? each : cause)));
      this.#thread.ask(["each", items], weightOf(items), none, (results: ResultOf["each"]) => {
        let place = 0;
        const outcomes = asked.map((message) => {
          if (message instanceof HandoverError) return message;
          const [item, result] = [items[place], results[place]];
          place += 1;
          if (typeof result === "object" && "refused" in result) return new HandoverError(result.refused, result.message);
          if (typeof result === "object" && message.expiresAtMs > message.acceptedAtMs) this.#tellStored(message, result);
          return toAppended(item, result);
        });
        resolve(outcomes);
      });
    });
  }

  async attach(user: UserId, events: MailboxEvents): Promise<Attachment> {
    if (this.#attached.has(user)) throw new HandoverError("internal", `The mailbox of ${user} is attached already; detach first.`);
    const mailbox = new AttachedMailbox(user, events, this.#epoch, this.#thread, this.#detach);
    // Taken at once, so that a second attachment is refused; news are told from the worker's answer on.
    this.#attached.set(user, mailbox);
    await new Promise<void>((resolve, reject) => {
      const forget = (cause: HandoverError) => {
        if (this.#attached.get(user) === mailbox) this.#attached.delete(user);
        reject(cause);
      };
      this.#thread.ask(["attach", checkText(user, "user")], 1, forget, (head: ResultOf["attach"]) => {
        mailbox.head = head;
        mailbox.isLive = true;
        resolve();
      });
    });
    return mailbox;
  }

  readonly #detach = async (mailbox: AttachedMailbox): Promise<void> => {
    if (this.#attached.get(mailbox.user) !== mailbox) return;
    this.#attached.delete(mailbox.user);
    // A store that is gone need not be told.
    if (this.#thread.isOpen) await this.#thread.call(["detach", mailbox.user], 1).catch(() => {});
  };

  async find(id: MessageId): Promise<MessageState | undefined> {
    const found = await this.#thread.call<ResultOf["find"]>(["find", checkText(id, "id")], 1);
    return found ? toState(found) : undefined;
  }

  async evict(id: MessageId): Promise<number> {
    return this.#thread.call(["evict", checkText(id, "id")], 10);
  }

  async admitSession(session: SessionId, user: UserId, untilMs: number): Promise<boolean> {
    return this.#thread.call(["admit", checkText(session, "session"), checkText(user, "user"), checkWhole(untilMs, "untilMs")], 1);
  }

  async usersOfSession(session: SessionId, limit: number): Promise<readonly UserId[]> {
    return this.#thread.call<ResultOf["users"]>(["users", checkText(session, "session"), checkWhole(limit, "limit")], 1) as Promise<
      readonly UserId[]
    >;
  }

  async endSession(session: SessionId): Promise<SessionEnd> {
    return toSessionEnd(await this.#thread.call<ResultOf["end"]>(["end", checkText(session, "session")], 100));
  }

  async totals(): Promise<Totals> {
    return this.#thread.call(["totals"], 1);
  }

  async unsettled(): Promise<readonly Addressed[]> {
    const rows: UnsettledRow[] = [];
    let after: ResultOf["unsettled"]["after"] = ["", 0];
    while (after) {
      const step: ResultOf["unsettled"] = await this.#thread.call<ResultOf["unsettled"]>(["unsettled", after[0], after[1]], 1_000);
      rows.push(...step.rows);
      after = step.after;
    }
    return toAddressed(rows, this.#now());
  }

  async backup(): Promise<BackupFile> {
    await this.#thread.copy();
    const handle = await open(join(this.#dir, COPY));
    // Whoever reads it has it; when this process ends, nothing is left.
    await rm(join(this.#dir, COPY));
    return { bytes: (await handle.stat()).size, content: handle.createReadStream() };
  }

  sweep(): Promise<void> {
    return this.#sweeps.run();
  }

  close(): Promise<void> {
    this.#closing ??= this.#thread.close(() => {
      this.#sweeps.stop();
      this.#attached.clear();
    });
    return this.#closing;
  }

  #liveMailbox(user: string): AttachedMailbox | undefined {
    const mailbox = this.#attached.get(user as UserId);
    return mailbox?.isLive ? mailbox : undefined;
  }

  #tellStored(message: Addressed, seqs: readonly number[]): void {
    for (const [place, { user, session }] of message.recipients.entries()) {
      const seq = seqs[place] ?? 0;
      const mailbox = seq > 0 ? this.#liveMailbox(user) : undefined;
      if (!mailbox) continue;
      mailbox.entries.push({ seq, id: message.id, deliveryCount: 1, event: message.event, ...(session === undefined ? {} : { session }) });
      this.#withNews.add(mailbox);
    }
  }

  #hear(happening: Happening): void {
    const mailbox = this.#liveMailbox(happening[2]);
    if (!mailbox) return;
    if (happening[1] === "again") mailbox.entries.push(toEntry(happening[3]));
    else mailbox.ended.push(toEnded(happening[3]));
    this.#withNews.add(mailbox);
  }

  /** A batch has been answered. */
  #tellNews(dueMs: number | null): void {
    if (dueMs !== null) this.#sweeps.by(dueMs);
    for (const mailbox of this.#withNews) tell(mailbox, () => this.#attached.get(mailbox.user) === mailbox, this.#log);
    this.#withNews.clear();
  }

  /** The end of this engine: what is on the disk can be trusted, what will be written cannot. */
  #lose(cause: HandoverError, failed: EngineFailed): void {
    this.#sweeps.stop();
    const mailboxes = [...this.#attached.values()];
    this.#attached.clear();
    for (const { events } of mailboxes) {
      try {
        events.lost(cause);
      } catch (thrown) {
        this.#log(`The loss of a mailbox could not be handed on: ${String(thrown)}`);
      }
    }
    failed(cause);
  }
}
