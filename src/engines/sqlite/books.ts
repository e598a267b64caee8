import type { WorkerOptions } from "./call.ts";
import type { DeliveryBook } from "./delivery.ts";
import type { FoldBook } from "./fold.ts";
import type { FreshBook } from "./fresh.ts";
import type { HoldBook } from "./hold.ts";
import type { Ledger } from "./ledger.ts";
import type { Outcome } from "./outcome.ts";
import type { SessionBook } from "./session.ts";
import type { Statements } from "./statement.ts";

/** What the operations of the store have in common: the statements, what is known beside the rows, and what comes of a batch. */
export interface Books {
  readonly options: WorkerOptions;
  readonly run: Statements;
  readonly fresh: FreshBook;
  readonly folds: FoldBook;
  readonly ledger: Ledger;
  readonly sessions: SessionBook;
  readonly holds: HoldBook;
  readonly deliveries: DeliveryBook;
  readonly outcome: Outcome;
}
