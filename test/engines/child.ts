/**
 * A process of its own for the tests that kill it, hurt its disk, or contend for its folder: `node child.ts <what> <folder> …`.
 * It says one line for each thing that has happened.
 */
import { writeFileSync, writeSync } from "node:fs";
import type { Attachment } from "../../src/engine.ts";
import { type SqliteEngine, sqliteEngine } from "../../src/engines/sqlite.ts";
import { HandoverError } from "../../src/errors.ts";
import type { SessionId, UserId } from "../../src/protocol.ts";
import { makeMessage } from "./message.ts";

const [what = "", dir = "", argument = ""] = process.argv.slice(2);
// Written at once: what was said before a SIGKILL has been said.
function say(line: string): void {
  const bytes = Buffer.from(`${line}\n`);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(1, bytes, at);
    } catch (thrown) {
      // The pipe is full: the test reads slowly.
      if ((thrown as NodeJS.ErrnoException).code !== "EAGAIN") throw thrown;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}
const codeOf = (thrown: unknown) => (thrown instanceof HandoverError ? thrown.code : String(thrown));

async function open(commitTimeoutMs?: number): Promise<SqliteEngine> {
  const engine = sqliteEngine({ dir, reserveBytes: 65_536, log: say, ...(commitTimeoutMs === undefined ? {} : { commitTimeoutMs }) });
  await engine.open((cause) => say(`failed ${cause.code}`));
  return engine;
}

/** Sends with many callers at once, and acknowledges every third, until it is killed. */
async function churn(): Promise<void> {
  const engine = await open();
  const desks = new Map<UserId, Attachment>();
  for (const user of ["u0", "u1", "u2", "u3"] as UserId[]) {
    const seen = (entries: readonly { seq: number; id: string }[]) => {
      for (const { seq, id } of entries) {
        if (!id.endsWith("0") && !id.endsWith("5")) continue;
        say(`acking ${id}`);
        void desks
          .get(user)
          ?.settle([{ kind: "acked", seqs: [seq] }], "s" as SessionId)
          .then(() => say(`acked ${id}`));
      }
    };
    desks.set(user, await engine.attach(user, { deliver: seen, ended: () => {}, lost: () => {} }));
  }
  say("ready");
  const caller = async (caller: number) => {
    for (let n = 0; ; n += 1) {
      const message = makeMessage(`${argument}-${caller}-${n}`, [`u${n % 4}`]);
      await engine.append([message]);
      say(`stored ${message.id}`);
    }
  };
  await Promise.all(Array.from({ length: 16 }, (_none, n) => caller(n)));
}

/** Stores one message, then makes the disk misbehave, and tries more. `argument`: how the shim is told, and what it shall do. */
async function suffer(): Promise<void> {
  const [file = "", fault = ""] = argument.split(",");
  const engine = await open(2_000);
  const desk = await engine.attach("u" as UserId, { deliver: () => {}, ended: () => {}, lost: (cause) => say(`lost ${cause.code}`) });
  await engine.append([makeMessage("before", ["u"]), makeMessage("kept", ["u"])]);
  say("stored before");
  writeFileSync(file, fault);
  const tries = [
    engine.append([makeMessage("during", ["u"])]).then(() => "stored during"),
    desk.settle([{ kind: "acked", seqs: [1] }], "s" as SessionId).then(() => "acked before"),
    engine.totals().then(() => "counted"),
  ];
  for (const result of await Promise.allSettled(tries)) say(result.status === "fulfilled" ? result.value : `refused ${codeOf(result.reason)}`);
  // The fault is over; a store that has failed stays so.
  writeFileSync(file, "");
  await engine.append([makeMessage("after", ["u"])]).then(
    () => say("stored after"),
    (thrown: unknown) => say(`refused ${codeOf(thrown)}`),
  );
  await engine.close();
  say("done");
  process.exit(3);
}

async function hold(): Promise<void> {
  const engine = await open();
  await engine.append([makeMessage("held", ["u"])]);
  say("ready");
}

const program = { churn, suffer, hold }[what];
if (!program) throw new Error(`unknown: ${what}`);
program().catch((thrown: unknown) => {
  say(`error ${String(thrown)}`);
  process.exit(1);
});
