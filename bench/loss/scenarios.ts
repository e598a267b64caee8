/**
 * The faults of the loss table. Each happens to several users at the same time, each with a page on a line of its own; what is counted is what
 * the sender was told is accepted, and what the page's handler did to the end.
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Peer, PeerServer } from "./peer.ts";
import { type Round, TEXT, User } from "./user.ts";

/** Of the rounds of one peer together, so that all have sent the same number. */
export const USERS = 60;
/** Users at the same time on one server, unless the peer takes fewer. */
const USERS_AT_ONCE = 20;
/** Messages for each user. */
const MESSAGES = 5;
const HOUR_MS = 3_600_000;
/** How long what was sent before is waited for once a page is back, and how long for what comes twice. */
const GRACE_MS = 5_000;
const REPEAT_MS = 1_000;
/** How long a page is left alone before anything goes wrong: it has changed to WebSocket by then, and acknowledged. */
const SETTLE_MS = 1_000;
/** How long acknowledgements have to arrive before a page is left. */
const QUIET_MS = 1_000;

interface Scenario {
  readonly name: string;
  /** What happens to each user, as the document says it. */
  readonly says: string;
  readonly movesClock?: boolean;
  /** The fault; the page is open and has received when it begins. */
  run(round: Round): Promise<unknown>;
  /** The tab that is there at the end; the first one unless said. */
  readonly last?: string;
  /** Whoever promises "at least once" repeats here; so no repetition is a mistake. */
  readonly repeats?: boolean;
}

/** All users at the same time. */
const each = (round: Round, what: (user: User) => unknown) => Promise.all(round.users.map(what));

async function until(condition: () => boolean, atMostMs: number): Promise<void> {
  for (const end = Date.now() + atMostMs; !condition() && Date.now() < end; ) await sleep(10);
}

export const SCENARIOS: readonly Scenario[] = [
  {
    name: "nothing goes wrong",
    says: "The page is open. Five messages are sent.",
    run: (round) => each(round, (user) => user.send(1, MESSAGES)),
  },
  {
    name: "client gone before the answer",
    says: "The page's line falls silent without a word, as when a network goes. Five messages are sent; what the server writes does not arrive. The line breaks and is mended, and the client of the same page comes back by itself.",
    run: (round) =>
      each(round, async (user) => {
        const before = user.line().swallowed;
        user.line().silence();
        await user.send(1, MESSAGES);
        await until(() => user.line().swallowed - before > TEXT.length, 3_000);
        user.line().cut();
        user.line().mend();
      }),
  },
  {
    name: "page reloaded",
    says: "The page is left (its connections close), five messages are sent, the page is loaded again.",
    run: (round) =>
      each(round, async (user) => {
        user.leave();
        await user.send(1, MESSAGES);
        await user.reload();
      }),
  },
  {
    name: "handler interrupted",
    says: "Five messages are sent. The application's work on the third is not done yet when the page is left and loaded again; the rest was done a second before, so that acknowledgements of it could arrive.",
    run: (round) =>
      each(round, async (user) => {
        user.interrupted = 3;
        await user.send(1, MESSAGES);
        await until(() => user.started.has(3), GRACE_MS);
        await sleep(QUIET_MS);
        await user.reload();
      }),
  },
  {
    name: "page left as its handler ends",
    says: "Five messages are sent. In the moment in which the work on the third is done, the line is cut, before anything can say so; the page is loaded again. Who acknowledges after the work must repeat the third: that is what “at least once” costs.",
    repeats: true,
    run: (round) =>
      each(round, async (user) => {
        user.cutsAfter = 3;
        await user.send(1, MESSAGES);
        await until(() => user.handled.get("a")?.has(3) === true, GRACE_MS);
        await user.reload();
      }),
  },
  {
    name: "server killed",
    says: "The page's line is cut. Five messages are sent for each user; when half of all are accepted the server, and what it keeps its data in, is killed with `kill -9` and started again, while the sender goes on. Then the lines are mended.",
    async run(round) {
      for (const user of round.users) user.line().cut();
      const sending = each(round, (user) => user.send(1, MESSAGES));
      const accepted = () => round.users.reduce((sum, user) => sum + user.accepted.size, 0);
      await until(() => accepted() >= (round.users.length * MESSAGES) / 2, GRACE_MS);
      await round.server.kill();
      await round.server.restart();
      await sending;
      for (const user of round.users) user.line().mend();
    },
  },
  {
    name: "two tabs",
    says: "Two tabs of one user are open. Five messages are sent, then one tab is left for good, at once, and five more are sent. What counts is that the user sees each in one of them at least; that both show it is no repetition.",
    last: "b",
    run: (round) =>
      each(round, async (user) => {
        await user.open("b");
        await user.isBack("b");
        await user.send(1, MESSAGES);
        await until(() => user.seen.size === MESSAGES, 2_000);
        user.leave("a");
        await user.send(MESSAGES + 1, 2 * MESSAGES);
      }),
  },
  {
    name: "offline for an hour",
    says: "The page's line is cut, five messages are sent, the server's clocks (time of day and monotonic) are moved on by an hour with libfaketime, the line is mended. The page stays open; its own clock stands still, as a laptop's that sleeps.",
    movesClock: true,
    async run(round) {
      await each(round, async (user) => {
        user.line().cut();
        await user.send(1, MESSAGES);
      });
      // What is still under way comes to its end before.
      await sleep(QUIET_MS);
      round.server.moveOn(HOUR_MS);
      // The server's timers of that hour come due.
      await sleep(3_000);
      for (const user of round.users) user.line().mend();
    },
  },
];

