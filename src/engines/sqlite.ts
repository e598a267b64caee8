/**
 * The embedded engine: one SQLite database in a data folder, owned by one worker thread.
 *
 * This side gathers what is asked for and hands it to the worker as one batch: at once while the worker is idle, and with the next batch
 * while it is busy. So a lone caller waits for one sync of the disk, and sixty-four share one. When much is asked for, the next batch lies ready
 * while the worker is at one, and the two threads need not wait for each other.
 * @module
 */
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import type {
  Addressed,
  Appended,
  Attachment,
  BackupFile,
  CommitDone,
  Ended,
  Engine,
  EngineFailed,
  Entry,
  Gap,
  MailboxEvents,
  MessageState,
  Page,
  SessionEnd,
  Settlement,
  Totals,
} from "../engine.ts";
import { asHandoverError, HandoverError } from "../errors.ts";
import type { Epoch, MessageId, Seq, SessionId, UserId } from "../protocol.ts";
import { SetBack } from "../set-back.ts";
import { type Tail, tell } from "../tail.ts";
import type { AppendItem, FromWorker, Happening, Op, Result, ResultOf, ToWorker, UnsettledRow, WorkerData, WorkerOptions } from "./sqlite/call.ts";
import { COPY, MAX_BATCH_BYTES } from "./sqlite/call.ts";
import {
  checkText,
  checkWhole,
  countMessages,
  toAddressed,
  toAppended,
  toChange,
  toEnded,
  toEntry,
  toGaps,
  toItem,
  toSessionEnd,
  toState,
} from "./sqlite/value.ts";

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

/** A timer sleeps no longer than this, so that a clock that is set anew does no harm. */
const MAX_SLEEP_MS = 60_000;
/** Two sweeps are this far apart at least. */
const MIN_SLEEP_MS = 10;
/** Upkeep of the file after so long; its steps follow one another after so long. */
const REST_MS = 1_000;
const REST_STEP_MS = 20;
/** Batches that the worker has at most; and how much must have come, in deliveries, to make one ahead: little of it shares the next sync instead. */
const MAX_SENT = 2;
const AHEAD_WEIGHT = 256;
/** A page with so many gaps is full: whoever missed very much is told of it page by page. */
const MAX_GAPS = 1_000;
/** What a delivery takes in the file, its keys and its part of the indexes included; not more than this. */
const DELIVERY_BYTES = 300;

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

interface Asked {
  readonly op: Op;
  /** How much work it is, in deliveries that are stored. */
  readonly weight: number;
  /** Takes the result, in the order of the batch; throws nothing. */
  readonly done: (result: Result) => void;
  readonly failed: (cause: HandoverError) => void;
}

interface LiveTail extends Tail {
  /** Whether the worker has carried out the attachment: it is told of what came after that. */
  isLive: boolean;
}

class Sqlite implements SqliteEngine {
  readonly name = "sqlite";
  readonly supports = { durable: "power", manyNodes: false, topic: true, takeBack: true, state: true, receipts: false } as const;
  commits = 0;
  damages = 0;

  readonly #workerOptions: WorkerOptions;
  readonly #commitTimeoutMs: number;
  readonly #now: () => number;
  readonly #log: (line: string) => void;
  readonly #committed: ((commit: CommitDone) => void) | undefined;
  readonly #damaged: ((count: number) => void) | undefined;
  readonly #tails = new Map<UserId, LiveTail>();
  #worker: Worker | undefined;
  #epoch = "" as Epoch;
  #state: "new" | "open" | "closing" | "closed" | "failed" = "new";
  #failed: EngineFailed = () => {};
  #queue: Asked[] = [];
  #queueWeight = 0;
  /** Batches that the worker has, the one that it is at first. */
  readonly #sent: (readonly Asked[])[] = [];
  /** How many were posted: {@link WorkerData.batches}. */
  readonly #batches = new Int32Array(new SharedArrayBuffer(4));
  #isFlushPlanned = false;
  #withNews = new Set<LiveTail>();
  #watchdog: NodeJS.Timeout | undefined;
  #sweepTimer: NodeJS.Timeout | undefined;
  #sweepAtMs = Number.POSITIVE_INFINITY;
  #sweeps = 0;
  readonly #setBack: SetBack;
  /** By how much the time of day was set back, as far as no sweep knows it; at first nobody does. */
  #setBackMs: number | null = 0;
  #restTimer: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  #whenIdle: (() => void) | undefined;
  #whenClosed: (() => void) | undefined;
  #copied: ((error?: HandoverError) => void) | undefined;

