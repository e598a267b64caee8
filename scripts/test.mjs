// What `npm test` runs: the checks of the code, every suite, and at the end a line for each suite that was left out.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folder = mkdtempSync(join(tmpdir(), "handover-test-"));
const leftOutFile = join(folder, "left-out.jsonl");
const resultFile = join(folder, "result.json");
const names = process.argv.slice(2);
// The command is started some hundred times: what Node has compiled once it need not compile again.
const env = { ...process.env, HANDOVER_TEST_LEFT_OUT: leftOutFile, NODE_COMPILE_CACHE: join(folder, "compiled") };
// Settings of the person's own shell are not the tests' settings.
for (const name of Object.keys(env)) if (name.startsWith("HANDOVER_") && name !== "HANDOVER_TEST_LEFT_OUT") delete env[name];

let status = 0;
function step(command, ...args) {
  const result = spawnSync(command, args, { stdio: "inherit", env });
  if (result.status !== 0) status = 1;
}

if (names.length === 0) step("npm", "run", "--silent", "check");
step("vitest", "run", "--reporter=default", "--reporter=json", `--outputFile.json=${resultFile}`, ...names);

const leftOut = existsSync(leftOutFile)
  ? readFileSync(leftOutFile, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
  : [];
// One line for each thing that is missing.
for (const [why, those] of Map.groupBy(leftOut, ({ reason, how }) => `(${reason}). To have it: ${how}`))
  console.log(`left out: ${those.map(({ suite }) => suite).join("; ")} ${why}`);
if (!existsSync(resultFile)) {
  console.log("The tests did not run.");
  status = 1;
} else {
  const { numPassedTests, numFailedTests, success } = JSON.parse(readFileSync(resultFile, "utf8"));
  if (!success) status = 1;
  console.log(`${numPassedTests} passed, ${numFailedTests} failed`);
  if (numPassedTests === 0) status = 1;
}
rmSync(folder, { recursive: true });
process.exit(status);
