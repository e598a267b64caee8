/**
 * The HTTP answer that a stream is written to.
 * @module
 */
import type { IncomingHttpHeaders, ServerResponse } from "node:http";

/** A stream whose peer takes nothing of what waits for it for this long, or at most twice, is cut: it sleeps, or is not there any more. */
const STALLED_MS = 20_000;

/** A proxy that buffers (nginx, by the last one) would hold the mail back. */
export const STREAM_HEADERS = { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no" };

/** Whether an EventSource asks, or a client like it. From any answer but a stream it never comes back (HTML standard, section 9.2.3). */
export function asksForStream({ accept }: IncomingHttpHeaders): boolean {
  return /\btext\/event-stream\b/i.test(accept ?? "");
}

/** Begins it. @param headers  which hooks have set for every answer, CORS for instance */
export function beginAnswer(answer: ServerResponse, headers: Readonly<Record<string, number | string | string[] | undefined>>): ServerResponse {
  for (const [name, value] of Object.entries({ ...headers, ...STREAM_HEADERS })) if (value !== undefined) answer.setHeader(name, value);
  answer.setTimeout(STALLED_MS, () => answer.destroy());
  return answer;
}

/**
 * Tells when the client has gone before the answer was over. By the connection: an answer that waits behind another's in a pipeline is not
 * told so itself.
 */
export function whenGone(answer: ServerResponse, { socket }: ServerResponse["req"], gone: () => void): void {
  socket.once("close", gone);
  answer.once("close", () => socket.off("close", gone));
  if (socket.destroyed) gone();
}
