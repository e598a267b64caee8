/**
 * One user's mail that ends in every way there is, over the wire, and what the server's accounts must say of it.
 * @module
 */
import { expect, vi } from "vitest";
import type { Totals } from "../../src/engine.ts";
import { call, type Delivered, type Forms, field, type Wire, type WireReceiver } from "../../src/testing/wire.ts";

export interface Place {
  readonly url: string;
  readonly serviceKey: string;
  /** A token as any backend could sign it. */
  token(user: string): string;
}

/** Deliveries that one run of {@link endEveryWay} leaves behind. */
export const EVERY_WAY: Totals = { accepted: 16, unsettled: 4, acked: 5, expired: 2, replaced: 1, evicted: 2, dead: 2 };

/**
 * Sends and settles until there is something of every ending, and something that waits in each way.
 * @param user           whose mailbox; nobody else's, and never used before
 * @param options.waits  whether something expires while somebody waits for it, which takes a second; {@link EVERY_WAY} counts it
 * @throws Error when the server is not, or no longer, there
 */
export async function endEveryWay(place: Place, wire: Wire, user: string, { waits = true } = {}): Promise<void> {
  const { url, serviceKey } = place;
  const sender = place.token("ann");
  const post = async (body: unknown, token = sender) => {
    const answer = await call(`${url}/v1/messages`, { token, body });
    expect(answer.status, JSON.stringify(answer.body)).toBe(201);
    return String(field(answer.body, "id"));
  };
  const send = (more: object = {}) => post({ to: { user }, type: "t", ...more });
  const made = await call(`${url}/v1/sessions`, { token: serviceKey, body: { user } });
  const session = String(field(made.body, "session"));

  const tab = await wire.openReceiver({ url, token: place.token(user), receiver: "tab", window: 100 });
  const reader = new Reader(tab);
  try {
    await send();
    const held = await reader.next();
    await reader.settle({ hold: [held.seq] });
    await send();
    await reader.settle({ seqs: [(await reader.next()).seq] }, 1);
    await send();
    await reader.settle({ reject: [{ seq: (await reader.next()).seq, reason: "no" }] }, 1);
    await send();
    for (let n = 1; n < 10; n++) await reader.settle({ nack: [{ seq: (await reader.next()).seq }] });
    await reader.settle({ nack: [{ seq: (await reader.next()).seq }] }, 1);
    await send();
    await reader.settle({ nack: [{ seq: (await reader.next()).seq, retryAfter: 3_600 }] });
    // An array, the one that went to others too, and what comes again: `upto` ends all of it but what is held.
    await post([1, 2, 3].map((data) => ({ to: { user }, type: "t", data })));
    const twice = { to: { users: [user, `absent-${user}`] }, type: "t", idempotencyKey: `twice-${user}` };
    expect(await post(twice)).toBe(await post(twice));
    for (let n = 0; n < 3; n++) await reader.next();
    await reader.settle({ upto: (await reader.next()).seq }, 4);
    await send({ topic: "once" });
    await send({ topic: "once" });
    const taken = await send();
    expect((await call(`${url}/v1/messages/${taken}`, { method: "DELETE", token: sender })).body).toEqual({ evicted: 1 });
    await post({ to: { session }, type: "t" }, serviceKey);
    expect((await call(`${url}/v1/sessions/${session}`, { method: "DELETE", token: serviceKey })).status).toBe(204);
    // What is refused is not accepted.
    expect((await call(`${url}/v1/messages`, { token: serviceKey, body: { to: { session }, type: "t" } })).status).toBe(404);
    await post({ to: { user: `nobody-${user}` }, type: "t", ttl: 0 });
    if (!waits) return;
    const brief = await send({ ttl: 1 });
    const state = async () =>
      field((field((await call(`${url}/v1/messages/${brief}`, { token: sender })).body, "recipients") as unknown[])[0], "state");
    await vi.waitFor(async () => expect(await state()).toBe("expired"), { timeout: 10_000, interval: 50 });
  } finally {
    await tab.leave();
  }
}

/** Reads deliveries one by one. */
class Reader {
  readonly #tab: WireReceiver;
  #read = 0;

  constructor(tab: WireReceiver) {
    this.#tab = tab;
  }

  async next(): Promise<Delivered> {
    const tab = this.#tab;
    await tab.until(() => tab.deliveries.length > this.#read || tab.end !== undefined, `delivery ${this.#read + 1}`);
    const delivery = tab.deliveries[this.#read];
    if (!delivery) throw new Error(`The receiver ended with ${tab.end}.`);
    this.#read += 1;
    return delivery;
  }

  /** @param ends  how many deliveries end by it */
  async settle(forms: Forms, ends = 0): Promise<void> {
    expect(await this.#tab.ack(forms)).toBe(ends);
  }
}
