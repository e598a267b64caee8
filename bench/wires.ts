/**
 * All wires that the driver speaks, by name.
 * @module
 */
import type { Wire } from "./wire.ts";
import * as handover from "./wires/handover.ts";

const WIRES = {
  "handover-websocket": handover.webSocket,
  "handover-from-head": handover.fromHead,
  "handover-sse": handover.sse,
  "handover-poll": handover.poll,
  "handover-post": handover.post,
} as const satisfies Record<string, Wire>;

export type WireName = keyof typeof WIRES;

export function wireOf(name: WireName): Wire {
  return WIRES[name];
}
