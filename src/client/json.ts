/**
 * Reading what came from outside without trusting it.
 * @module
 */

/** Whether a value is a JSON object, whose fields may then be looked at one by one. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a value can be a place in a mailbox. */
export function isSeq(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The value as an array; what is none has no elements. */
export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** Parses JSON text; undefined when it is not JSON. */
export function parseText(text: unknown): unknown {
  try {
    return typeof text === "string" ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}

/** Seconds as ms; undefined when they are none. */
export function secondsOf(value: unknown): number | undefined {
  return typeof value === "number" ? value * 1000 : undefined;
}
