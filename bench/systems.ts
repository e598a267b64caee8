/**
 * All that is compared, in the order of the tables.
 * @module
 */
import type { System } from "./system.ts";
import { handover } from "./systems/handover.ts";

export const SYSTEMS: readonly System[] = [handover];
