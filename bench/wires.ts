/**
 * All wires that the driver speaks, by name.
 * @module
 */
import type { Wire } from "./wire.ts";
import { amqp } from "./wires/amqp.ts";
import * as bare from "./wires/bare.ts";
import * as handover from "./wires/handover.ts";
import { mqtt } from "./wires/mqtt.ts";
import { nats } from "./wires/nats.ts";

const WIRES = {
  "handover-websocket": handover.webSocket,
  "handover-from-head": handover.fromHead,
  "handover-sse": handover.sse,
  "handover-poll": handover.poll,
  "handover-poll-60": handover.longestPoll,
  "handover-post": handover.post,
  "handover-to-100": handover.spread(100),
  "handover-to-1000000": handover.spread(1_000_000),
  relay: bare.relay,
  socketio: bare.socketIo,
  "plain-post": bare.plainPost,
  "bare-poll": bare.poll,
  "bare-poll-60": bare.longestPoll,
  "bare-sse": bare.sse,
  mqtt,
  nats,
  amqp,
} as const satisfies Record<string, Wire>;

export type WireName = keyof typeof WIRES;

export function wireOf(name: WireName): Wire {
  return WIRES[name];
}
