// Makes the folder ready to run: installs what package-lock.json names, and builds, each only when something changed.
// Runs on whatever Node the shell has (20 or later); everything after it runs on the Node that npm installed here.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = new URL("..", import.meta.url).pathname;
const stamps = join(root, "node_modules", ".handover");

function digest(paths) {
  const hash = createHash("sha256");
  for (const path of paths) hash.update(path).update(readFileSync(join(root, path)));
  return hash.digest("hex");
}

function filesBelow(folder) {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length))
    .sort();
}

function upToDate(stamp, want) {
  const path = join(stamps, stamp);
  return existsSync(path) && readFileSync(path, "utf8") === want;
}

function npm(...args) {
  const cli = process.env.npm_execpath;
  const result = cli
    ? spawnSync(process.execPath, [cli, ...args], { cwd: root, stdio: "inherit" })
    : spawnSync("npm", args, { cwd: root, stdio: "inherit", shell: process.platform === "win32" });
  if (result.status !== 0) {
    console.error(`\nhandover: \`npm ${args.join(" ")}\` did not succeed; what it says above is the reason.`);
    process.exit(result.status ?? 1);
  }
}

function once(stamp, what, paths, isThere, ...command) {
  const want = digest(paths);
  if (isThere && upToDate(stamp, want)) return;
  console.log(`handover: ${what} …`);
  npm(...command);
  mkdirSync(stamps, { recursive: true });
  writeFileSync(join(stamps, stamp), want);
}

once(
  "installed",
  "installing into node_modules (once)",
  ["package-lock.json"],
  existsSync(join(root, "node_modules", ".bin", "tsc")),
  "ci",
  "--include=dev",
  "--no-audit",
  "--no-fund",
  "--loglevel=error",
);
once(
  "built",
  "building into dist",
  [
    ...filesBelow("src"),
    "package.json",
    "tsconfig.json",
    "tsconfig.build.json",
    ...["", "command.", "page.", "x0."].map((part) => `rolldown.${part}config.mjs`),
  ],
  existsSync(join(root, "dist", "cli.js")),
  "run",
  "--silent",
  "build",
);
