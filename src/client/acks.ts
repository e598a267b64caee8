/**
 * What is to be said about entries of the mailbox, until the server has it on its disk.
 * @module
 */
import type { AckForms } from "../protocol.ts";
import { backoffMs } from "./backoff.ts";
import { asHandoverError } from "./error.ts";
import type { Report } from "./listeners.ts";
import type { Wire } from "./wire.ts";

/** Processed; failed, again after so many seconds; or seen and not settled. */
export type Verdict = "acked" | "held" | { readonly retryAfter: number };

const MAX_SEQS = 1_000;

/**
 * Collects verdicts by sequence number. Those of one turn share a frame or request; one whose answer is lost is sent again (repeats are
 * harmless), until its epoch is over.
 */
export class Acks {
  readonly #report: Report;
  readonly #underWay = new Set<Promise<void>>();
  #waiting = new Map<number, Verdict>();
  #epoch: string | undefined;
  #wire: Wire | undefined;
  #isScheduled = false;
  #failures = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;

  constructor(report: Report) {
    this.#report = report;
  }

  add(seq: number, verdict: Verdict): void {
    this.#waiting.set(seq, verdict);
    this.#schedule();
  }

  /** From now on these numbers mean other entries: what was to be said of the old ones is forgotten. */
  begin(epoch: string | undefined): void {
    this.#epoch = epoch;
    this.#waiting = new Map();
  }

  /** Which wire to use; undefined: none, collect. */
  use(wire: Wire | undefined): void {
    this.#wire = wire;
    this.#failures = 0;
    clearTimeout(this.#retry);
    this.flush();
  }

  /** Resolves when what is ready now is answered, or has failed. Never rejects. */
  async settle(): Promise<void> {
    do {
      this.flush();
      await Promise.all(this.#underWay);
    } while (this.#wire && this.#failures === 0 && this.#underWay.size + this.#waiting.size > 0);
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => this.flush());
  }

  /** Passes on everything that is ready and not under way. */
  flush(): void {
    this.#isScheduled = false;
    const [wire, epoch] = [this.#wire, this.#epoch];
    while (wire && epoch !== undefined && this.#waiting.size > 0 && this.#underWay.size < wire.maxAcks) {
      const batch = [...this.#waiting].slice(0, MAX_SEQS);
      for (const [seq] of batch) this.#waiting.delete(seq);
      const passing = this.#pass(wire, epoch, batch).finally(() => {
        this.#underWay.delete(passing);
        if (this.#failures === 0) this.flush();
      });
      this.#underWay.add(passing);
    }
  }

  async #pass(wire: Wire, epoch: string, batch: readonly [number, Verdict][]): Promise<void> {
    try {
      await wire.ack(epoch, write(batch));
      this.#failures = 0;
    } catch (thrown) {
      const error = asHandoverError(thrown);
      const isFinal = !error.retryable && error.status !== 401;
      if (isFinal) this.#report(error);
      if (isFinal || epoch !== this.#epoch) return;
      // What was said since then about the same entry is newer.
      for (const [seq, verdict] of batch) if (!this.#waiting.has(seq)) this.#waiting.set(seq, verdict);
      if (wire !== this.#wire) return this.#schedule();
      clearTimeout(this.#retry);
      this.#retry = setTimeout(() => this.flush(), backoffMs(this.#failures++) + (error.retryAfterMs ?? 0));
    }
  }
}

function write(batch: readonly [number, Verdict][]): AckForms {
  const forms: { seqs?: unknown[]; hold?: unknown[]; nack?: unknown[] } = {};
  for (const [seq, verdict] of batch) {
    const form = verdict === "acked" ? "seqs" : verdict === "held" ? "hold" : "nack";
    forms[form] ??= [];
    forms[form].push(form === "nack" ? { seq, ...(verdict as object) } : seq);
  }
  return forms as AckForms;
}
