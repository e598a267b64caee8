/**
 * PROTOCOL.md as a program: what a server must answer, and what it may and must hand to whom. Written from the document, not from `src/`; it keeps
 * everything and looks through all of it each time, so that there is little in it that can be wrong. A step is carried out on the real core first and
 * then here: what is returned is what the answer must have been; what a receiver was given is held against it by `handing.ts`.
 * @module
 */
import type { Box, Copy, Ending, Forms, Message, Outcome, Reader, Sending, State } from "./words.ts";

/** The bounds that the real core is given too. */
export const [CAP, MAX_ATTEMPTS] = [8, 2];
const [TTL_ZERO_S, WEEK_S, LIVE_AFTER_POLL_MS, REMEMBERED_MS] = [30, 7 * 24 * 3600, 30_000, 90_000];

export function begin(nowMs: number, step: number): State {
  return { nowMs, step, messages: [], boxes: new Map(), keys: new Map(), readers: new Map(), endedSessions: new Set() };
}

export const headOf = (box: Box) => box.numbers.length - 1;
export const copiesOf = (state: State) => state.messages.flatMap(({ copies }) => copies);
export const isToSession = ({ message }: Copy, { session }: Reader) => (message.sending.session ?? session) === session;
/** What is addressed to a session is for its receivers, and TTL 0 for those who were live at its acceptance. */
export const isFor = (copy: Copy, reader: Reader) => isToSession(copy, reader) && (copy.only?.has(reader.key) ?? true);

export function boxOf({ boxes }: State, user: string): Box {
  const box = boxes.get(user) ?? { user, numbers: [undefined] };
  boxes.set(user, box);
  return box;
}

/** A call of one or more messages: one commit, all or none. */
export function send(state: State, source: string, sendings: readonly Sending[]): Outcome[] {
  const trial = sendings.length > 1 ? structuredClone(state) : state;
  const outcomes = sendings.map((sending) => accept(trial, source, sending));
  if (sendings.length === 1) return outcomes;
  if (outcomes.every((outcome) => "message" in outcome)) return sendings.map((sending) => accept(state, source, sending));
  // What an earlier call stored is told again; nothing of this one is.
  return outcomes.map((outcome) => {
    const known = "message" in outcome && state.messages.find(({ id }) => id !== "" && id === outcome.message.id);
    return known ? { message: known } : "code" in outcome ? outcome : { code: "invalid" };
  });
}

function accept(state: State, source: string, sending: Sending): Outcome {
  const { nowMs, keys, messages } = state;
  const { to, key, session, topic, ttl = WEEK_S } = sending;
  const known = key === undefined ? undefined : keys.get(`${source} ${key}`);
  if (known) return JSON.stringify(known.sending) === JSON.stringify(sending) ? { message: known } : { code: "key-reuse" };
  if (session !== undefined && state.endedSessions.has(session)) return { code: "unknown" };
  const isTo = (reader: Reader) => to.includes(reader.box.user) && (session ?? reader.session) === reader.session;
  const isLive = ({ window, polls, seenAtMs }: Reader) => window !== undefined || (polls && nowMs - seenAtMs < LIVE_AFTER_POLL_MS);
  const live = [...state.readers.values()].filter((reader) => isTo(reader) && isLive(reader)).map((reader) => reader.key);
  const isOver = ttl === 0 && live.length === 0;
  const open = (user: string) => copiesOf(state).filter(({ box, ending }) => box.user === user && !ending);
  const isSameTopic = ({ message: { sending: other, source: by } }: Copy) => other.topic === topic && by === source && other.session === session;
  const replaced = (user: string) => (topic === undefined ? undefined : open(user).find(isSameTopic));
  const taken = to.filter((user) => isOver || open(user).length - (replaced(user) ? 1 : 0) < CAP);
  if (taken.length === 0) return { code: "mailbox-full" };
  const expiresAtMs = nowMs + (isOver ? 0 : (ttl || TTL_ZERO_S) * 1000);
  const message: Message = { id: "", source, sending, ttl, expiresAtMs, copies: [], refused: to.filter((user) => !taken.includes(user)) };
  for (const user of taken) {
    const older = replaced(user);
    if (older) end(state, older, "replaced");
    const fresh = { seq: undefined, count: 1, backAtMs: 0, ending: undefined, endedIn: 0, endedBy: undefined, heldBy: new Set<string>() };
    const copy: Copy = { message, box: boxOf(state, user), ...fresh, only: ttl === 0 ? new Set(live) : undefined };
    message.copies.push(copy);
    number(copy);
    if (isOver) end(state, copy, "expired");
  }
  messages.push(message);
  if (key !== undefined) keys.set(`${source} ${key}`, message);
  return { message };
}

/** Puts a copy at the end of its mailbox; its old number, if it had one, is a hole. */
function number(copy: Copy): void {
  copy.seq = copy.box.numbers.push(copy) - 1;
}

function end(state: State, copy: Copy, ending: Ending, by?: Reader): void {
  if (copy.seq === undefined) number(copy);
  Object.assign(copy, { ending, endedIn: state.step, endedBy: by?.key });
  const seq = copy.seq ?? 0;
  for (const reader of state.readers.values()) {
    if (reader.box !== copy.box) continue;
    const had = reader.inFlight.delete(seq) || copy.heldBy.has(reader.key) || (seq <= reader.claimed && isFor(copy, reader));
    if (had && reader !== by) reader.owed.add(seq);
  }
}

/** @returns from how many it was taken back, or undefined: no message of this sender's */
export function takeBack(state: State, message: Message, source: string): number | undefined {
  if (message.source !== source && source.startsWith("/users/")) return undefined;
  const open = message.copies.filter(({ ending }) => !ending);
  for (const copy of open) end(state, copy, "evicted");
  return open.length;
}

