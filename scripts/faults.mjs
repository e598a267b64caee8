// `npm run faults`: the long form of every fault test, then its controls (mistakes of test/mutations.json that the short form must see), and
// docs/reliability.md from what they found. `npm run faults -- R4 R5` runs those only; the page keeps what the last run of the others found.
// Wants root on Linux, loop devices, gcc, e2fsprogs, xfsprogs and faketime; about an hour on two cores.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { MUTATIONS, tryMutation } from "./mutate.mjs";
import { page } from "./reliability.mjs";

const root = new URL("..", import.meta.url).pathname;
/** What each fault is, what is looked for, and the tests that do it. */
const FAULTS = {
  R1: {
    title: "The process is killed",
    text: "SIGKILL under load on WebSocket, long polling and HTTP, with acknowledgements, again and again on the same store. The driver keeps a ledger. After each start: what was answered 201 and not acknowledged is delivered, what was answered `acked` is not. And in small: after each commit of random ones a copy of the files, as a process that is killed there leaves them, says all that the store says.",
    files: ["test/crash.test.ts", "test/engines/fresh.test.ts"],
  },
  R2: {
    title: "The power is cut",
    text: "The store works on a disk that is a file (a loop device). Under load the process is frozen and the file copied: what had not reached the disk is gone. The copy is mounted, opened and compared with what the process had said.",
    files: ["test/faults/power.test.ts"],
  },
  R3: {
    title: "The power is cut at any moment",
    text: "A preloaded library notes every write, sync and truncation, and what the process says. From that, disks are made as a cut at some moment could have left them: all that was synced, and of the rest some, torn at 512 bytes.",
    files: ["test/faults/replay.test.ts"],
  },
  R4: {
    title: "The disk gives back something else",
    text: "Bits turned over, pages zeroed, files cut, emptied, gone or old, in stores that were closed, killed, or killed when new. Nothing wrong may be delivered, nothing to anybody else, and no loss may go unsaid: `unharmed`, `quarantined` (a dead letter, a metric and a log line), or `refused` (no start, and what to do). What is refused is repaired by the doctor; `saved` of `owed` counts where pages were damaged.",
    files: ["test/faults/rot.test.ts", "test/maintenance.test.ts"],
  },
  R5: {
    title: "The disk is full",
    text: "Data and log on a small ext4, filled to the last byte. 507 and never a false 201; mail is read, acknowledged and taken back; it is taken again within 5 s of room, by the same process.",
    files: ["test/faults/full.test.ts", "test/engines/sqlite-disk.test.ts"],
  },
  R6: {
    title: "The disk fails",
    text: "Under load, syncs fail or hang, or writes fail. Who waits is answered 503, the process says why and ends, nothing accepted is lost and nothing acknowledged is back.",
    files: ["test/failstop.test.ts"],
  },
  R7: {
    title: "The server is stopped",
    text: "SIGTERM under load on WebSocket, long polling and HTTP, again and again. Nothing accepted is lost or handled twice, who is refused is answered 503 with a time to come back, and the process is gone within 10 s. Hundreds of pages come back spread out: no second has more than a fifth of them.",
    files: ["test/faults/drain.test.ts"],
  },
  R8: {
    title: "The network loses answers",
    text: "A proxy loses every fifth answer after the work was done, cuts others in their middle, makes every tenth request twice and breaks WebSockets; meanwhile the server is killed once. By its key each send is stored once, by its id each message is handled once, and what is sent again later has the first answer. Without keys some are stored twice: the control.",
    files: ["test/faults/network.test.ts"],
  },
  R9: {
    title: "Anything, in any order",
    text: "Random sequences of everything that senders, receivers, time and an operator can do, the embedded store opened again and killed among it, on the real core and on a second, short writing of the protocol (`test/model/reference.ts`). After each step they are compared: every answer, what each receiver was handed and told, every ending, and the accounts.",
    files: ["test/model.test.ts"],
  },
  R12: {
    title: "The time of day jumps",
    text: "By 2 hours and by a day, forward and back, under load (libfaketime; in smaller tests a clock of the test). What lasts is measured by a clock that nobody sets: no connection breaks, polls take their time, who polls is live, what was nacked waits no longer, nothing is lost, doubled or out of order, ids go forward. What is a date follows the time of day: `ttl`, and a token's `exp` when it is shown.",
    files: ["test/faults/clock.test.ts", "test/engines/clock.test.ts", "test/auth.test.ts"],
  },
  R14: {
    title: "Peers fall silent",
    text: "Their lines swallow everything, and say nothing of it. Each is let go of and counts as live no longer within 45 s, on WebSocket, server-sent events and long polling; nothing that was on its way to them counts as processed, and who comes back by another transport gets all of it, once.",
    files: ["test/faults/silent.test.ts"],
  },
};

