/**
 * What every test of the SDK needs: a scripted server, clients that are closed afterwards, and waiting for what must come.
 * @module
 */
import { afterEach, beforeEach, vi } from "vitest";
import { type ConnectOptions, connect, type Handover, type Status } from "../../src/client/index.ts";
import { FakeServer } from "./fake.ts";

/** Waits until the condition holds, at most 5 s; the assertion in it says what was missing. */
export function until(condition: () => void | Promise<void>, timeoutMs = 5_000): Promise<void> {
  return vi.waitFor(condition, { timeout: timeoutMs, interval: 5 });
}

export interface Rig {
  readonly server: FakeServer;
  /** What `onError` was told. */
  readonly errors: unknown[];
  /** What `onWarning` was told. */
  readonly warnings: string[];
  readonly statuses: Status[];
  /** Connects to the server of this test, with short times. */
  connect(options?: Partial<ConnectOptions>): Handover;
}

/** A server for each test of the file; its clients are closed after the test. */
export function rig(): Rig {
  const clients: Handover[] = [];
  const made = {
    server: undefined as unknown as FakeServer,
    errors: [] as unknown[],
    warnings: [] as string[],
    statuses: [] as Status[],
    connect(options: Partial<ConnectOptions> = {}): Handover {
      const { timing, ...rest } = options;
      const client = connect(made.server.url, {
        token: () => "token-1",
        onError: (error) => made.errors.push(error),
        onWarning: (text) => made.warnings.push(text),
        timing: { pollWaitMs: 2_000, answerMs: 2_000, probeMs: 100, probeMaxMs: 200, ...timing },
        ...rest,
      });
      client.onStatus((status) => made.statuses.push(status));
      clients.push(client);
      return client;
    },
  };
  beforeEach(async () => {
    made.server = await FakeServer.start();
    made.errors.length = 0;
    made.warnings.length = 0;
    made.statuses.length = 0;
  });
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.close()));
    await made.server.stop();
  });
  return made;
}

/** A promise that a test resolves when it likes. */
export function gate<T = void>(): { readonly opened: Promise<T>; open(value: T): void; fail(error: unknown): void } {
  let open: (value: T) => void = () => {};
  let fail: (error: unknown) => void = () => {};
  const opened = new Promise<T>((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { opened, open, fail };
}