/** What is addressed to it is evicted, and its receivers are forgotten. */
export function endSession(state: State, session: string): void {
  state.endedSessions.add(session);
  for (const copy of copiesOf(state)) if (!copy.ending && copy.message.sending.session === session) end(state, copy, "evicted");
  for (const reader of state.readers.values()) if (reader.session === session) state.readers.delete(reader.key);
}

/** A receiver that the server has heard of. */
export function readerOf(state: State, user: string, session: string, id: string): Reader {
  const key = `${user} ${session} ${id}`;
  const box = boxOf(state, user);
  const sets = { given: new Set<number>(), inFlight: new Set<number>(), owed: new Set<number>() };
  const fresh = { window: undefined, polls: false, seenAtMs: state.nowMs, position: 0, claimed: 0, gapsFrom: 0 };
  const reader = state.readers.get(key) ?? { key, session, box, ...fresh, ...sets };
  state.readers.set(key, reader);
  return reader;
}

/** A connection or poll begins. @param cursor  under the right epoch, or undefined @returns whether it goes on from its cursor */
export function connect(reader: Reader, cursor: number | undefined, window: number, polls: boolean): boolean {
  const { box, inFlight, given } = reader;
  const resumed = cursor !== undefined && cursor <= headOf(box);
  const position = resumed ? cursor : 0;
  Object.assign(reader, { position, claimed: position, gapsFrom: resumed ? cursor : headOf(box), window, polls });
  given.clear();
  for (const seq of inFlight) if (polls || seq > position) inFlight.delete(seq);
  for (const copy of box.numbers) if (copy?.seq !== undefined && copy.seq > position) copy.heldBy.delete(reader.key);
  return resumed;
}

/** Its connection or poll is over; for a while it is remembered. */
export function disconnect(state: State, reader: Reader): void {
  Object.assign(reader, { window: undefined, seenAtMs: state.nowMs });
}

/** @param cursor  what the receiver says it has received @returns how many newly ended */
export function acknowledge(state: State, reader: Reader, forms: Forms, cursor: number | undefined): number {
  const { box, given, inFlight, key } = reader;
  const { upto = 0, seqs = [], hold = [], nack = [], reject = [] } = forms;
  if (cursor !== undefined && cursor <= headOf(box)) reader.claimed = Math.max(reader.claimed, cursor);
  const isHanded = (seq: number) => given.has(seq) || seq <= reader.claimed;
  /** What is unsettled under this number, if it was handed to this receiver. */
  const open = (seq: number): Copy[] => {
    const copy = box.numbers[seq];
    return copy?.seq === seq && !copy.ending && isFor(copy, reader) && isHanded(seq) ? [copy] : [];
  };
  const named = [...seqs, ...hold, ...[...nack, ...reject].map(({ seq }) => seq)];
  const below = box.numbers.flatMap((_, seq) => (seq > 0 && seq <= upto && !named.includes(seq) ? seq : []));
  for (const seq of [...named, ...below]) if (isHanded(seq)) inFlight.delete(seq);
  for (const copy of hold.flatMap(open)) copy.heldBy.add(key);
  const acked = [...seqs.flatMap(open), ...below.flatMap(open).filter(({ heldBy }) => !heldBy.has(key))];
  const isLast = ({ count }: Copy) => count >= MAX_ATTEMPTS;
  const back = nack.flatMap(({ seq, retryAfter = 0 }) => open(seq).map((copy) => ({ copy, retryAfter })));
  const dead = [...reject.flatMap(({ seq }) => open(seq)), ...back.flatMap(({ copy }) => (isLast(copy) ? copy : []))];
  for (const copy of acked) end(state, copy, "acked", reader);
  for (const copy of dead) end(state, copy, "dead", reader);
  for (const { copy, retryAfter } of back) {
    if (isLast(copy)) continue;
    copy.heldBy.clear();
    Object.assign(copy, { seq: undefined, count: copy.count + 1, backAtMs: state.nowMs + retryAfter * 1000 });
    if (retryAfter === 0) number(copy);
  }
  return acked.length + dead.length;
}

/** Time passes, and what it makes due happens: in the order of its times, or of acceptance. */
export function wait(state: State, ms: number): void {
  state.nowMs += ms;
  const { nowMs } = state;
  const due = ({ message, seq, backAtMs }: Copy) => Math.min(message.expiresAtMs, seq === undefined ? backAtMs : Number.POSITIVE_INFINITY);
  const open = copiesOf(state).filter((copy) => !copy.ending && due(copy) <= nowMs);
  for (const copy of open.sort((one, other) => due(one) - due(other))) {
    if (copy.message.expiresAtMs <= nowMs) end(state, copy, "expired");
    else number(copy);
  }
  for (const { key, window, polls, seenAtMs } of state.readers.values()) {
    if (window === undefined && nowMs - seenAtMs >= (polls ? LIVE_AFTER_POLL_MS : REMEMBERED_MS)) state.readers.delete(key);
  }
}

/** The server stops and starts again: it remembers no receivers, and so not for whom a TTL 0 was: for the rest of its 30 s it is for whoever comes. */
export function restart(state: State): void {
  state.readers.clear();
  for (const copy of copiesOf(state)) copy.only = undefined;
}

/** What was accepted, by its ending. */
export function totals(state: State): Record<"accepted" | "unsettled" | Ending, number> {
  const sums = { accepted: 0, unsettled: 0, acked: 0, expired: 0, replaced: 0, evicted: 0, dead: 0 };
  for (const { ending } of copiesOf(state)) {
    sums.accepted += 1;
    sums[ending ?? "unsettled"] += 1;
  }
  return sums;
}
