/**
 * Sequences that once went wrong. They are played first, every time.
 * @module
 */
import type { Step } from "./steps.ts";

export const EXAMPLES: readonly (readonly Step[])[] = [];