const words = process.argv.slice(2);
const unknown = words.filter((word) => !(word in FAULTS));
if (unknown.length > 0) {
  console.error(`There is no ${unknown.join(", ")}; there are ${Object.keys(FAULTS).join(", ")}.`);
  process.exit(1);
}
const chosen = Object.keys(FAULTS).filter((fault) => words.length === 0 || words.includes(fault));

const resultsFile = join(root, "docs/reliability.json");
const results = existsSync(resultsFile) ? JSON.parse(readFileSync(resultsFile, "utf8")) : { found: {}, controls: {} };
const folder = mkdtempSync(join(tmpdir(), "handover-faults-"));
const reportFile = join(folder, "report.jsonl");
const leftOutFile = join(folder, "left-out.jsonl");
const linesOf = (file) =>
  existsSync(file)
    ? readFileSync(file, "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line))
    : [];
const today = new Date().toISOString().slice(0, 10);
const git = (...args) => spawnSync("git", args, { cwd: root, encoding: "utf8" }).stdout.trim();
// What this writes itself is no change of what is tried.
const isClean = git("status", "--porcelain", "--", ".", ":!docs/reliability.*") === "";
const commit = `${git("rev-parse", "--short", "HEAD")}${isClean ? "" : " and changes"}`;

let failed = 0;
for (const fault of chosen) {
  console.log(`\n${fault} ${FAULTS[fault].title}`);
  for (const file of [reportFile, leftOutFile]) rmSync(file, { force: true });
  const env = { ...process.env, HANDOVER_FAULTS: "long", HANDOVER_FAULTS_REPORT: reportFile, HANDOVER_TEST_LEFT_OUT: leftOutFile };
  const { status } = spawnSync("vitest", ["run", "--maxWorkers=1", ...FAULTS[fault].files], { cwd: root, env, stdio: "inherit" });
  if (status !== 0) failed += 1;
  const leftOut = linesOf(leftOutFile);
  for (const { suite, reason, how } of leftOut) console.log(`left out: ${suite} (${reason}). To have it: ${how}`);
  results.found[fault] = {
    date: today,
    commit,
    passed: status === 0,
    rows: linesOf(reportFile).map(({ fault: what, figures }) => ({ what, figures })),
    leftOut: leftOut.map(({ suite, reason }) => ({ suite, reason })),
  };
  const mutations = MUTATIONS.filter((each) => each.fault?.split(", ").includes(fault));
  // Written before and after each, so that a run that is broken off leaves what it found, and says what it did not come to.
  results.controls[fault] = mutations.map(({ says }) => ({ says, found: "not tried", passed: false }));
  write();
  for (const [place, mutation] of mutations.entries()) {
    const { isRight, found, expected } = tryMutation(mutation);
    if (!isRight) failed += 1;
    results.controls[fault][place] = { says: mutation.says, found, passed: isRight, ...(isRight ? {} : { expected }) };
    write();
  }
}
rmSync(folder, { recursive: true });
console.log(`wrote docs/reliability.md${failed === 0 ? "" : `: ${failed} failed, and it says so`}`);
process.exit(failed === 0 ? 0 : 1);

function write() {
  results.machine = `${cpus().length} × ${cpus()[0]?.model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.version}`;
  writeFileSync(resultsFile, `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(join(root, "docs/reliability.md"), page(results, FAULTS));
}
