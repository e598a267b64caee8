// Plays the long suites, one after the other, and writes down in docs/soak.md what was played and how it ended. `npm run soak`, or with words to
// choose: `npm run soak -- SDK`. What is not chosen keeps its line. HANDOVER_SEED chooses the seed, else it is a new one.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir, totalmem, type } from "node:os";
import { join } from "node:path";

/**
 * Each is a test that `npm test` plays for a short while: its file, the rule in its title, and how long it is to be played here. A new one is a line;
 * it says what it has played with `played` of test/support/soak.ts.
 */
const SUITES = [
  { name: "SQLite and memory agree", file: "test/engines/model.test.ts", rule: "E57", env: { HANDOVER_RUNS: "5000" } },
  { name: "x0, random and mutated requests", file: "test/x0/fuzz.test.ts", rule: "X56", env: { HANDOVER_RUNS: "200000" } },
  { name: "SDK, a network that loses", file: "test/client/network.test.ts", rule: "C64", env: { HANDOVER_RUNS: "10000" } },
  { name: "x0, reloads of its page", file: "test/x0/page.test.ts", rule: "X37", env: { HANDOVER_RUNS: "100" } },
  { name: "tabs, the leader goes", file: "test/browser/tabs.test.ts", rule: "C32", env: { HANDOVER_ROUNDS: "20" } },
  { name: "tabs, many messages", file: "test/browser/tabs.test.ts", rule: "C41", env: { HANDOVER_MESSAGES: "100000" } },
];

const root = new URL("..", import.meta.url).pathname;
const report = join(root, "docs/soak.md");
const HEAD = `# Soak

What \`npm run soak\` played last, suite by suite. A seed plays the same again: \`HANDOVER_SEED=… npm run soak -- …\`.

| suite | rule | date | commit | machine | seed | played | duration | result |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
`;
const seed = process.env.HANDOVER_SEED ?? String(Date.now() % 2 ** 31);
// Settings of the person's own shell are not the tests' settings.
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HANDOVER_")));
const words = process.argv.slice(2);
const chosen = SUITES.filter(({ name }) => words.every((word) => name.includes(word)));

const says = (command, ...args) => spawnSync(command, args, { cwd: root, encoding: "utf8" }).stdout.trim();
const isClean = says("git", "status", "--porcelain", "--", ".", ":!docs/soak.md") === "";
const commit = `${says("git", "rev-parse", "--short", "HEAD")}${isClean ? "" : " and changes"}`;
const gigabytes = Math.round(totalmem() / 2 ** 30);
const machine = `${cpus().length} × ${cpus()[0]?.model.trim() || process.arch}, ${gigabytes} GB, ${type()} ${release()}, Node ${process.versions.node}`;

/** The lines of the report, by suite. */
const lines = new Map();
if (existsSync(report)) {
  for (const line of readFileSync(report, "utf8").split("\n")) {
    const suite = SUITES.find(({ name }) => line.startsWith(`| ${name} |`));
    if (suite) lines.set(suite.name, line);
  }
}

const build = spawnSync("npm", ["run", "--silent", "build"], { cwd: root, stdio: "inherit", env });
if (build.status !== 0) process.exit(1);

let wrong = 0;
for (const suite of chosen) {
  const folder = mkdtempSync(join(tmpdir(), "handover-soak-"));
  const file = join(folder, "played.txt");
  const startedMs = Date.now();
  const args = ["run", suite.file, "--testNamePattern", `\\[${suite.rule}\\]`];
  const { status } = spawnSync("vitest", args, {
    cwd: root,
    stdio: "inherit",
    env: { ...env, ...suite.env, HANDOVER_SEED: seed, HANDOVER_SOAK: file },
  });
  const played = existsSync(file) ? readFileSync(file, "utf8").trim().replaceAll("\n", "; ") : "";
  rmSync(folder, { recursive: true });
  // A test that was not there, or was left out, has played nothing.
  const isRight = status === 0 && played !== "";
  if (!isRight) wrong += 1;
  const date = new Date(startedMs).toISOString().slice(0, 16).replace("T", " ");
  const seconds = Math.round((Date.now() - startedMs) / 1000);
  const cells = [suite.name, suite.rule, date, commit, machine, seed, played || "nothing", `${seconds} s`, isRight ? "passed" : "**failed**"];
  lines.set(suite.name, `| ${cells.join(" | ")} |`);
  writeFileSync(report, `${HEAD}${SUITES.flatMap(({ name }) => lines.get(name) ?? []).join("\n")}\n`);
  console.log(lines.get(suite.name));
}
console.log(`${chosen.length - wrong} of ${chosen.length} suites passed; see docs/soak.md`);
process.exit(wrong === 0 && chosen.length > 0 ? 0 : 1);
