// Breaks the code on purpose: makes a mistake of test/mutations.json in a copy of the tree and runs suites there.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
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
  kill: ["test/crash.test.ts"],
  power: ["test/faults/power.test.ts", "test/faults/replay.test.ts"],
  fold: ["test/engines/fold.test.ts"],
  fresh: ["test/engines/fresh.test.ts"],
  rot: ["test/faults/rot.test.ts"],
  disk: ["test/engines/sqlite-disk.test.ts", "test/faults/full.test.ts", "test/failstop.test.ts"],
  full: ["test/engines/sqlite-disk.test.ts"],
  maintenance: ["test/maintenance.test.ts"],
  drain: ["test/faults/drain.test.ts"],
  network: ["test/faults/network.test.ts"],
  clock: ["test/faults/clock.test.ts", "test/engines/clock.test.ts", "test/auth.test.ts"],
  silent: ["test/faults/silent.test.ts"],
  tabs: ["test/browser/tabs.test.ts"],
};
/** Suites that start the command, as it was built. */
const BUILT = ["kill", "disk", "maintenance", "drain", "network", "clock", "tabs"];
/** Of a file that tests two engines, those of the embedded one. */
const ONLY = { kill: "K7" };

/**
 * The mistakes: which promise they break, what they say, where they are, and which rules must turn red (`turnsRed`). A rule that does or does not, as
 * chance has it (how blocks fall on a full disk), is in `mayTurnRed`.
 */
export const MUTATIONS = JSON.parse(readFileSync(join(root, "test/mutations.json"), "utf8"));

const env = { ...process.env, PATH: `${join(root, "node_modules/.bin")}:${process.env.PATH}` };
// The copies run the short forms, and report nothing.
for (const name of Object.keys(env)) if (name.startsWith("HANDOVER_")) delete env[name];
// The model plays the same sequences each time.
env.HANDOVER_SEED = "1";

function run(cwd, command, ...args) {
  return spawnSync(command, args, { cwd, env, encoding: "utf8", maxBuffer: 1 << 28 });
}

/** @returns the rules whose tests failed in a copy of the tree with this mistake in it, in their order */
function rulesThatTurnRed({ file, find, replace, suites = ["engines", "transports"] }) {
  const copy = mkdtempSync(join(tmpdir(), "handover-mutation-"));
  try {
    for (const name of [
      "src",
      "test",
      "examples",
      "package.json",
      "tsconfig.json",
      "tsconfig.build.json",
      "vitest.config.ts",
      "rolldown.command.config.mjs",
      "rolldown.config.mjs",
      "rolldown.page.config.mjs",
      "rolldown.x0.config.mjs",
    ])
      cpSync(join(root, name), join(copy, name), { recursive: true });
    symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
    const path = join(copy, file);
    const parts = readFileSync(path, "utf8").split(find);
    if (parts.length !== 2) throw new Error(`${file} holds what shall be replaced ${parts.length - 1} times`);
    writeFileSync(path, parts.join(replace));
    if (suites.some((suite) => BUILT.includes(suite))) {
      // What a mistake leaves unused is no mistake here: what the compiler says of types does not count.
      run(copy, "tsc", "-p", "tsconfig.build.json");
      for (const part of [".command", "", ".page"]) run(copy, "rolldown", "-c", `rolldown${part}.config.mjs`);
      if (!existsSync(join(copy, "dist/cli.js"))) throw new Error("it does not build");
    }
    const output = join(copy, "result.json");
    const only = suites.flatMap((suite) => (ONLY[suite] ? ["-t", ONLY[suite]] : []));
    run(copy, "vitest", "run", "--reporter=json", `--outputFile=${output}`, ...suites.flatMap((suite) => SUITES[suite]), ...only);
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

/** Makes one mistake and says, in a line, what turned red. @returns what it was, what the list says, and whether that is the same */
export function tryMutation(mutation) {
  const expected = [...mutation.turnsRed].sort(byNumber).join(" ");
  let found;
  try {
    found = rulesThatTurnRed(mutation)
      .filter((rule) => !mutation.mayTurnRed?.includes(rule))
      .join(" ");
  } catch (thrown) {
    found = thrown.message;
  }
  const isRight = found === expected && found !== "";
  console.log(
    `${isRight ? "ok   " : "WRONG"} promise ${mutation.promise}: ${mutation.says}: ${found || "nothing turned red"}${isRight ? "" : ` (listed: ${expected})`}`,
  );
  return { isRight, found, expected };
}
