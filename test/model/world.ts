/**
 * One sequence: each step is carried out on the real core, then on the reference, and what both say is compared.
 * @module
 */
import assert from "node:assert/strict";
import { vi } from "vitest";
import type { Accepted } from "../../src/answers.ts";
import type { Totals } from "../../src/engine.ts";
import { HandoverError } from "../../src/errors.ts";
import type { Hub } from "../../src/hub.ts";
import type { MessageId, ReceiverId, UserIdentity } from "../../src/protocol.ts";
import { Client } from "./client.ts";
import type { Store } from "./core.ts";
import { complete, deliver, miss, pass, told as settledTold } from "./handing.ts";
import { Connection, Poll, type Told, type Where } from "./line.ts";
import { Names } from "./names.ts";
import * as reference from "./reference.ts";
import { RECEIVERS, type Step, type StepOf, TICK_MS } from "./steps.ts";
import type { Outcome, Reader, Sending, State } from "./words.ts";

type Written = StepOf<"send">["sendings"][number] | StepOf<"connect">["meanwhile"][number];

/** What the sequences came to see, and how often: they are of use only if they come to everything. */
export const REACHED = new Map<string, number>();

function reach(what: string): void {
  REACHED.set(what, (REACHED.get(what) ?? 0) + 1);
}

export class World {
  readonly #store: Store;
  readonly #clients: readonly Client[];
  readonly #names = new Names();
  readonly #accepted = new Map<string, Accepted>();
  readonly #formerEpochs = new Set<string>();
  #state: State = reference.begin(Date.now(), 0);
  #hub: Hub;
  /** What the store had counted before. */
  #before: Totals;
  /** The epoch of all mailboxes, once it was said. */
  #epoch: string | undefined;
  #lastEnded: UserIdentity | undefined;

  private constructor(store: Store, before: Totals) {
    this.#store = store;
    this.#before = before;
    this.#hub = store.hub();
    this.#clients = RECEIVERS.map(({ user, session, id }) => new Client(session, id as ReceiverId, this.#names.identity(user, session)));
  }

  static async begin(store: Store): Promise<World> {
    const world = new World(store, await store.totals());
    await world.#logIn();
    return world;
  }

  /** Ends what is open, so that the next sequence finds nothing of this one. */
  async end(): Promise<void> {
    this.#hub.drain(0);
    await this.#store.idle();
    await this.#store.detachAll();
    for (const { id } of this.#state.messages) await this.#store.engine.evict(id as MessageId);
  }

  /** Carries out one step. @throws when the core did something else than it should */
  async play(step: Step): Promise<void> {
    this.#state.step += 1;
    switch (step.do) {
      case "send":
        await this.#send(step);
        break;
      case "connect":
        await this.#connect(step);
        break;
      case "poll":
        await this.#poll(step);
        break;
      case "leave":
        await this.#leave(step);
        break;
      case "acknowledge":
        await this.#acknowledge(step);
        break;
      case "endSession":
        await this.#endSession(step);
        break;
      case "takeBack":
        await this.#takeBack(step);
        break;
      case "wait":
        for (let tick = 0; tick < step.ticks; tick++) await this.#tick();
        break;
      case "restart":
        await this.#restart(step);
        break;
    }
    await this.#lookAtAll();
    await this.#compare();
  }

  async #send(step: StepOf<"send">): Promise<void> {
    await this.#ask(step)();
    await this.#store.idle();
  }

