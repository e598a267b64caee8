/**
 * The store's thread, from outside. What is asked of it is gathered and handed to it as one batch: at once while it is idle, and with the next batch
 * while it is busy. So a lone caller waits for one sync of the disk, and sixty-four share one. When much is asked for, the next batch lies ready
 * while it is at one, and the two threads need not wait for each other.
 * @module
 */
import { Worker } from "node:worker_threads";
import type { CommitDone } from "../../engine.ts";
import { HandoverError } from "../../errors.ts";
import type { FromWorker, Happening, Op, Result, ToWorker, WorkerData, WorkerOptions } from "./call.ts";
import { MAX_BATCH_BYTES } from "./call.ts";
import { countMessages } from "./value.ts";

/** Upkeep of the file after so long; its steps follow one another after so long. */
const REST_MS = 1_000;
const REST_STEP_MS = 20;
/** Batches that the worker has at most; and how much must have come, in deliveries, to make one ahead: little of it shares the next sync instead. */
const MAX_SENT = 2;
const AHEAD_WEIGHT = 256;
/** What a delivery takes in the file, its keys and its part of the indexes included; not more than this. */
export const DELIVERY_BYTES = 300;

/** What is said to who asks for something meanwhile. */
const NOT_OPEN = {
  new: "is not open yet",
  opening: "is not open yet",
  closing: "is closed",
  closed: "is closed",
  failed: "has failed; the server must be started again",
} as const;

export interface StoreThreadOptions extends WorkerOptions {
  /** How long it may take to answer, ms. */
  readonly timeoutMs: number;
  /** The clock, ms since the Unix epoch. */
  readonly now: () => number;
  /** Takes one line for the operator. */
  readonly log: (line: string) => void;
  /** Told of each commit. */
  readonly committed: ((commit: CommitDone) => void) | undefined;
  /** Told how much was found damaged on the disk. */
  readonly damaged: ((count: number) => void) | undefined;
  /** Told before a batch is put together: what is asked for now can be the first in it. */
  readonly beforeBatch: () => void;
  /** Told what a batch did to attached mailboxes, in its order among the results. */
  readonly happened: (happening: Happening) => void;
  /** Told when the results of a batch have been handed out. @param dueMs  when there is something to sweep, ms since the Unix epoch; null: nothing new */
  readonly answered: (dueMs: number | null) => void;
}

interface Asked {
  readonly op: Op;
  /** How much work it is, in deliveries that are stored. */
  readonly weight: number;
  /** Takes the result, in the order of the batch; throws nothing. */
  readonly done: (result: Result) => void;
  readonly failed: (cause: HandoverError) => void;
}

export class StoreThread {
  /** Commits, each with its sync, since it was opened. */
  commits = 0;
  /** What was found damaged since it was opened. */
  damages = 0;

  readonly #options: StoreThreadOptions;
  #worker: Worker | undefined;
  #state: "new" | "opening" | "open" | "closing" | "closed" | "failed" = "new";
  #opening: Promise<string> | undefined;
  #failed: (cause: HandoverError) => void = () => {};
  #queue: Asked[] = [];
  #queueWeight = 0;
  /** Batches that the worker has, the one that it is at first. */
  readonly #sent: (readonly Asked[])[] = [];
  /** How many were posted: {@link WorkerData.batches}. */
  readonly #batches = new Int32Array(new SharedArrayBuffer(4));
  #isFlushPlanned = false;
  #watchdog: NodeJS.Timeout | undefined;
  #restTimer: NodeJS.Timeout | undefined;
  #whenIdle: (() => void) | undefined;
  #whenClosed: (() => void) | undefined;
  #copied: ((error?: HandoverError) => void) | undefined;