  constructor(options: SqliteOptions) {
    this.#workerOptions = {
      dir: options.dir,
      mailboxMaxMessages: options.mailboxMaxMessages ?? 10_000,
      mailboxMaxBytes: options.mailboxMaxBytes ?? 64 * 1024 * 1024,
      maxAttempts: options.maxAttempts ?? 10,
      reserveBytes: options.reserveBytes ?? 8 * 1024 * 1024,
    };
    this.#commitTimeoutMs = options.commitTimeoutMs ?? 4_000;
    this.#now = options.now ?? Date.now;
    this.#setBack = new SetBack(this.#now);
    this.#log = options.log ?? ((line) => console.error(line));
    this.#committed = options.committed;
    this.#damaged = options.damaged;
  }

  async open(failed: EngineFailed): Promise<void> {
    if (this.#state !== "new") throw new HandoverError("store-unavailable", "The store was opened before; make a new engine to open it again.");
    this.#failed = failed;
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const workerData: WorkerData = { ...this.#workerOptions, batches: this.#batches };
    const worker = new Worker(new URL(`./sqlite/worker.${extension}`, import.meta.url), { workerData, name: "handover-store" });
    this.#worker = worker;
    await new Promise<void>((resolve, reject) => {
      const refuse = (message: string) => {
        this.#state = "closed";
        reject(new HandoverError("store-unavailable", message));
      };
      worker.once("message", (message: FromWorker) => {
        if (message.kind !== "open") return refuse(message.kind === "refused" ? message.message : "The store's thread did not begin as it should.");
        this.#epoch = message.epoch as Epoch;
        this.#state = "open";
        for (const line of message.log) this.#log(line);
        worker.on("message", (next: FromWorker) => this.#receive(next));
        resolve();
      });
      worker.on("error", (cause) => {
        if (this.#state === "new") refuse(`The store's thread did not begin: ${cause.message}`);
        else this.#fail(`The store's thread ended with an error: ${cause.message}`, cause);
      });
      worker.once("exit", () => {
        this.#whenClosed?.();
        if (this.#state === "new") refuse("The store's thread ended before it had begun.");
        else if (this.#state !== "closed") this.#fail("The store's thread has ended.");
      });
    });
    // What came due while nobody looked: one step now, and if there is more, the timer goes on with it.
    if (await this.#sweepStep()) this.#sweepBy(this.#now());
  }

  async append(batch: readonly Addressed[]): Promise<readonly Appended[]> {
    if (batch.length === 0) return [];
    const items = batch.map(toItem);
    return new Promise((resolve, reject) => {
      this.#ask(["append", items], weightOf(items), reject, (results: ResultOf["append"]) => {
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
      this.#ask(["each", items], weightOf(items), none, (results: ResultOf["each"]) => {
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
    if (this.#tails.has(user)) throw new HandoverError("internal", `The mailbox of ${user} is attached already; detach first.`);
    const tail: LiveTail = { user, events, isLive: false, entries: [], ended: [] };
    // Taken at once, so that a second attachment is refused; news are told from the worker's answer on.
    this.#tails.set(user, tail);
    const head = await new Promise<Seq>((resolve, reject) => {
      const forget = (cause: HandoverError) => {
        if (this.#tails.get(user) === tail) this.#tails.delete(user);
        reject(cause);
      };
      this.#ask(["attach", checkText(user, "user")], 1, forget, (answer: ResultOf["attach"]) => {
        tail.isLive = true;
        resolve(answer);
      });
    });
    return {
      epoch: this.#epoch,
      head,
      read: (request) => this.#read(user, request),
      settle: (changes, session) => this.#settle(user, changes, session),
      held: (receiver, session) => this.#call(["held", user, checkText(session, "session"), checkText(receiver, "receiver")], 1),
      detach: () => this.#detach(tail),
    };
  }

  async #read(user: UserId, request: Parameters<Attachment["read"]>[0]): Promise<Page> {
    const session = checkText(request.session, "session");
    const [limit, maxBytes] = [checkWhole(request.limit, "limit"), checkWhole(request.maxBytes, "maxBytes")];
    let upto = checkWhole(request.after, "after");
    let bytes = 0;
    const entries: Entry[] = [];
    const gaps: Gap[] = [];
    // One step looks at a bounded number of rows; a mailbox with very many endings takes several, and others get their turn between them.
    for (;;) {
      const op = ["read", user, session, upto, limit - entries.length, maxBytes - bytes] as const;
      const step = await this.#call<ResultOf["read"]>(op, 100);
      for (const row of step.entries) {
        entries.push(toEntry(row));
        bytes += Buffer.byteLength(row[3]);
      }
      gaps.push(...toGaps(step.gaps));
      upto = step.lookedAt;
      if (!step.more || entries.length >= limit || bytes >= maxBytes || gaps.length >= MAX_GAPS) return { entries, gaps, upto };
    }
  }

  async #settle(user: UserId, changes: readonly Settlement[], session: SessionId): Promise<readonly Ended[]> {
    const op = ["settle", user, checkText(session, "session"), changes.map(toChange)] as const;
    const weight = changes.reduce((sum, change) => sum + ("seqs" in change ? change.seqs.length : 10), 1);
    return (await this.#call<ResultOf["settle"]>(op, weight)).map(toEnded);
  }

  async #detach(tail: LiveTail): Promise<void> {
    if (this.#tails.get(tail.user) !== tail) return;
    this.#tails.delete(tail.user);
    // A store that is gone need not be told.
    if (this.#state === "open") await this.#call(["detach", tail.user], 1).catch(() => {});
  }

  async find(id: MessageId): Promise<MessageState | undefined> {
    const found = await this.#call<ResultOf["find"]>(["find", checkText(id, "id")], 1);
    return found ? toState(found) : undefined;
  }

  async evict(id: MessageId): Promise<number> {
    return this.#call(["evict", checkText(id, "id")], 10);
  }

  async admitSession(session: SessionId, user: UserId, untilMs: number): Promise<boolean> {
    return this.#call(["admit", checkText(session, "session"), checkText(user, "user"), checkWhole(untilMs, "untilMs")], 1);
  }

  async usersOfSession(session: SessionId, limit: number): Promise<readonly UserId[]> {
    return this.#call<ResultOf["users"]>(["users", checkText(session, "session"), checkWhole(limit, "limit")], 1) as Promise<readonly UserId[]>;
  }

  async endSession(session: SessionId): Promise<SessionEnd> {
    return toSessionEnd(await this.#call<ResultOf["end"]>(["end", checkText(session, "session")], 100));
  }

  async totals(): Promise<Totals> {
    return this.#call(["totals"], 1);
  }

  async unsettled(): Promise<readonly Addressed[]> {
    const rows: UnsettledRow[] = [];
    let after: ResultOf["unsettled"]["after"] = ["", 0];
    while (after) {
      const step: ResultOf["unsettled"] = await this.#call<ResultOf["unsettled"]>(["unsettled", after[0], after[1]], 1_000);
      rows.push(...step.rows);
      after = step.after;
    }
    return toAddressed(rows, this.#now());
  }

  async backup(): Promise<BackupFile> {
    if (this.#state !== "open") throw new HandoverError("store-unavailable", "The store is not open.");
    if (this.#copied) throw new HandoverError("rate-limited", "Another backup is being made; wait until it is done.");
    const { dir } = this.#workerOptions;
    await new Promise<void>((resolve, reject) => {
      this.#copied = (error) => {
        this.#copied = undefined;
        error ? reject(error) : resolve();
      };
      this.#worker?.postMessage({ kind: "copy" } satisfies ToWorker);
    });
    const handle = await open(join(dir, COPY));
    // Whoever reads it has it; when this process ends, nothing is left.
    await rm(join(dir, COPY));
    return { bytes: (await handle.stat()).size, content: handle.createReadStream() };
  }

  async sweep(): Promise<void> {
    this.#sweeps += 1;
    try {
      while (await this.#sweepStep()) {}
    } finally {
      this.#sweeps -= 1;
    }
  }

  #sweepStep(isFirst = false): Promise<boolean> {
    const setBackMs = this.#setBackMs;
    this.#setBackMs = null;
    return new Promise((resolve, reject) => {
      const failed = (cause: HandoverError) => {
        if (setBackMs !== null) this.#setBackMs = (this.#setBackMs ?? 0) + setBackMs;
        reject(cause);
      };
      const take = (isMore: boolean) => {
        // The answer to this batch says anew when the next one is due.
        this.#sweepAtMs = Number.POSITIVE_INFINITY;
        resolve(isMore);
      };
      this.#ask(["sweep", setBackMs], 1_000, failed, take, isFirst);
    });
  }

  /** Where the time of day was set back, what a nack delays comes so much earlier: before anything is done by the new time. */
  #lookAtClock(): void {
    const byMs = this.#setBack.take();
    if (byMs === 0) return;
    this.#setBackMs = (this.#setBackMs ?? 0) + byMs;
    this.#sweepStep(true).then(
      (isMore) => isMore && this.#sweepBy(this.#now()),
      () => this.#sweepBy(this.#now() + 1_000),
    );
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const worker = this.#worker;
    if (this.#state === "open" && worker) {
      this.#state = "closing";
      if (!this.#isIdle) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
      // What failed on the way has said so to its callers.
      if (this.#isFailed()) return;
      this.#stopTimers();
      this.#tails.clear();
      const closed = new Promise<void>((resolve) => (this.#whenClosed = resolve));
      this.#watch("The store did not close in time.");
      worker.postMessage({ kind: "close" } satisfies ToWorker);
      await closed;
      this.#copied?.(new HandoverError("store-unavailable", "The store was closed before the backup was made."));
      clearTimeout(this.#watchdog);
      if (!this.#isFailed()) this.#state = "closed";
    } else if (this.#state === "new") this.#state = "closed";
  }

  #isFailed(): boolean {
    return this.#state === "failed";
  }

  #call<R extends Result>(op: Op, weight: number): Promise<R> {
    return new Promise((resolve, reject) => this.#ask(op, weight, reject, (result: R) => resolve(result)));
  }

  /** Queues an operation. `take` gets its result; `reject` why there is none. Never throws. */
  #ask<R extends Result>(op: Op, weight: number, reject: (cause: HandoverError) => void, take: (result: R) => void, isFirst = false): void {
    if (this.#state !== "open") {
      const why = this.#state === "failed" ? "has failed; the server must be started again" : this.#state === "new" ? "is not open yet" : "is closed";
      reject(new HandoverError("store-unavailable", `The store ${why}. Nothing was stored.`));
      return;
    }
    const done = (result: Result) => {
      if (typeof result === "object" && result !== null && "refused" in result) reject(new HandoverError(result.refused, result.message));
      else take(result as R);
    };
    this.#queue[isFirst ? "unshift" : "push"]({ op, weight, done, failed: reject });
    this.#queueWeight += weight;
    if (!this.#mayFlush || this.#isFlushPlanned) return;
    this.#isFlushPlanned = true;
    // At the end of this turn: what one read of the sockets brought goes together.
    setImmediate(() => {
      this.#isFlushPlanned = false;
      this.#flush();
    });
  }

  get #isIdle(): boolean {
    return this.#sent.length === 0 && this.#queue.length === 0;
  }

  /** Whether the worker shall have another batch: when it has none, and, so that it need not wait for this thread, a large one ahead. */
  get #mayFlush(): boolean {
    return this.#sent.length === 0 || (this.#sent.length < MAX_SENT && this.#queueWeight >= AHEAD_WEIGHT);
  }

  #flush(): void {
    if (!this.#mayFlush || this.#queue.length === 0 || this.#isFailed()) return;
    this.#lookAtClock();
    let weight = 0;
    let count = 0;
    for (const asked of this.#queue) {
      if (count > 0 && (weight + asked.weight) * DELIVERY_BYTES > MAX_BATCH_BYTES) break;
      weight += asked.weight;
      count += 1;
    }
    const batch = count === this.#queue.length ? this.#queue : this.#queue.slice(0, count);
    this.#queue = count === this.#queue.length ? [] : this.#queue.slice(count);
    this.#queueWeight -= weight;
    this.#sent.push(batch);
    if (this.#sent.length === 1) this.#watchCommit();
    const ops = batch.map((asked) => asked.op);
    Atomics.add(this.#batches, 0, 1);
    this.#worker?.postMessage({ kind: "batch", batch: { nowMs: this.#now(), ops, bytes: weight * DELIVERY_BYTES } } satisfies ToWorker);
  }

  #receive(message: FromWorker): void {
    if (this.#isFailed()) return;
    if ("log" in message) for (const line of message.log) this.#log(line);
    switch (message.kind) {
      case "done":
        this.#finish(message);
        return;
      case "rested":
        if (message.more) this.#restSoon(REST_STEP_MS);
        return;
      case "failed":
        if (message.isDamaged) this.#end(new HandoverError("store-unavailable", message.message));
        else this.#fail(`The store cannot be written any more (${message.message}).`);
        return;
      case "copied":
        this.#copied?.(message.refusal ? new HandoverError(message.refusal.refused, message.refusal.message) : undefined);
        return;
      case "closed":
        this.#state = "closed";
        this.#whenClosed?.();
        return;
    }
  }

  #finish(message: Extract<FromWorker, { kind: "done" }>): void {
    const batch = this.#sent.shift() ?? [];
    if (message.damages > this.damages) this.#damaged?.(message.damages - this.damages);
    this.damages = message.damages;
    clearTimeout(this.#watchdog);
    if (this.#sent.length > 0) this.#watchCommit();
    // The next batch first: the worker shall not wait while the results of this one are handed out.
    this.#flush();
    if (message.wrote) {
      this.commits += 1;
      const messages = batch.reduce((sum, { op }, place) => sum + countMessages(op, message.results[place]), 0);
      this.#committed?.({ messages, durationMs: message.durationMs });
      this.#restSoon(REST_MS);
    }
    let next = 0;
    for (const [place, asked] of batch.entries()) {
      const result = message.results[place];
      if (result === undefined) asked.failed(new HandoverError("internal", "The store's thread gave no answer to this."));
      else asked.done(result);
      for (let happening = message.happenings[next]; happening && happening[0] === place; happening = message.happenings[next]) {
        this.#hear(happening);
        next += 1;
      }
    }
    if (message.dueMs !== null) this.#sweepBy(message.dueMs);
    for (const tail of this.#withNews) tell(tail, () => this.#tails.get(tail.user) === tail, this.#log);
    this.#withNews.clear();
    if (this.#isIdle) this.#whenIdle?.();
  }

  #tailOf(user: string): LiveTail | undefined {
    const tail = this.#tails.get(user as UserId);
    return tail?.isLive ? tail : undefined;
  }

  #tellStored(message: Addressed, seqs: readonly number[]): void {
    for (const [place, { user, session }] of message.recipients.entries()) {
      const seq = seqs[place] ?? 0;
      const tail = seq > 0 ? this.#tailOf(user) : undefined;
      if (!tail) continue;
      tail.entries.push({ seq, id: message.id, deliveryCount: 1, event: message.event, ...(session === undefined ? {} : { session }) });
      this.#withNews.add(tail);
    }
  }

  #hear(happening: Happening): void {
    const tail = this.#tailOf(happening[2]);
    if (!tail) return;
    if (happening[1] === "again") tail.entries.push(toEntry(happening[3]));
    else tail.ended.push(toEnded(happening[3]));
    this.#withNews.add(tail);
  }

  #sweepBy(dueMs: number): void {
    if (this.#state !== "open" || dueMs >= this.#sweepAtMs) return;
    this.#sweepAtMs = dueMs;
    clearTimeout(this.#sweepTimer);
    const sleepMs = Math.min(Math.max(dueMs - this.#now(), MIN_SLEEP_MS), MAX_SLEEP_MS);
    this.#sweepTimer = setTimeout(() => {
      this.#sweepAtMs = Number.POSITIVE_INFINITY;
      this.#lookAtClock();
      if (this.#now() < dueMs) return this.#sweepBy(dueMs);
      // One that is at work goes on, and its last step says when the next is due. Two would make each other's commits longer.
      if (this.#sweeps > 0) return;
      // A full disk or a store that is closing: what is due stays due.
      this.sweep().catch(() => this.#sweepBy(this.#now() + 1_000));
    }, sleepMs).unref();
  }

  #restSoon(sleepMs: number): void {
    if (this.#state !== "open") return;
    this.#restTimer ??= setTimeout(() => {
      this.#restTimer = undefined;
      if (!this.#isIdle) this.#restSoon(REST_MS);
      else this.#worker?.postMessage({ kind: "rest" } satisfies ToWorker);
    }, sleepMs).unref();
  }

  #watchCommit(): void {
    this.#watch("A commit was not answered in time: the disk hangs.");
  }

  /** Fails the store when the worker does not answer in time. In two halves: a process that was stopped for a while is not a disk that hangs. */
  #watch(what: string): void {
    clearTimeout(this.#watchdog);
    const halfMs = this.#commitTimeoutMs / 2;
    this.#watchdog = setTimeout(() => {
      this.#watchdog = setTimeout(() => this.#fail(what), halfMs);
    }, halfMs);
  }

  #stopTimers(): void {
    clearTimeout(this.#watchdog);
    clearTimeout(this.#sweepTimer);
    clearTimeout(this.#restTimer);
  }

  /** The end of this engine: what is on the disk can be trusted, what will be written cannot. */
  #fail(what: string, cause?: unknown): void {
    const todo = `This process must stop and be started again when the disk of ${this.#workerOptions.dir} is in order; nothing that was accepted is lost.`;
    this.#end(new HandoverError("store-unavailable", `${what} ${todo}`, { cause }));
  }

  #end(error: HandoverError): void {
    if (this.#state === "failed" || this.#state === "closed") return;
    this.#state = "failed";
    this.#stopTimers();
    this.#worker?.unref();
    const asked = [...this.#sent.splice(0).flat(), ...this.#queue];
    this.#queue = [];
    this.#queueWeight = 0;
    for (const each of asked) each.failed(error);
    this.#copied?.(error);
    const tails = [...this.#tails.values()];
    this.#tails.clear();
    for (const tail of tails) {
      try {
        tail.events.lost(error);
      } catch (thrown) {
        this.#log(`The loss of a mailbox could not be handed on: ${String(thrown)}`);
      }
    }
    this.#whenIdle?.();
    this.#whenClosed?.();
    this.#failed(error);
  }
}
