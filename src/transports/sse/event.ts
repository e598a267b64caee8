/**
 * How events are written, and their ids read again.
 * @see HTML standard, section 9.2.5 "Parsing an event stream"
 * @module
 */
import { HandoverError } from "../../errors.ts";
import type { Seq, ServerFrame } from "../../protocol.ts";

/** When an EventSource comes back by itself: spread out (PROTOCOL.md, section 6). */
const MIN_RETRY_MS = 250;
const MAX_RETRY_MS = 4_000;
/** … and one whose stream was only made anew. */
const MAX_RENEW_MS = 500;
/** … and one that another took the place of: or the two would throw each other out for ever. */
const REPLACED_RETRY_MS = 600_000;

/**
 * Reads an event's id again, from the header Last-Event-ID.
 * @throws HandoverError bad-request
 */
export function parseEventId(text: unknown): { readonly epoch: string; readonly cursor: Seq } {
  // 15 digits are a whole number to a double, whatever they are.
  const [, epoch, seq] = /^([A-Za-z0-9_-]{1,64}):(\d{1,15})$/.exec(String(text)) ?? [];
  if (epoch === undefined) throw new HandoverError("bad-request", "Last-Event-ID is the id of an event of this server, epoch:seq.");
  return { epoch, cursor: Number(seq) };
}

/** Writes a frame as events; a delivery is the default event, and has the id that an EventSource comes back with. */
export function writeEvents(frame: ServerFrame, epoch: string): string {
  switch (frame.op) {
    case "deliver":
      return frame.deliveries.map(({ seq, text }) => `id: ${epoch}:${seq}\ndata: ${inOneLine(text)}\n\n`).join("");
    case "ready":
      // Whatever an earlier stream told it about coming back, `drain` or a long wait, is over.
      return writeEvent("ready", { receiver: frame.receiver, epoch, head: frame.head }, { retry: between(MIN_RETRY_MS, MAX_RETRY_MS) });
    case "settled":
      return writeEvent("settled", { seqs: frame.seqs });
    case "gap":
      return writeEvent("gap", { from: frame.from, to: frame.to, reason: frame.reason }, { id: `${epoch}:${frame.to}` });
    case "drain":
      return writeEvent("drain", { delay: frame.delay }, { retry: between(0, frame.delay * 1000) });
  }
}

/** The last event of a stream that the server ends: why. */
export function writeProblem(reason: HandoverError): string {
  return writeEvent("problem", reason.problem(), { retry: reason.code === "replaced" ? REPLACED_RETRY_MS : undefined });
}

/** The end of a stream that only begins anew: nothing but when to come back. */
export function writeReturn(): string {
  return `retry: ${between(0, MAX_RENEW_MS)}\n\n`;
}

/** All of a stream that cannot begin now: an EventSource comes back by itself, not before it may. */
export function writeRefusal(reason: HandoverError): string {
  return writeEvent("problem", reason.problem(), { retry: (reason.retryAfterMs ?? 0) + between(MIN_RETRY_MS, MAX_RETRY_MS) });
}

function writeEvent(name: string, data: object, { id, retry }: { readonly id?: string; readonly retry?: number | undefined } = {}): string {
  const fields = [...(id === undefined ? [] : [`id: ${id}`]), ...(retry === undefined ? [] : [`retry: ${retry}`])];
  return [`event: ${name}`, ...fields, `data: ${JSON.stringify(data)}`, "", ""].join("\n");
}

/** JSON has line ends between its tokens only, where a space means the same; here one would end the field. */
function inOneLine(json: string): string {
  return /[\r\n]/.test(json) ? json.replace(/[\r\n]+/g, " ") : json;
}

/** A random whole number of ms. */
function between(least: number, most: number): number {
  return Math.ceil(least + Math.random() * (most - least));
}
