/**
 * One receiver's client: what it has received, and what it says next.
 * @module
 */
import type { ReceiverId, UserIdentity } from "../../src/protocol.ts";
import type { Connection, Poll, Told, Where } from "./line.ts";
import type { FormsStep, StepOf, Target } from "./steps.ts";
import type { Forms } from "./words.ts";

export class Client {
  /** The session's, whatever it is called after the next login. */
  readonly name: string;
  readonly id: ReceiverId;
  identity: UserIdentity;
  line: Connection | Poll | undefined;
  /** Where it would come back. */
  epoch: string | undefined;
  cursor = 0;
  /** What it has received, and of that, what it has not acknowledged yet. */
  readonly #received: number[] = [];
  readonly #inHand = new Set<number>();

  constructor(name: string, id: ReceiverId, identity: UserIdentity) {
    this.name = name;
    this.id = id;
    this.identity = identity;
  }

  get isBusy(): boolean {
    return this.#inHand.size > 0;
  }

  /** It logs in anew and knows nothing. */
  begin(identity: UserIdentity): void {
    Object.assign(this, { identity, line: undefined, epoch: undefined, cursor: 0 });
    this.#received.length = 0;
    this.#inHand.clear();
  }

  /** What its connection or poll brought. */
  receive(told: readonly Told[]): void {
    for (const each of told) {
      if (each.what === "delivery") {
        this.#received.push(each.seq);
        this.#inHand.add(each.seq);
      }
      if (each.what !== "settled") this.cursor = each.what === "gap" ? each.to : each.seq;
    }
  }

  /** @param head  of its mailbox */
  where(from: StepOf<"connect">["from"], head: number): Where {
    const { epoch, cursor } = this;
    if (from === "none" || epoch === undefined) return { epoch: undefined, cursor: 0 };
    return { epoch: from === "alien" ? "another" : epoch, cursor: from === "alien" ? cursor : this.#said(from, head) };
  }

  /** What it says in an acknowledgement to have received; a WebSocket knows that itself. @param head  of its mailbox */
  claim(cursor: StepOf<"acknowledge">["cursor"], head: number): number | undefined {
    return cursor === "none" || this.line?.kind === "websocket" ? undefined : this.#said(cursor, head);
  }

  #said(cursor: "mine" | "back" | "head" | "ahead", head: number): number {
    return { mine: this.cursor, back: Math.max(this.cursor - 2, 0), head, ahead: head + 1 }[cursor];
  }

  /** It has been answered, and takes it that these are settled. */
  isDone({ upto = 0, seqs = [], hold = [], nack = [], reject = [] }: Forms): void {
    const named = [...seqs, ...hold, ...[...nack, ...reject].map(({ seq }) => seq)];
    for (const seq of this.#inHand) if (seq <= upto || named.includes(seq)) this.#inHand.delete(seq);
  }

  /** The forms with their numbers; none is named twice. @param head  of its mailbox */
  forms({ upto, each }: FormsStep, head: number): Forms {
    const back = (seqs: readonly number[], nth: number) => seqs[seqs.length - 1 - (nth % Math.max(seqs.length, 1))];
    const seqOf = (target: Target) =>
      "any" in target ? target.any % (head + 3) : "had" in target ? back(this.#received, target.had) : back([...this.#inHand], target.inHand);
    const named = new Map(each.map((one) => [seqOf(one.target), one]));
    named.delete(undefined);
    const of = (form: string) => [...named].filter(([, one]) => one.form === form).map(([seq = 0, { after }]) => ({ seq, after }));
    const numbers = (form: string) => of(form).map(({ seq }) => seq);
    const last = upto && seqOf(upto);
    return {
      seqs: numbers("seqs"),
      hold: numbers("hold"),
      nack: of("nack").map(({ seq, after }) => ({ seq, retryAfter: after })),
      reject: of("reject").map(({ seq }) => ({ seq })),
      ...(last !== undefined && { upto: last }),
    };
  }
}
