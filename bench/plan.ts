/**
 * What the parent tells the two driving processes, and what they answer.
 * @module
 */
import type { WireName } from "./wires.ts";

export interface Plan {
  readonly role: "sender" | "receiver";
  readonly wire: WireName;
  readonly address: string;
  readonly pairs: number;
  /** Closed loop: so many messages of each pair are under way. */
  readonly inFlight?: number | undefined;
  /** Open loop: so many messages a second over all pairs. */
  readonly perSecond?: number | undefined;
  /** A message is under way until it is accepted and, with receivers, acknowledged. */
  readonly receives: boolean;
  /** Each message goes to so many receivers. */
  readonly fanOut?: number | undefined;
  /** The times of the sender are from a send to its answer. */
  readonly acceptLatency?: boolean | undefined;
  /** Path of the socket on which the receiver tells the sender what is acknowledged. */
  readonly progress?: string | undefined;
}

export type Command = { readonly op: "plan"; readonly plan: Plan } | { readonly op: "go" } | { readonly op: "mark" } | { readonly op: "finish" };

export interface Counts {
  readonly sent: number;
  readonly accepted: number;
  readonly delivered: number;
  readonly acknowledged: number;
  /** Serial numbers that came again, and that were left out. */
  readonly twice: number;
  readonly missed: number;
  readonly atUs: number;
  readonly cpuUs: number;
}

export interface Reply {
  readonly op: Command["op"];
  readonly counts: Counts;
  /** In ms, since the reply before, at {@link LATENCIES}. */
  readonly latencies: readonly number[];
}

export const LATENCIES = [0.5, 0.99, 0.999] as const;
