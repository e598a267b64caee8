// Proves that the tests of the six promises can fail: makes each mistake of test/mutations.json in a copy of the tree, runs the suites there,
// and compares the rules that turned red with the list. `npm run mutations`, or with a word to choose, of what it says or the name of a suite:
// `npm run mutations -- 201`, `npm run mutations -- model`.
// It takes about a minute a mistake.
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = new URL("..", import.meta.url).pathname;
const SUITES = {
  engines: ["test/engines/memory.test.ts", "test/engines/sqlite-suite.test.ts"],
  transports: ["test/transports"],
  hub: ["test/hub.test.ts"],
  model: ["test/model.test.ts"],
  client: ["test/client"],
  rabbitmq: ["test/engines/rabbitmq-faults.test.ts", "test/engines/rabbitmq-operator.test.ts"],
};
const mutations = JSON.parse(readFileSync(join(root, "test/mutations.json"), "utf8"));
const words = process.argv.slice(2);
const chosen = mutations.filter(({ says, suites = [] }) => words.every((word) => says.includes(word) || suites.includes(word)));

// The model plays the same sequences each time.
const env = { ...process.env, HANDOVER_SEED: "1", PATH: `${join(root, "node_modules/.bin")}:${process.env.PATH}` };
const run = (cwd, command, ...args) => spawnSync(command, args, { cwd, env, encoding: "utf8" });

/** The rules whose tests failed in a copy of the tree with this mistake in it. */
function rulesThatTurnRed({ file, find, replace, suites = ["engines", "transports"] }) {
  const copy = mkdtempSync(join(tmpdir(), "handover-mutation-"));
  try {
    for (const name of ["src", "test", "examples", "package.json", "tsconfig.json", "tsconfig.build.json", "vitest.config.ts"])
      cpSync(join(root, name), join(copy, name), { recursive: true });
    symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
    const path = join(copy, file);
    const parts = readFileSync(path, "utf8").split(find);
    if (parts.length !== 2) throw new Error(`${file} holds what shall be replaced ${parts.length - 1} times`);
    writeFileSync(path, parts.join(replace));
    const output = join(copy, "result.json");
    run(copy, "vitest", "run", "--reporter=json", `--outputFile=${output}`, ...suites.flatMap((suite) => SUITES[suite]));
    const { testResults } = JSON.parse(readFileSync(output, "utf8"));
    const tests = testResults.flatMap(({ assertionResults }) => assertionResults);
    if (tests.length === 0) throw new Error("the suites did not run");
    const red = tests.filter(({ status }) => status === "failed").map(({ title }) => /\[([A-Z]\d+)\]/.exec(title)?.[1] ?? title);
    return [...new Set(red)].sort(byNumber);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

const byNumber = (one, other) => one.charCodeAt(0) - other.charCodeAt(0) || Number(one.slice(1)) - Number(other.slice(1));

let wrong = 0;
for (const mutation of chosen) {
  const expected = [...mutation.turnsRed].sort(byNumber).join(" ");
  let found;
  try {
    found = rulesThatTurnRed(mutation).join(" ");
  } catch (thrown) {
    found = thrown.message;
  }
  const isRight = found === expected && found !== "";
  if (!isRight) wrong += 1;
  console.log(
    `${isRight ? "ok   " : "WRONG"} promise ${mutation.promise}: ${mutation.says}: ${found || "nothing turned red"}${isRight ? "" : ` (listed: ${expected})`}`,
  );
}
console.log(`${chosen.length - wrong} of ${chosen.length} mistakes turn exactly their tests red`);
process.exit(wrong === 0 && chosen.length > 0 ? 0 : 1);
