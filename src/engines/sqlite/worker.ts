/**
 * The thread that owns the database. It takes batches of operations, carries each out in one transaction and answers when that is durable;
 * between batches it keeps the file in order.
 * @module
 */
import { statfsSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import {
  type AppendItem,
  type AppendResult,
  type Batch,
  type FromWorker,
  MAX_BATCH_BYTES,
  NOT_STORED,
  type Op,
  type Refusal,
  type Result,
  type ToWorker,
  type WorkerData,
  type WorkerOptions,
} from "./call.ts";
import { copyStore, removeCopy } from "./copy.ts";
import { Mark } from "./mark.ts";
import { cannotOpen, damaged, openDatabase } from "./open.ts";
import { Reserve } from "./reserve.ts";
import { Damaged, type Db, databaseFile, isDamage, sqliteCode, text } from "./schema.ts";
import { Store } from "./store.ts";

/**
 * Pages in the write-ahead log from which on they are written back into the database file. On a full disk that needs room too, and without it
 * the log could only grow, by every acknowledgement: so these pages, and those of one batch, are fewer than the reserve has. (On a full disk a batch
 * brings no mail; fresh mail that gets rows with it is no more than that.)
 */
const CHECKPOINT_PAGES = 1_000;
const QUIET_CHECKPOINT_PAGES = 100;
/** Steps of giving fresh mail its rows before a batch: who waits for it shall not wait for all of them. */
const MAX_FOLDS = 8;
/** Free pages, at least this many and a tenth of the file, from which on the file is made smaller, so many at a step. What comes next needs some, too. */
const FREE_PAGES = 256;
const FREE_SHARE = 10;
const VACUUM_PAGES = 256;

/** What goes on when the disk is full: at first all, then no new mail, at last nothing that writes. */
type Level = 0 | 1 | 2;

/** Operations that can change something. */
const WRITING: ReadonlySet<Op[0]> = new Set(["append", "each", "settle", "evict", "admit", "end", "sweep"]);

const NO_ROOM: Refusal = {
  refused: "store-full",
  message: "The disk of the store is full. Nothing was stored; try again when mail has been acknowledged, or the operator has made room.",
};

class Desk {
  readonly #db: Db;
  readonly #dir: string;
  readonly #store: Store;
  readonly #reserve: Reserve;
  readonly #log: string[] = [];
  readonly #mark: Mark;
  /** How many pages the write-ahead log has, and how many of them are in the file. */
  readonly #look: { get(): unknown };
  #hasShrunk = false;

  constructor(db: Db, options: WorkerOptions) {
    this.#db = db;
    this.#dir = options.dir;
    this.#store = new Store(db, options);
    this.#mark = new Mark(options.dir, this.#store);
    this.#reserve = new Reserve(options.dir, options.reserveBytes);
    removeCopy(options.dir);
    this.#look = db.prepare("PRAGMA wal_checkpoint(NOOP)").raw();
    if (!this.#reserve.restore()) this.#log.push(`The disk of ${options.dir} is full: new messages are refused until there is room again.`);
    // What a process that was killed has left gets its rows now, if there is room; it can be read and acknowledged without them, too.
    this.#foldAll();
    this.#store.resumeFresh();
  }

  get epoch(): string {
    return this.#store.epoch;
  }

  takeLog(): string[] {
    return this.#log.splice(0);
  }

  /** Carries out a batch. Throws only what must stop the process. */
  carryOut(batch: Batch): FromWorker {
    let level: Level = batch.ops.some(isAppend) && !this.#hasRoomFor(batch) ? 1 : 0;
    let apart = false;
    let wasFull = false;
    let isFolding = false;
    const startedAtMs = performance.now();
    for (;;) {
      try {
        this.#store.begin(batch.nowMs);
        // What fresh mail is to get rows shares the commit, and its sync.
        isFolding = true;
        for (let folds = 0; !wasFull && folds < MAX_FOLDS && this.#store.isToFold(false); folds++) this.#store.foldOldest();
        isFolding = false;
        const results = batch.ops.map((op, place) => this.#one(op, place, level, apart));
        this.#store.commit();
        const { happenings, dueMs, wrote, log, damages } = this.#store.outcome;
        if (wrote) this.#mark.note(this.#store.commits);
        const durationMs = performance.now() - startedAtMs;
        return { kind: "done", results, happenings, dueMs, wrote, durationMs, damages, log: [...this.takeLog(), ...log] };
      } catch (thrown) {
        this.#store.rollback();
        // What was asked for has nothing to do with it.
        if (isFolding && !isFull(thrown)) throw thrown;
        if (isFull(thrown)) {
          if (level === 2)
            return {
              kind: "done",
              results: batch.ops.map(() => NO_ROOM),
              happenings: [],
              dueMs: null,
              wrote: false,
              durationMs: 0,
              damages: this.#store.outcome.damages,
              log: this.takeLog(),
            };
          this.#makeRoom();
          level = wasFull ? 2 : 1;
          wasFull = true;
        } else if (isOfTheOp(thrown) && !apart) apart = true;
        else throw thrown;
      }
    }
  }

  /**
   * Gives the reserve up, and uses its room at once, before others do: what the log holds goes into the file, and the log is room again for
   * acknowledgements, however often. That needs room on the disk for new pages only, of which there are none from then on.
   */
  #makeRoom(): void {
    if (this.#reserve.isThere) this.#log.push("The disk is full: new messages are refused until there is room again. Acknowledgements go on.");
    this.#reserve.release();
    try {
      this.#db.pragma("wal_checkpoint(PASSIVE)");
    } catch (thrown) {
      if (!isFull(thrown)) throw thrown;
    }
  }

  #hasRoomFor({ bytes }: Batch): boolean {
    if (!this.#reserve.restore() && !this.#hasRoomInside()) return false;
    if (bytes <= MAX_BATCH_BYTES) return true;
    // One call of that size: in the log and in the file.
    const { bavail, bsize } = statfsSync(this.#dir);
    return bavail * bsize > 2 * bytes;
  }

  /** Whether the file itself has as many free pages as the reserve would keep: room made by acknowledgements counts like room on the disk. */
  #hasRoomInside(): boolean {
    return (
      Number(this.#db.pragma("freelist_count", { simple: true })) * Number(this.#db.pragma("page_size", { simple: true })) >= this.#reserve.bytes
    );
  }

  #one(op: Op, place: number, level: Level, apart: boolean): Result {
    const isWriting = WRITING.has(op[0]);
    if ((level >= 1 && isAppend(op)) || (level === 2 && isWriting)) return NO_ROOM;
    if (!apart) return this.#store.run(op, place);
    if (op[0] === "each") return op[1].map((item) => this.#oneItem(item, place));
    return this.#oneApart(op, place);
  }

  #oneItem(item: AppendItem, place: number): AppendResult | Refusal {
    const result = this.#oneApart(["append", [item]], place) as readonly AppendResult[] | Refusal;
    return "refused" in result ? result : (result[0] ?? NOT_STORED);
  }

  #oneApart(op: Op, place: number): Result {
    try {
      return this.#store.runApart(op, place);
    } catch (thrown) {
      if (!isOfTheOp(thrown)) throw thrown;
      this.#log.push(`An operation (${op[0]}) could not be carried out: ${text(thrown)}`);
      return { refused: "internal", message: `The store could not carry this out (${text(thrown)}). Nothing of it was stored.` };
    }
  }

  /**
   * Upkeep after an answer has gone out.
   * @param load  whether nobody has asked for anything for a while, or a batch waits already, which then gives fresh mail its rows itself
   * @returns whether there is more to do at the next quiet moment
   */
  rest(load: "quiet" | "idle" | "busy"): boolean {
    const isQuiet = load === "quiet";
    for (let folds = 0; load !== "busy" && folds < MAX_FOLDS && this.#store.isToFold(false) && this.#fold(); folds++) {}
    if (isQuiet && this.#store.isToFold(true) && this.#fold() && this.#store.isToFold(true)) return true;
    try {
      const [, logged, checkpointed] = this.#look.get() as [number, number, number];
      const pages = logged - checkpointed;
      // The file itself gets smaller when a checkpoint follows.
      if (pages >= (isQuiet ? QUIET_CHECKPOINT_PAGES : CHECKPOINT_PAGES) || this.#hasShrunk) this.#db.pragma("wal_checkpoint(PASSIVE)");
      this.#hasShrunk = false;
      if (!isQuiet) return false;
      const free = Number(this.#db.pragma("freelist_count", { simple: true }));
      // With a full disk every page counts: what is given back makes room for the reserve, and so for new mail.
      const isWorth = this.#reserve.isThere
        ? free >= FREE_PAGES && free * FREE_SHARE >= Number(this.#db.pragma("page_count", { simple: true }))
        : free >= QUIET_CHECKPOINT_PAGES;
      if (!isWorth) return false;
      this.#db.exec(`PRAGMA incremental_vacuum(${VACUUM_PAGES})`);
      this.#hasShrunk = true;
      return true;
    } catch (thrown) {
      if (!isFull(thrown)) throw thrown;
      if (this.#db.inTransaction) this.#db.exec("ROLLBACK");
      this.#makeRoom();
      return false;
    }
  }

  /** Gives the oldest fresh mail its rows. @returns whether there was room for them */
  #fold(): boolean {
    return this.#ifRoom(() => {
      this.#store.fold();
      this.#mark.note(this.#store.commits);
    });
  }

  /** Gives all fresh mail its rows; from then on none is fresh, until the store is told so. @returns whether there was room for them */
  #foldAll(): boolean {
    return this.#ifRoom(() => this.#store.pauseFresh());
  }

  /** @returns whether there was room on the disk; if not, nothing was changed */
  #ifRoom(work: () => void): boolean {
    try {
      work();
      return true;
    } catch (thrown) {
      this.#store.rollback();
      if (!isFull(thrown)) throw thrown;
      this.#makeRoom();
      return false;
    }
  }

  /** Copies the store, between batches. Never throws. */
  async copy(): Promise<Refusal | null> {
    // A copy is whole without fresh mail, as a store that was closed.
    if (!this.#foldAll()) {
      this.#store.resumeFresh();
      return NO_ROOM;
    }
    // Twice the reserve: the copy shall not be what fills the disk.
    const refusal = await copyStore(this.#db, this.#dir, 2 * this.#reserve.bytes);
    this.#store.resumeFresh();
    return refusal;
  }

  close(): void {
    // Where there is no room, the next start does it.
    this.#foldAll();
    this.#mark.note(this.#store.commits);
    this.#db.close();
    this.#mark.close();
  }
}

function isAppend(op: Op): boolean {
  return op[0] === "append" || op[0] === "each";
}

function isFull(thrown: unknown): boolean {
  return sqliteCode(thrown)?.startsWith("SQLITE_FULL") ?? false;
}

/** Whether an error comes from what was asked, and not from the store. */
function isOfTheOp(thrown: unknown): boolean {
  if (thrown instanceof Damaged) return false;
  const code = sqliteCode(thrown);
  return code === undefined || /^SQLITE_(CONSTRAINT|TOOBIG|MISMATCH|RANGE)/.test(code);
}

function serve(port: NonNullable<typeof parentPort>, options: WorkerData): void {
  const say = (message: FromWorker) => port.postMessage(message);
  let db: Db | undefined;
  let desk: Desk;
  try {
    db = openDatabase(options.dir);
    desk = new Desk(db, options);
  } catch (thrown) {
    db?.close();
    say({ kind: "refused", message: cannotOpen(thrown, options.dir, databaseFile(options.dir)).message });
    port.close();
    return;
  }
  const failed = (thrown: unknown) => {
    // From here on nothing is carried out any more: what the disk holds is what was answered, and perhaps the batch that failed.
    const isRot = isDamage(thrown);
    const message = isRot ? damaged(options.dir, text(thrown)).message : `${sqliteCode(thrown) ?? "error"}: ${text(thrown)}`;
    say({ kind: "failed", message, isDamaged: isRot, log: desk.takeLog() });
    port.close();
  };
  let batches = 0;
  port.on("message", (message: ToWorker) => {
    try {
      switch (message.kind) {
        case "batch":
          batches = (batches + 1) | 0;
          say(desk.carryOut(message.batch));
          desk.rest(Atomics.load(options.batches, 0) === batches ? "idle" : "busy");
          break;
        case "rest":
          say({ kind: "rested", more: desk.rest("quiet"), log: desk.takeLog() });
          break;
        case "copy":
          desk.copy().then((refusal) => say({ kind: "copied", refusal }), failed);
          break;
        case "close":
          desk.close();
          say({ kind: "closed" });
          port.close();
          break;
      }
    } catch (thrown) {
      failed(thrown);
    }
  });
  say({ kind: "open", epoch: desk.epoch, log: desk.takeLog() });
}

if (parentPort) serve(parentPort, workerData as WorkerData);
