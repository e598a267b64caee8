import { HOLD_BOUNDS } from "../../engine.ts";
import type { Ledger } from "./ledger.ts";
import type { MailboxRow, Statements } from "./statement.ts";

/** What receivers hold. Each method changes `holds` of the mailbox with what it writes. */
export class HoldBook {
  readonly #run: Statements;
  readonly #ledger: Ledger;

  constructor(run: Statements, ledger: Ledger) {
    this.#run = run;
    this.#ledger = ledger;
  }

  heldBy(box: MailboxRow, session: string, receiver: string): readonly number[] {
    const holder = this.#holder(box, session, receiver);
    return holder === undefined ? [] : this.#run.heldBy.all(holder).map(({ seq }) => seq);
  }

  /** @param seqs  of unsettled entries. @returns whether that was news */
  hold(box: MailboxRow, session: string, receiver: string, seqs: readonly number[], nowMs: number): boolean {
    if (seqs.length === 0) return false;
    const known = this.#holder(box, session, receiver);
    const holder = known ?? Number(this.#run.addHolder.run(box.id, session, receiver, nowMs).lastInsertRowid);
    const added = seqs.reduce((sum, seq) => sum + this.#run.addHold.run(box.id, seq, holder).changes, 0);
    if (added === 0) return false;
    if (known !== undefined) this.#run.useHolder.run(nowMs, holder);
    this.#ledger.touch(box).holds += added;
    let holders = known === undefined ? (this.#run.countHolders.get(box.id)?.n ?? 0) : 0;
    while (box.holds > HOLD_BOUNDS.holds || holders > HOLD_BOUNDS.receivers) {
      const oldest = this.#run.oldestHolder.get(box.id, holder);
      if (!oldest) break;
      this.#releaseAbove(box, oldest.id, 0);
      holders -= 1;
    }
    return true;
  }

  /** @returns whether there was anything */
  releaseAbove(box: MailboxRow, session: string, receiver: string, above: number): boolean {
    const holder = this.#holder(box, session, receiver);
    return holder !== undefined && this.#releaseAbove(box, holder, above);
  }

  /** A number that is not there any more is held by nobody. */
  drop(box: MailboxRow, seq: number): void {
    if (box.holds === 0) return;
    for (const { holder } of this.#run.dropHolds.all(box.id, seq)) {
      this.#ledger.touch(box).holds -= 1;
      this.#forgetIdle(holder);
    }
  }

  endSession(session: string): void {
    for (const { id, mailbox } of this.#run.holdersOfSession.all(session)) this.#releaseAbove(this.#ledger.mailbox(mailbox), id, 0);
  }

  #holder(box: MailboxRow, session: string, receiver: string): number | undefined {
    return box.holds === 0 ? undefined : this.#run.holder.get(box.id, session, receiver)?.id;
  }

  #releaseAbove(box: MailboxRow, holder: number, above: number): boolean {
    const released = this.#run.releaseAbove.run(holder, above).changes;
    if (released > 0) this.#ledger.touch(box).holds -= released;
    this.#forgetIdle(holder);
    return released > 0;
  }

  #forgetIdle(holder: number): void {
    if (!this.#run.holdsAnything.get(holder)) this.#run.dropHolder.run(holder);
  }
}
