/**
 * What a rule of the transport suite plays with: users nobody else has, their sessions, receivers and messages.
 * @module
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { EngineSupports } from "../engine.ts";
import { call, type Forms, field, type ReceiverOptions, type SendResult, signToken, type Wire, type WireReceiver } from "./wire.ts";

/** A running server, and what the suite may know of it. */
export interface Target {
  readonly url: string;
  readonly serviceKey: string;
  /** Signs HS256 tokens for audience `handover`. */
  readonly tokenSecret: string;
  /** What its store can do; rules for what it cannot are left out. */
  readonly supports: EngineSupports;
  /** Stops it and starts it again with the same mail, at the same address; absent where nothing survives. */
  restart?(): Promise<void>;
  stop(): Promise<void>;
}

/** Where a rule needs more than the protocol. */
export interface RuleNeeds {
  readonly wire?: Wire["kind"];
  readonly feature?: "topic" | "takeBack" | "state";
  readonly restart?: true;
  /** Time it takes at most, in ms; 20 s unless said. */
  readonly limitMs?: number;
}

export interface Rule {
  readonly title: string;
  readonly needs: RuleNeeds;
  readonly play: (scene: Scene) => Promise<void>;
}

/** @param title  begins with the rule's id in brackets */
export function rule(title: string, play: (scene: Scene) => Promise<void>, needs: RuleNeeds = {}): Rule {
  return { title, needs, play };
}

/** One user in one session. */
export interface Person {
  readonly user: string;
  readonly session: string;
  readonly token: string;
}

/** A message's state per recipient, by user. */
export type States = Readonly<Record<string, string>>;

export class Scene {
  readonly target: Target;
  readonly wire: Wire;
  /** Further JSON values that must arrive as they were sent. */
  readonly values: readonly unknown[];
  readonly #ends: (() => Promise<unknown>)[] = [];

  constructor(target: Target, wire: Wire, values: readonly unknown[]) {
    this.target = target;
    this.wire = wire;
    this.values = values;
  }

  /** Closes what the rule opened. */
  async end(): Promise<void> {
    await Promise.allSettled(this.#ends.map((end) => end()));
  }

  /** Something to undo when the rule is over. */
  later(end: () => Promise<unknown>): void {
    this.#ends.push(end);
  }

  /** A user whom no other rule knows, with a session. */
  person(name: string, scope?: string): Promise<Person> {
    return this.session(`${name}-${randomBytes(6).toString("hex")}`, scope);
  }

  /** Another session of a user, made as a backend makes it. @param ttl  seconds */
  async session(user: string, scope?: string, ttl?: number): Promise<Person> {
    const { url, serviceKey } = this.target;
    const answer = await call(`${url}/v1/sessions`, { token: serviceKey, body: { user, scope, ttl } });
    assert.equal(answer.status, 201, JSON.stringify(answer.body));
    return { user, session: String(field(answer.body, "session")), token: String(field(answer.body, "token")) };
  }

  /** A token for the same session that ends in `seconds`. */
  renewed({ user, session }: Pick<Person, "user" | "session">, seconds: number, scope?: string): string {
    return signToken(this.target.tokenSecret, { sub: user, sid: session, aud: "handover", exp: Date.now() / 1000 + seconds, scope });
  }

  /** A receiver of this user on the transport under test. */
  async open(person: Person, options: Partial<ReceiverOptions> = {}): Promise<WireReceiver> {
    const receiver = await this.wire.openReceiver({ url: this.target.url, token: person.token, receiver: this.name("tab"), ...options });
    this.later(() => receiver.leave());
    return receiver;
  }

  name(prefix: string): string {
    return `${prefix}-${randomBytes(5).toString("hex")}`;
  }

  /** Sends by HTTP and insists on the 201. @returns its body */
  async send(from: Person, to: Person | string, data: unknown, more: object = {}): Promise<{ id: string } & SendResult> {
    const user = typeof to === "string" ? to : to.user;
    const result = await this.post(from.token, { to: { user }, type: "test", data, ...more });
    assert.equal(result.status, 201, JSON.stringify(result));
    return result as { id: string } & SendResult;
  }

  /** Sends several, one after another. @returns their ids */
  async sendMany(from: Person, to: Person, count: number): Promise<string[]> {
    const ids: string[] = [];
    for (let n = 1; n <= count; n++) ids.push((await this.send(from, to, n)).id);
    return ids;
  }

  async post(token: string, message: unknown, headers: Record<string, string> = {}): Promise<SendResult> {
    const { status, body } = await call(`${this.target.url}/v1/messages`, { token, body: message, headers });
    return { ...(body as object), status };
  }

  /** `POST /v1/ack` as any client may write it. */
  async ack(person: Person, request: { receiver: string; epoch: string | null; cursor?: number } & Forms): Promise<number> {
    const answer = await call(`${this.target.url}/v1/ack`, { token: person.token, body: request });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    return Number(field(answer.body, "acked"));
  }

  /** State of a message per recipient, as its sender or a service sees it. */
  async states(token: string, id: string): Promise<States> {
    const answer = await call(`${this.target.url}/v1/messages/${id}`, { token });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    const recipients = field(answer.body, "recipients") as { user: string; state: string }[];
    return Object.fromEntries(recipients.map(({ user, state }) => [user, state]));
  }

  /**
   * Waits until a receiver has everything that is in the mailbox: sends one more and waits for it. What has not come by then does not come,
   * since mail comes in order. The message is acknowledged.
   */
  async mark(from: Person, to: Person, receiver: WireReceiver): Promise<void> {
    const { id } = await this.send(from, to, "mark");
    const find = () => receiver.deliveries.find(({ event }) => event.id === id);
    await receiver.until(() => find() !== undefined, "the mark");
    await receiver.ack({ seqs: [find()?.seq ?? 0] });
  }
}

/** The data of what a receiver got, marks left out. */
export function dataOf(receiver: WireReceiver): unknown[] {
  return receiver.deliveries.map(({ event }) => event.data).filter((data) => data !== "mark");
}

export function seqsOf(receiver: WireReceiver): number[] {
  return receiver.deliveries.map(({ seq }) => seq);
}

/** Waits for a number of deliveries. */
export async function got(receiver: WireReceiver, count: number): Promise<void> {
  await receiver.until(() => receiver.deliveries.length >= count, `${count} deliveries`);
}
