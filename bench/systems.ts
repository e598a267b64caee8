/**
 * All that is compared, in the order of the tables.
 * @module
 */
import type { System } from "./system.ts";
import { barePoll, bareSse, fastify, fastifySynced, relay, relaySynced, socketIo } from "./systems/bare.ts";
import { mosquitto, nats, natsSynced, rabbitMq, webMqtt } from "./systems/brokers.ts";
import { handover, handoverIdle, handoverOnRabbitMq, handoverUncapped } from "./systems/handover.ts";

/** Those that hand messages over. */
export const SYSTEMS: readonly System[] = [
  handover,
  rabbitMq,
  natsSynced,
  webMqtt,
  nats,
  mosquitto,
  socketIo,
  relay,
  relaySynced,
  handoverOnRabbitMq,
];
/** Those that take messages for somebody who is away, and what a request costs in any case. */
export const STORES: readonly System[] = [handoverUncapped, rabbitMq, natsSynced, nats, mosquitto, fastify, fastifySynced];
/** Those that hold connections. */
export const HOLDERS: readonly System[] = [handoverIdle, mosquitto, nats, socketIo, relay, barePoll, bareSse];
/** All, as the report names them. */
export const ALL: readonly System[] = [...SYSTEMS, fastify, fastifySynced];