  /** Asks the core. @returns waits for the answer, and asks the reference */
  #ask({ sender: asked, sendings: written }: { readonly sender: string; readonly sendings: readonly Written[] }): () => Promise<void> {
    const sendings = written.map((each) => this.#addressed(each));
    // Services only write to a session.
    const sender = sendings.some(({ session }) => session !== undefined) ? "service" : asked;
    const requests = sendings.map(({ to, session, data, ttl, topic, key }) => ({
      to: session !== undefined ? { session } : to.length === 1 ? { user: to[0] } : { users: to },
      type: "m",
      data,
      ...(ttl === undefined ? {} : { ttl }),
      ...(topic === undefined ? {} : { topic }),
      ...(key === undefined ? {} : { idempotencyKey: key }),
    }));
    const asking = this.#hub.sendAll(this.#names.sender(sender), requests);
    return async () => {
      const answers = await asking;
      const outcomes = reference.send(this.#state, this.#names.source(sender), sendings);
      const said = answers.map((answer) => (answer instanceof HandoverError ? answer.code : withoutId(answer)));
      assert.deepEqual(said, outcomes.map(expected), "the answer to a send");
      for (const each of said) reach(typeof each === "string" ? each : each.refused ? "refused" : "accepted");
      for (const [place, answer] of answers.entries()) if (!(answer instanceof HandoverError)) this.#name(outcomes[place], answer);
    };
  }

  #addressed(sending: Written): Sending {
    const name = "session" in sending ? sending.session : undefined;
    const identity = name === "ended" ? this.#lastEnded : this.#clients.find((each) => each.name === name)?.identity;
    if (!identity) return { ...sending, session: undefined, to: sending.to.map((user) => this.#names.user(user)) };
    return { ...sending, session: identity.session, to: [identity.user] };
  }

  /** A message's id is the server's to choose, once; a repeat is told the same answer. */
  #name(outcome: Outcome | undefined, answer: Accepted): void {
    assert.ok(outcome && "message" in outcome);
    const { message } = outcome;
    if (message.id !== "") {
      assert.deepEqual(answer, this.#accepted.get(message.id));
      reach("repeated");
    } else assert.ok(!this.#accepted.has(answer.id), "an id was given twice");
    message.id = answer.id;
    this.#accepted.set(answer.id, answer);
  }

  async #connect({ who, from, window, kind, meanwhile }: StepOf<"connect">): Promise<void> {
    const client = this.#client(who);
    const head = this.#head(client);
    const where = client.where(from, head);
    const older = client.line;
    const line = new Connection(kind === "sse" ? "sse" : "websocket");
    client.line = line;
    const opening = line.open(this.#hub, client.identity, client.id, where, window);
    const sending = meanwhile.length > 0 ? this.#ask({ sender: "service", sendings: meanwhile }) : undefined;
    const resumed = await opening;
    await this.#store.idle();
    this.#lookAtReplaced(client, older);
    this.#learnEpoch(line.ready?.epoch);
    // Which of the two was first the head tells.
    const isFirst = line.ready?.head === head;
    if (!isFirst) await sending?.();
    assert.equal(line.ready?.head, this.#head(client), "the head that ready says");
    assert.equal(resumed, reference.connect(this.#reader(client), this.#cursorIn(where), window, false), "whether it goes on from its cursor");
    if (isFirst) await sending?.();
    reach(resumed ? "resumed" : where.epoch === undefined ? "new" : "not resumed");
    client.epoch = this.#epoch;
    client.cursor = resumed ? where.cursor : 0;
  }

  async #poll({ who, from, max, wait, isLost, ack }: StepOf<"poll">): Promise<void> {
    const client = this.#client(who);
    const where = client.where(from, this.#head(client));
    const older = client.line;
    const forms = ack && client.forms(ack, this.#head(client));
    const request = { receiver: client.id, epoch: where.epoch ?? null, cursor: where.cursor, max, wait, ...(forms && { ack: forms }) };
    const poll = new Poll(this.#hub, client.identity, request, isLost);
    client.line = poll;
    await this.#store.idle();
    vi.advanceTimersByTime(0);
    await this.#store.idle();
    const reader = this.#reader(client);
    if (forms && this.#isEpoch(where.epoch)) {
      if (reference.acknowledge(this.#state, reader, forms, where.cursor) > 0) reach("poll acked");
      client.isDone(forms);
    }
    this.#lookAtReplaced(client, older);
    poll.step = this.#state.step;
    poll.isNew = where.epoch === undefined;
    poll.resumed = reference.connect(reader, this.#cursorIn(where), max, true);
  }

  async #leave({ who }: StepOf<"leave">): Promise<void> {
    const client = this.#client(who);
    if (!client.line) return;
    client.line.leave();
    client.line = undefined;
    reference.disconnect(this.#state, this.#reader(client));
    await this.#store.idle();
  }

  async #acknowledge({ who, forms: written, epoch, cursor, times }: StepOf<"acknowledge">): Promise<void> {
    // Somebody who has something to acknowledge, if there is anybody.
    const busy = this.#clients.filter(({ isBusy }) => isBusy);
    const client = busy[who % Math.max(busy.length, 1)] ?? this.#client(who);
    const head = this.#head(client);
    const forms = client.forms(written, head);
    const claim = client.claim(cursor, head);
    const said = epoch === "mine" ? client.epoch : epoch === "alien" ? "another" : undefined;
    for (let time = 0; time < times; time++) {
      const acked = await this.#hub.acknowledge(client.identity, { receiver: client.id, epoch: said, cursor: claim, ...forms });
      await this.#store.idle();
      const expected = this.#isEpoch(said) ? reference.acknowledge(this.#state, this.#reader(client), forms, claim) : 0;
      assert.equal(acked, expected, "the answer `acked`");
      for (const each of this.#clients) this.#look(each);
      if (this.#isEpoch(said)) client.isDone(forms);
      reach(acked > 0 ? "acked" : time > 0 ? "acked again" : "acked nothing");
    }
    if (this.#isAnythingHeld()) reach("held");
  }

  #isAnythingHeld(): boolean {
    return reference.copiesOf(this.#state).some(({ ending, heldBy }) => !ending && heldBy.size > 0);
  }

  /** A session ends for ever; its clients are refused, log in anew, and begin as new receivers. */
  async #endSession({ session: name }: StepOf<"endSession">): Promise<void> {
    const clients = this.#clients.filter((client) => client.name === name);
    const [{ identity } = this.#client(0)] = clients;
    await this.#hub.endSession(identity.session);
    await this.#store.idle();
    reference.endSession(this.#state, identity.session);
    this.#lastEnded = identity;
    reach("session ended");
    for (const client of clients) {
      if (client.line) assert.deepEqual(client.line.end, { code: client.line instanceof Poll ? "token-invalid" : "session-ended" });
      await this.#isRefused(client);
    }
    this.#names.logInAnew(name);
    for (const client of clients) client.begin({ ...identity, session: this.#names.session(name) });
    await this.#logIn();
  }

  async #isRefused({ identity, id, epoch, cursor }: Client): Promise<void> {
    const refused = { code: "token-invalid" };
    await assert.rejects(new Connection("websocket").open(this.#hub, identity, id, { epoch, cursor }, 10), refused);
    await assert.rejects(this.#hub.acknowledge(identity, { receiver: id, epoch: this.#epoch, cursor, upto: cursor }), refused);
    const poll = new Poll(this.#hub, identity, { receiver: id, epoch: epoch ?? null, cursor, wait: 20 }, false);
    await this.#store.idle();
    assert.deepEqual(poll.end, refused);
    const [answer] = await this.#hub.sendAll(identity, [{ to: { user: identity.user }, type: "m" }]);
    assert.ok(answer instanceof HandoverError && answer.code === "token-invalid");
  }

  /** A session is known from its first token on. */
  async #logIn(): Promise<void> {
    for (const { identity } of this.#clients) await this.#hub.sessions.admit(identity);
  }

  async #takeBack({ sender, message: nth }: StepOf<"takeBack">): Promise<void> {
    const { messages } = this.#state;
    const message = messages[messages.length - 1 - (nth % Math.max(messages.length, 1))];
    if (!message) return;
    const evicted = await this.#hub.takeBack(this.#names.sender(sender), message.id as MessageId).catch((thrown: HandoverError) => thrown.code);
    assert.equal(evicted, reference.takeBack(this.#state, message, this.#names.source(sender)) ?? "unknown", "from how many it was taken back");
    reach(evicted === "unknown" ? "not taken back" : "taken back");
    await this.#store.idle();
  }

  /** Time goes on by one tick; what it makes due happens. */
  async #tick(): Promise<void> {
    vi.advanceTimersByTime(TICK_MS);
    await this.#store.idle();
    await this.#store.engine.sweep();
    await this.#store.idle();
    this.#state.step += 1;
    reference.wait(this.#state, TICK_MS);
    await this.#lookAtAll();
  }

  /** The node stops and another begins: on the store as it is, on the store that was closed and opened again, or killed without a word. */
  async #restart({ how }: StepOf<"restart">): Promise<void> {
    if (how !== "killed") this.#hub.drain(0);
    await this.#store.idle();
    for (const client of this.#clients) {
      if (client.line && how !== "killed") assert.deepEqual(client.line.end, client.line instanceof Poll ? { status: 204 } : { code: "draining" });
      client.line = undefined;
    }
    if (how === "killed") await this.#store.kill();
    else if (how === "closed") await this.#store.reopen();
    else await this.#store.detachAll();
    this.#hub = this.#store.hub();
    reference.restart(this.#state);
    reach(how);
    if (this.#isAnythingHeld()) reach("held over a restart");
    if (how !== "drained" && !this.#store.isDurable) await this.#forget();
  }

  /** Nothing survived. */
  async #forget(): Promise<void> {
    this.#state = reference.begin(this.#state.nowMs, this.#state.step);
    await this.#logIn();
    this.#lastEnded = undefined;
    this.#before = await this.#store.totals();
    if (this.#epoch !== undefined) this.#formerEpochs.add(this.#epoch);
    this.#epoch = undefined;
    this.#accepted.clear();
  }

  /** What every client was given: all that it must have, and nothing else. */
  async #lookAtAll(): Promise<void> {
    await this.#store.idle();
    for (const client of this.#clients) this.#look(client);
    for (const reader of this.#state.readers.values()) if (reader.window !== undefined) complete(reader);
  }

  /** The totals, and the state of every message. */
  async #compare(): Promise<void> {
    const { engine } = this.#store;
    const [totals, ...states] = await Promise.all([
      engine.totals(),
      ...this.#state.messages.map(({ id }) => this.#hub.state(this.#names.sender("service"), id as MessageId)),
    ]);
    const { accepted, unsettled, ...endings } = totals;
    const sum = Object.values(endings).reduce((one, other) => one + other, unsettled);
    assert.equal(accepted, sum, "accepted is the sum of all endings and of what has not ended");
    const since = Object.fromEntries(Object.entries(totals).map(([name, count]) => [name, count - this.#before[name as keyof Totals]]));
    assert.deepEqual(since, reference.totals(this.#state), "the accounts");
    for (const [place, { copies, source }] of this.#state.messages.entries()) {
      const recipients = copies.map(({ box, ending }) => `${box.user} ${ending ?? "waiting"}`).sort();
      const said = states[place]?.recipients.map(({ user, state }) => `${user} ${state}`).sort();
      assert.deepEqual({ source: states[place]?.source, recipients: said }, { source, recipients }, "the state of a message");
    }
  }

  /** What came over a line: held against the reference, and received by the client. */
  #hear(client: Client, line: Connection | Poll): readonly Told[] {
    const reader = this.#reader(client);
    const told = line.take().filter((each) => each.what !== "settled" || each.seqs.length > 0);
    for (const each of told) {
      reach(each.what === "gap" ? `gap ${each.reason}` : each.what === "delivery" && each.deliveryCount > 1 ? "delivery again" : each.what);
      if (each.what === "delivery") deliver(reader, each, this.#state.step);
      else if (each.what === "gap") miss(reader, each);
      else settledTold(reader, each.seqs);
    }
    // What a lost answer brought the client never sees.
    if (!(line instanceof Poll && line.isLost)) client.receive(told);
    return told;
  }

  /** A newer line of the same receiver has ended this one. What the newer poll's own acknowledgement gave back may still have come over it. */
  #lookAtReplaced(client: Client, older: Connection | Poll | undefined): void {
    if (!older) return;
    const told = this.#hear(client, older);
    const { end } = older;
    if (older instanceof Connection) assert.deepEqual(end, { code: "replaced" });
    else assert.equal(end && "status" in end && end.status, told.length > 0 ? 200 : 204, "the answer of a poll that was replaced");
    if (end && "cursor" in end) pass(this.#reader(client), end.cursor, `cursor ${end.cursor}`);
  }

  /** What one client was given. */
  #look(client: Client): void {
    const { line } = client;
    if (!line) return;
    const told = this.#hear(client, line);
    if (line instanceof Connection) assert.equal(line.end, undefined, "nothing has ended this connection");
    else this.#lookAtPoll(client, line, told);
  }

  #lookAtPoll(client: Client, poll: Poll, told: readonly Told[]): void {
    const { end, isLost } = poll;
    const reader = this.#reader(client);
    if (!end) {
      assert.ok(Date.now() < poll.untilMs, "a poll ends when its time is up");
      assert.ok(poll.resumed || poll.isNew, "a cursor that cannot be continued is answered at once");
      return;
    }
    const isFresh = poll.step === this.#state.step;
    client.line = undefined;
    assert.ok("status" in end, `the poll was refused: ${JSON.stringify(end)}`);
    if (end.status === 200) {
      assert.ok(told.length > 0 || !poll.resumed, "a poll was answered 200 with nothing");
      this.#learnEpoch(end.epoch);
      assert.equal(end.head, this.#head(client), "the head of the answer");
      pass(reader, end.cursor, `cursor ${end.cursor}`);
      if (!isLost) Object.assign(client, { epoch: end.epoch, cursor: end.cursor });
    } else assert.ok(Date.now() >= poll.untilMs, "a poll was answered 204 before its time was up");
    // A poll that waited has what came first; one that did not has all there is, up to its `max`.
    if (isFresh) complete(reader);
    reference.disconnect(this.#state, reader);
    reach(`poll ${isLost ? "lost" : end.status}${isFresh ? "" : " later"}`);
  }

  #learnEpoch(epoch: string | undefined): void {
    assert.ok(epoch !== undefined && !this.#formerEpochs.has(epoch), "an epoch that ended came again");
    this.#epoch ??= epoch;
    assert.equal(epoch, this.#epoch, "the epoch in force");
  }

  #isEpoch(epoch: string | undefined): boolean {
    return epoch !== undefined && epoch === this.#epoch;
  }

  /** The cursor that the core is to take up, if its epoch is right. */
  #cursorIn({ epoch, cursor }: Where): number | undefined {
    return this.#isEpoch(epoch) ? cursor : undefined;
  }

  #client(who: number): Client {
    const client = this.#clients[who];
    assert.ok(client);
    return client;
  }

  #head({ identity }: Client): number {
    return reference.headOf(reference.boxOf(this.#state, identity.user));
  }

  #reader({ identity, id }: Client): Reader {
    return reference.readerOf(this.#state, identity.user, identity.session, id);
  }
}

function withoutId({ ttl, recipients, refused }: Accepted) {
  return { ttl, recipients, refused };
}

function expected(outcome: Outcome) {
  if ("code" in outcome) return outcome.code;
  const { ttl, copies, refused } = outcome.message;
  return { ttl, recipients: copies.map(({ box }) => box.user), refused: refused.length === 0 ? undefined : refused };
}
