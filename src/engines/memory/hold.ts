import { HOLD_BOUNDS } from "../../engine.ts";
import type { ReceiverId, Seq, SessionId } from "../../protocol.ts";

interface Holder {
  readonly name: string;
  readonly session: SessionId;
  readonly seqs: Set<Seq>;
  usedMs: number;
}

/** What the receivers of one mailbox hold. */
export class HoldBook {
  /** In the order in which they first held something. */
  readonly #holders = new Map<string, Holder>();
  readonly #bySeq = new Map<Seq, Set<Holder>>();
  #count = 0;

  heldBy(session: SessionId, receiver: ReceiverId): readonly Seq[] {
    return [...(this.#holders.get(nameOf(session, receiver))?.seqs ?? [])].sort((one, other) => one - other);
  }

  /** @param seqs  of unsettled entries */
  hold(session: SessionId, receiver: ReceiverId, seqs: readonly Seq[], nowMs: number): void {
    const name = nameOf(session, receiver);
    const holder = this.#holders.get(name) ?? { name, session, seqs: new Set(), usedMs: nowMs };
    const added = new Set(seqs.filter((seq) => !holder.seqs.has(seq)));
    if (added.size === 0) return;
    holder.usedMs = nowMs;
    this.#holders.set(name, holder);
    for (const seq of added) {
      holder.seqs.add(seq);
      this.#bySeq.set(seq, (this.#bySeq.get(seq) ?? new Set()).add(holder));
    }
    this.#count += added.size;
    while (this.#count > HOLD_BOUNDS.holds || this.#holders.size > HOLD_BOUNDS.receivers) {
      const others = [...this.#holders.values()].filter((each) => each !== holder);
      if (others.length === 0) break;
      const oldest = others.reduce((one, other) => (other.usedMs < one.usedMs ? other : one));
      for (const seq of oldest.seqs) this.#release(oldest, seq);
    }
  }

  releaseAbove(session: SessionId, receiver: ReceiverId, above: Seq): void {
    const holder = this.#holders.get(nameOf(session, receiver));
    for (const seq of holder?.seqs ?? []) if (holder && seq > above) this.#release(holder, seq);
  }

  /** A number that is not there any more is held by nobody. */
  drop(seq: Seq): void {
    for (const holder of this.#bySeq.get(seq) ?? []) this.#release(holder, seq);
  }

  endSession(session: SessionId): void {
    for (const holder of this.#holders.values()) if (holder.session === session) for (const seq of holder.seqs) this.#release(holder, seq);
  }

  #release(holder: Holder, seq: Seq): void {
    holder.seqs.delete(seq);
    if (holder.seqs.size === 0) this.#holders.delete(holder.name);
    const holders = this.#bySeq.get(seq);
    holders?.delete(holder);
    if (holders?.size === 0) this.#bySeq.delete(seq);
    this.#count -= 1;
  }
}

function nameOf(session: SessionId, receiver: ReceiverId): string {
  return JSON.stringify([session, receiver]);
}