  constructor(options: StoreThreadOptions) {
    this.#options = options;
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /**
   * Starts it, and opens the store.
   * @param failed  told once, when it cannot go on
   * @returns the store's epoch
   * @throws HandoverError store-unavailable, with what to do
   */
  async open(failed: (cause: HandoverError) => void): Promise<string> {
    if (this.#state !== "new") throw new HandoverError("store-unavailable", "The store was opened before; make a new engine to open it again.");
    this.#state = "opening";
    this.#failed = failed;
    this.#opening = this.#start();
    return this.#opening;
  }

  #start(): Promise<string> {
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const { dir, mailboxMaxMessages, mailboxMaxBytes, maxAttempts, reserveBytes } = this.#options;
    const workerData: WorkerData = { dir, mailboxMaxMessages, mailboxMaxBytes, maxAttempts, reserveBytes, batches: this.#batches };
    const worker = new Worker(new URL(`./worker.${extension}`, import.meta.url), { workerData, name: "handover-store" });
    this.#worker = worker;
    return new Promise<string>((resolve, reject) => {
      const refuse = (message: string) => {
        this.#state = "closed";
        reject(new HandoverError("store-unavailable", message));
      };
      worker.once("message", (message: FromWorker) => {
        if (message.kind !== "open") return refuse(message.kind === "refused" ? message.message : "The store's thread did not begin as it should.");
        this.#state = "open";
        for (const line of message.log) this.#options.log(line);
        worker.on("message", (next: FromWorker) => this.#receive(next));
        resolve(message.epoch);
      });
      worker.on("error", (cause) => {
        if (this.#state === "opening") refuse(`The store's thread did not begin: ${cause.message}`);
        else this.#fail(`The store's thread ended with an error: ${cause.message}`, cause);
      });
      worker.once("exit", () => {
        this.#whenClosed?.();
        if (this.#state === "opening") refuse("The store's thread ended before it had begun.");
        else if (this.#state !== "closed") this.#fail("The store's thread has ended.");
      });
    });
  }

  /** Asks for one thing. @param weight  how much work it is, in deliveries that are stored @throws HandoverError store-unavailable | what the store refuses it with */
  call<R extends Result>(op: Op, weight: number): Promise<R> {
    return new Promise((resolve, reject) => this.ask(op, weight, reject, (result: R) => resolve(result)));
  }

  /**
   * {@link call}, with the result at once in its place among those of its batch. Never throws.
   * @param take  gets the result; must not throw
   * @param isFirst  before all that waits
   */
  ask<R extends Result>(op: Op, weight: number, reject: (cause: HandoverError) => void, take: (result: R) => void, isFirst = false): void {
    if (this.#state !== "open") {
      reject(new HandoverError("store-unavailable", `The store ${NOT_OPEN[this.#state]}. Nothing was stored.`));
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

  /** Copies the store into its folder, as a file of its own. @throws HandoverError store-unavailable | store-full | rate-limited, while another is made */
  copy(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#state !== "open") return reject(new HandoverError("store-unavailable", "The store is not open."));
      if (this.#copied) return reject(new HandoverError("rate-limited", "Another backup is being made; wait until it is done."));
      this.#copied = (error) => {
        this.#copied = undefined;
        error ? reject(error) : resolve();
      };
      this.#post({ kind: "copy" });
    });
  }

  /**
   * Answers what was asked, closes the store and ends the thread. What failed on the way has said so to its callers.
   * @param answered  called when all is answered, before the store is closed
   */
  async close(answered: () => void): Promise<void> {
    if (this.#state === "new") this.#state = "closed";
    // What cannot be opened has said so to who opens it.
    await this.#opening?.catch(() => {});
    if (this.#state !== "open") return;
    this.#state = "closing";
    if (!this.#isIdle) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
    if (this.#isFailed()) return;
    clearTimeout(this.#restTimer);
    answered();
    const closed = new Promise<void>((resolve) => (this.#whenClosed = resolve));
    this.#watch("The store did not close in time.");
    this.#post({ kind: "close" });
    await closed;
    this.#copied?.(new HandoverError("store-unavailable", "The store was closed before the backup was made."));
    clearTimeout(this.#watchdog);
    if (!this.#isFailed()) this.#state = "closed";
  }

  #isFailed(): boolean {
    return this.#state === "failed";
  }

  #post(message: ToWorker): void {
    this.#worker?.postMessage(message);
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
    this.#options.beforeBatch();
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
    this.#post({ kind: "batch", batch: { nowMs: this.#options.now(), ops, bytes: weight * DELIVERY_BYTES } });
  }

  #receive(message: FromWorker): void {
    if (this.#isFailed()) return;
    if ("log" in message) for (const line of message.log) this.#options.log(line);
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
    if (message.damages > this.damages) this.#options.damaged?.(message.damages - this.damages);
    this.damages = message.damages;
    clearTimeout(this.#watchdog);
    if (this.#sent.length > 0) this.#watchCommit();
    // The next batch first: the worker shall not wait while the results of this one are handed out.
    this.#flush();
    if (message.wrote) {
      this.commits += 1;
      const messages = batch.reduce((sum, { op }, place) => sum + countMessages(op, message.results[place]), 0);
      this.#options.committed?.({ messages, durationMs: message.durationMs });
      this.#restSoon(REST_MS);
    }
    let next = 0;
    for (const [place, asked] of batch.entries()) {
      const result = message.results[place];
      if (result === undefined) asked.failed(new HandoverError("internal", "The store's thread gave no answer to this."));
      else asked.done(result);
      for (let happening = message.happenings[next]; happening && happening[0] === place; happening = message.happenings[next]) {
        this.#options.happened(happening);
        next += 1;
      }
    }
    this.#options.answered(message.dueMs);
    if (this.#isIdle) this.#whenIdle?.();
  }

  /** Upkeep, when nothing else is to do. */
  #restSoon(sleepMs: number): void {
    if (this.#state !== "open") return;
    this.#restTimer ??= setTimeout(() => {
      this.#restTimer = undefined;
      if (!this.#isIdle) this.#restSoon(REST_MS);
      else this.#post({ kind: "rest" });
    }, sleepMs).unref();
  }

  #watchCommit(): void {
    this.#watch("A commit was not answered in time: the disk hangs.");
  }

  /** Fails the store when the worker does not answer in time. In two halves: a process that was stopped for a while is not a disk that hangs. */
  #watch(what: string): void {
    clearTimeout(this.#watchdog);
    const halfMs = this.#options.timeoutMs / 2;
    this.#watchdog = setTimeout(() => {
      this.#watchdog = setTimeout(() => this.#fail(what), halfMs);
    }, halfMs);
  }

  /** The end: what is on the disk can be trusted, what will be written cannot. */
  #fail(what: string, cause?: unknown): void {
    const todo = `This process must stop and be started again when the disk of ${this.#options.dir} is in order; nothing that was accepted is lost.`;
    this.#end(new HandoverError("store-unavailable", `${what} ${todo}`, { cause }));
  }

  #end(error: HandoverError): void {
    if (this.#state === "failed" || this.#state === "closed") return;
    this.#state = "failed";
    clearTimeout(this.#watchdog);
    clearTimeout(this.#restTimer);
    this.#worker?.unref();
    const asked = [...this.#sent.splice(0).flat(), ...this.#queue];
    this.#queue = [];
    this.#queueWeight = 0;
    for (const each of asked) each.failed(error);
    this.#copied?.(error);
    this.#whenIdle?.();
    this.#whenClosed?.();
    this.#failed(error);
  }
}
