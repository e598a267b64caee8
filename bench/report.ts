/**
 * What stands above the tables: which commit, on what, beside what.
 * @module
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem } from "node:os";
import { ALL } from "./systems.ts";

function said(command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, { encoding: "utf8", cwd: new URL(".", import.meta.url).pathname }).trim();
  } catch {
    return "unknown";
  }
}

/** The first lines of the report. */
export function aboutMachine(rounds: number): string {
  const memory = Math.round(totalmem() / 2 ** 30);
  const isChanged = said("git", "status", "--porcelain", "--", "../src") !== "";
  return [
    "# Measured",
    "",
    "Written by `npm run bench`; [docs/performance.md](../docs/performance.md) says how to read it. Medians of the rounds, with the lowest and the highest where there is more than one.",
    "",
    `- ${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC, commit ${said("git", "rev-parse", "--short", "HEAD")}${isChanged ? " with changes in src/" : ""}`,
    `- ${cpus().length} × ${cpus()[0]?.model ?? "unknown"}, ${memory} GiB, Linux ${release()}, ${fileSystem()}, Node ${process.version}`,
    `- ${rounds === 1 ? "one round" : `${rounds} rounds`}; ${aboutMachine.load()} when it began`,
    "",
  ].join("\n");
}

/** What else the machine does, for the measurement shares it. */
aboutMachine.load = (): string =>
  `load average ${loadavg()
    .map((load) => load.toFixed(1))
    .join(", ")} (1, 5 and 15 minutes; the benchmark itself included)`;

function fileSystem(): string {
  const line = readFileSync("/proc/mounts", "utf8")
    .split("\n")
    .map((each) => each.split(" "))
    .find(([, place]) => place === "/");
  return `${line?.[2] ?? "unknown"} on ${line?.[0] ?? "unknown"}`;
}

/** Each system with what its accept and its acknowledgement mean. */
export function aboutSystems(chosen: readonly string[]): string {
  const lines = ALL.filter(({ name }) => chosen.length === 0 || chosen.some((each) => each.startsWith(name))).map(
    ({ title, version, guarantee, missing }) =>
      missing === undefined ? `| ${title} | ${version} | ${guarantee} |` : `| ${title} | left out | ${missing} |`,
  );
  return `## What each gives\n\n| | version | |\n| --- | --- | --- |\n${lines.join("\n")}\n`;
}
