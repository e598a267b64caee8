/**
 * What the tests of other servers' faults share: one real server, pages on lines of their own that can be cut, and the accounts of all that was
 * sent to it.
 * @module
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect } from "vitest";
import { connect, type Handover, type Transport } from "../../src/client/index.ts";
import type { Ending, Totals } from "../../src/engine.ts";
import { call, type Delivered, field, signToken } from "../../src/testing/wire.ts";
import { until } from "../client/rig.ts";
import { CommandServer } from "./command.ts";
import { openRelay, type Relay } from "./demo.ts";
import { freePort } from "./port.ts";
import { read, scrape } from "./prometheus.ts";
import { TOKEN_SECRET } from "./started.ts";

type Accounts = Record<keyof Totals, number>;

export class FaultRig {
  /** What the accounts must say: each test adds what it sent and how it ended. */
  readonly expected: Accounts = { accepted: 0, unsettled: 0, acked: 0, expired: 0, replaced: 0, evicted: 0, dead: 0 };
  data = "";
  url = "";
  #server: CommandServer | undefined;
  #port = 0;
  #users = 0;
  #ends: (() => Promise<unknown>)[] = [];

  /** Registers itself with the test file: one server for all its tests. */
  constructor() {
    beforeAll(async () => {
      this.data = await mkdtemp(join(tmpdir(), "handover-faults-"));
      this.#port = await freePort();
      await this.start();
    });
    afterEach(async () => {
      for (const end of this.#ends.splice(0).reverse()) await end();
      // Whoever has gone is not taken for live, whichever way it went.
      for (const transport of ["websocket", "sse", "poll"]) await this.linksAre(transport, 0);
    });
    afterAll(async () => {
      await this.kill();
      await rm(this.data, { recursive: true, force: true });
    });
  }

  async start(): Promise<void> {
    this.#server = await CommandServer.start(this.#port, this.data);
    this.url = this.#server.url;
  }

  /** `kill -9`. */
  async kill(): Promise<void> {
    await this.#server?.kill();
  }

  /** Something to undo when the test is over. */
  later(end: () => Promise<unknown>): void {
    this.#ends.push(end);
  }

  token(user: string): string {
    return signToken(TOKEN_SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: Math.floor(Date.now() / 1000) + 600 });
  }

  /** A user whom no other test knows. */
  newUser(): string {
    this.#users += 1;
    return `bob-${this.#users}`;
  }

  account(ending: Ending | "unsettled", count: number): void {
    this.expected.accepted += count;
    this.expected[ending] += count;
  }

  /** Sends one message, past every line that is cut. @returns its id */
  async send(to: string, value: unknown): Promise<string> {
    const answer = await call(`${this.url}/v1/messages`, { token: this.token("ann"), body: { to: { user: to }, type: "order", data: value } });
    expect(answer.status).toBe(201);
    return String(field(answer.body, "id"));
  }

  async state(id: string): Promise<unknown> {
    const answer = await call(`${this.url}/v1/messages/${id}`, { token: this.token("ann") });
    return (field(answer.body, "recipients") as { state: string }[]).map((each) => each.state).join();
  }

  /** Waits until all of these have been acknowledged, and puts them down in the accounts. */
  async allAcked(...ids: readonly string[]): Promise<void> {
    for (const id of ids) await until(async () => expect(await this.state(id)).toBe("acked"), 15_000);
    this.account("acked", ids.length);
  }

  /** Waits until so many connections and held polls of that kind are there. */
  async linksAre(transport: string, count: number): Promise<void> {
    await until(async () => expect(read(await scrape(this.url), "handover_links", { transport })).toBe(count));
  }

  /** A stretch of network that can be cut. */
  async openLine(): Promise<Relay> {
    const line = await openRelay(this.url);
    this.later(line.close);
    return line;
  }

  /** A page with the SDK in it. */
  openPage(user: string, transport: Transport, line: Relay): Handover {
    // Each drop counts as the first: the tests need not wait for longer and longer.
    const timing = { stableMs: 0 };
    const page = connect(line.url, { token: () => this.token(user), transports: [transport], onError: () => {}, timing });
    this.later(() => page.close());
    return page;
  }

  /** One poll of the receiver `tab`. */
  async poll(user: string, more: object = {}): Promise<{ epoch: unknown; cursor: unknown; deliveries: readonly Delivered[] }> {
    const { status, body } = await call(`${this.url}/v1/poll`, { token: this.token(user), body: { receiver: "tab", wait: 0, ...more } });
    expect([200, 204]).toContain(status);
    return { epoch: field(body, "epoch"), cursor: field(body, "cursor"), deliveries: (field(body, "deliveries") ?? []) as Delivered[] };
  }

  /** Acknowledges, as the receiver `tab`, all up to the cursor. @returns how many that newly settled */
  async acknowledge(user: string, { epoch, cursor }: { readonly epoch?: unknown; readonly cursor: unknown }): Promise<unknown> {
    const answer = await call(`${this.url}/v1/ack`, { token: this.token(user), body: { receiver: "tab", epoch, cursor, upto: cursor } });
    return field(answer.body, "acked");
  }
}

export const isOnline = (page: Handover): Promise<void> => until(() => expect(page.status.state).toBe("online"), 15_000);
export const isOffline = (page: Handover): Promise<void> => until(() => expect(page.status.state).not.toBe("online"), 15_000);
