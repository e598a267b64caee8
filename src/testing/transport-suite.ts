/**
 * The rules of PROTOCOL.md as tests against a running server, by URL, over the wire only. Every transport of every implementation passes
 * the same ones. The runner is the caller's: anything with a function that takes a title and an async body.
 * @module
 */

import { type Rule, Scene, type Target } from "./scene.ts";
import { CONNECTING } from "./transport-connect.ts";
import { RECEIVING } from "./transport-receive.ts";
import { SENDING } from "./transport-send.ts";
import { SESSIONS } from "./transport-session.ts";
import { SETTLING } from "./transport-settle.ts";
import { STARVATION } from "./transport-starvation.ts";
import { STREAMING } from "./transport-stream.ts";
import type { Wire } from "./wire.ts";

export type { Target } from "./scene.ts";
export { WEBSOCKET, type Wire } from "./wire.ts";
export { LONG_POLLING } from "./wire-poll.ts";
export { SSE } from "./wire-sse.ts";

export interface TransportSuite {
  /** What is tested, e.g. `WebSocket on SQLite`; stands before each title. */
  readonly name: string;
  readonly wire: Wire;
  /** Starts the server; called once, before the first rule. */
  readonly start: () => Promise<Target>;
  /** Registers a test, e.g. vitest's `test`. */
  readonly test: (title: string, body: () => Promise<void>, limitMs: number) => void;
  /** Registers what runs after the last test, e.g. vitest's `afterAll`. */
  readonly after: (body: () => Promise<void>) => void;
  /** Further JSON values that must arrive as they were sent, e.g. from a generator. */
  readonly values?: readonly unknown[];
  /** Told which rules are left out, and why; on the console unless given. */
  readonly leaveOut?: (title: string, reason: string) => void;
}

const RULES: readonly Rule[] = [...SENDING, ...RECEIVING, ...SETTLING, ...CONNECTING, ...STREAMING, ...SESSIONS, ...STARVATION];
const LIMIT_MS = 20_000;

/** Registers the suite. Rules that need what the target's store does not have pass with a line that says so. */
export function transportSuite({ name, wire, start, test, after, values = [], leaveOut = printLeftOut }: TransportSuite): void {
  let target: Promise<Target> | undefined;
  const started = () => {
    target ??= start();
    return target;
  };
  for (const { title, needs, play } of RULES) {
    if (needs.wire !== undefined && needs.wire !== wire.kind) continue;
    test(
      `${name}: ${title}`,
      async () => {
        const running = await started();
        const { feature } = needs;
        if (feature && !running.supports[feature]) return leaveOut(title, `the store does not offer ${feature}`);
        if (needs.restart && !running.restart) return leaveOut(title, "nothing survives a restart here");
        const scene = new Scene(running, wire, values);
        try {
          await play(scene);
        } finally {
          await scene.end();
        }
      },
      needs.limitMs ?? LIMIT_MS,
    );
  }
  after(async () => {
    await (await target)?.stop();
  });
}

function printLeftOut(title: string, reason: string): void {
  console.log(`left out: ${title} (${reason})`);
}
