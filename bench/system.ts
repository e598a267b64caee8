/**
 * What is compared: a server that the benchmark starts for itself and stops by its pid, set up as its users would for not losing messages.
 * @module
 */
import type { WireName } from "./wires.ts";

export interface Running {
  /** Of all processes whose cost counts. */
  readonly pids: readonly number[];
  /** Where the wires find it. */
  readonly address: string;
  /** Where it keeps its messages, if anywhere. */
  readonly folder?: string | undefined;
  stop(): Promise<void>;
}

export interface System {
  /** As `--systems` names it. */
  readonly name: string;
  readonly title: string;
  readonly version: string;
  /** What its accept and its acknowledgement mean as it is set up here. */
  readonly guarantee: string;
  /** Why it cannot be had on this machine; undefined: it can. */
  readonly missing?: string | undefined;
  readonly wires: readonly { readonly wire: WireName; readonly label: string }[];
  start(): Promise<Running>;
}
