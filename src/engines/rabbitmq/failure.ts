/**
 * What goes wrong between this process and the broker, in words.
 * @module
 */
import { HandoverError } from "../../errors.ts";

/** Ends waiting for a broker that does not answer. */
export async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("a queue does not answer; has it a leader? (rabbitmqctl list_queues name leader)")), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

export function unavailable(message: string, cause?: unknown): HandoverError {
  return new HandoverError("store-unavailable", message, { cause });
}

export function codeOf(thrown: unknown): string | undefined {
  return thrown instanceof Error && "code" in thrown ? String(thrown.code) : undefined;
}

export function textOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message || String(codeOf(thrown) ?? thrown.name) : String(thrown);
}