export interface Count {
  /** The sender was told that it is accepted. */
  readonly sent: number;
  /** Of those, handled to the end at least once. */
  readonly seen: number;
  readonly lost: number;
  /** Handled to the end once more, by the same page or the one that was loaded in its place. */
  readonly repeated: number;
  /** Pages to which nothing got any more, not even a message sent afterwards. */
  readonly deaf: number;
  /** How many both of two tabs had. */
  readonly inBoth: number;
}

/** Plays a scenario with 60 users, in as many rounds as it takes, each with a server of its own. @returns what was counted in each round */
export function play(peer: Peer, scenario: Scenario): Promise<Count[]> {
  const usersAtOnce = peer.usersAtOnce ?? USERS_AT_ONCE;
  const round = (): Promise<Count> =>
    playRound(peer, scenario, usersAtOnce).catch((error) => {
      // Node ends when its clock goes backwards, which no real one does and libfaketime's did, once in some fifty rounds.
      if (!scenario.movesClock || !String(error).includes("Assertion failed: (time) >= (prev_)")) throw error;
      console.error(`${scenario.name} | ${peer.title}: Node ended, since libfaketime set its clock back; the round is played again`);
      return round();
    });
  return Promise.all(Array.from({ length: USERS / usersAtOnce }, round));
}

async function playRound(peer: Peer, scenario: Scenario, usersAtOnce: number): Promise<Count> {
  const server = await PeerServer.start(peer, scenario.movesClock === true);
  const sender = await peer.openSender(server.url, server.nowMs);
  const users: User[] = [];
  const round: Round = { peer, server, sender, users };
  for (let n = 1; n <= usersAtOnce; n++) users.push(new User(`user-${n}`, round));
  try {
    await each(round, (user) => user.open());
    await each(round, (user) => user.isBack());
    if (users.some(({ isDeaf }) => isDeaf)) throw new Error(`${peer.title}: pages received nothing before anything went wrong.`);
    await sleep(SETTLE_MS);
    await scenario.run(round);
    await each(round, (user) => user.isBack(scenario.last));
    await until(() => users.every(({ lost }) => lost === 0), GRACE_MS);
    await sleep(REPEAT_MS);
    server.check();
    if (process.env.LOSS_TABLE_DETAIL) for (const user of users) console.log(`  ${server.url} ${user}`);
    const sum = (of: (user: User) => number) => users.reduce((total, user) => total + of(user), 0);
    return {
      sent: sum(({ accepted }) => accepted.size),
      seen: sum(({ accepted, lost }) => accepted.size - lost),
      lost: sum(({ lost }) => lost),
      repeated: sum(({ repeated }) => repeated),
      deaf: sum(({ isDeaf }) => Number(isDeaf)),
      inBoth: sum(({ handled }) => [...(handled.get("a")?.keys() ?? [])].filter((n) => n > 0 && handled.get("b")?.has(n)).length),
    };
  } finally {
    await Promise.race([sender.close(), sleep(500)]);
    await each(round, (user) => user.close());
    await server.remove();
  }
}
