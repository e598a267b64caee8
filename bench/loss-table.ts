// Claim: what each messaging server loses and repeats when a page, a line or the server fails. Writes docs/loss-table.md. Run: npm run loss-table
// (installs the other servers' packages in bench/peers; needs mosquitto, redis-server and libfaketime from Debian). With names of scenarios
// or peers, or parts of them, as arguments it does those only and writes nothing.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { CONTROLS, HANDOVER } from "./loss/handover.ts";
import { FAKETIME, type Peer } from "./loss/peer.ts";
import { type Count, play, SCENARIOS, USERS } from "./loss/scenarios.ts";
import { installPeers } from "./wires/packages.ts";

// Clients that are cut off say so in many ways, some of them outside of every handler.
process.on("unhandledRejection", () => {});
process.on("uncaughtException", (error) => {
  if (["ECONNRESET", "ECONNREFUSED", "EPIPE"].includes(String((error as NodeJS.ErrnoException).code))) return;
  console.error(error);
  process.exit(1);
});

installPeers();
const others: Peer[] = [];
const controls = [...CONTROLS];
for (const name of ["socketio", "faye", "mqtt", "x0"]) {
  const module = (await import(new URL(`peers/${name}.mjs`, import.meta.url).href)) as { peers: readonly Peer[]; control?: Peer };
  others.push(...module.peers);
  if (module.control) controls.push(["offline for an hour", module.control]);
}
const peers = [...HANDOVER, ...others];
const words = process.argv.slice(2).map((word) => word.toLowerCase());
/** Those that a word names; all of them, when none does. */
function chosen<T>(all: readonly T[], nameOf: (one: T) => string): readonly T[] {
  const named = all.filter((one) => words.some((word) => nameOf(one).toLowerCase().includes(word)));
  return named.length > 0 ? named : all;
}

/** The rounds of one peer in one scenario, or why there are none: a program that is not on this machine. */
type Result = readonly Count[] | string;
const results = new Map<string, Result>();
const keyOf = (scenario: { readonly name: string }, peer: Peer) => `${scenario.name} | ${peer.title}`;
const isThere = (command: string) => {
  try {
    execFileSync("which", [command], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
};
const began = Date.now();
/** Plays it, unless a program is not on this machine, and says what came of it. */
async function playHere(peer: Peer, scenario: (typeof SCENARIOS)[number]): Promise<Result> {
  const missing = (peer.programs ?? []).map(([command]) => command).filter((command) => !isThere(command));
  if (scenario.movesClock && !existsSync(FAKETIME)) missing.push("libfaketime");
  // A round that cannot be played says nothing about anybody, and there is no table.
  const playing = missing.length > 0 ? `left out: ${missing.join(", ")} is not on this machine` : play(peer, scenario);
  const result: Result = await Promise.resolve(playing).catch((error) => {
    console.error(error);
    process.exit(1);
  });
  console.log(`${keyOf(scenario, peer)}: ${shown(result)}`);
  return result;
}
const scenarios = chosen(SCENARIOS, ({ name }) => name);
for (const scenario of scenarios)
  for (const peer of chosen(peers, ({ title }) => title)) results.set(keyOf(scenario, peer), await playHere(peer, scenario));

const controlled: string[] = [];
for (const [name, peer] of controls) {
  const scenario = scenarios.find((one) => one.name === name);
  if (!scenario) continue;
  const result = await playHere(peer, scenario);
  controlled.push(`- ${peer.title}; ${name}: ${shown(result)}`);
  if (typeof result !== "string" && sum(result, "lost") === 0) throw new Error("This control lost nothing: the table would not see a loss.");
}

const wrong = SCENARIOS.flatMap((scenario) => HANDOVER.map((peer) => [scenario, peer] as const)).filter(([scenario, peer]) => {
  const result = results.get(keyOf(scenario, peer));
  if (result === undefined || typeof result === "string") return false;
  return sum(result, "lost") + sum(result, "deaf") + (scenario.repeats ? 0 : sum(result, "repeated")) > 0;
});
if (words.length === 0) write();
for (const [scenario, peer] of wrong) console.error(`WRONG: ${keyOf(scenario, peer)}`);
process.exit(wrong.length > 0 ? 1 : 0);

function sum(rounds: readonly Count[], what: keyof Count): number {
  return rounds.reduce((total, count) => total + count[what], 0);
}

/** A number over all rounds and, when they differ, the least and the most of one round. */
function total(rounds: readonly Count[], what: "lost" | "repeated"): string {
  const all = sum(rounds, what);
  const [least, most] = [Math.min(...rounds.map((count) => count[what])), Math.max(...rounds.map((count) => count[what]))];
  return all === 0 ? "0" : `**${all}**${least === most ? "" : ` (${least}–${most})`}`;
}

function shown(result: Result): string {
  if (typeof result === "string") return result;
  const deaf = sum(result, "deaf");
  const numbers = [`${sum(result, "sent")}`, `${sum(result, "seen")}`, total(result, "lost"), total(result, "repeated")];
  return `${numbers.join(" / ")}${deaf > 0 ? `, ${deaf} pages deaf` : ""}`;
}

function versionOf(peer: Peer): string {
  const read = (file: string) => (JSON.parse(readFileSync(new URL(file, import.meta.url), "utf8")) as { version: string }).version;
  const packages = peer.packages.map((name) => `${name} ${read(`peers/node_modules/${name}/package.json`)}`);
  const programs = (peer.programs ?? []).map(([command, flag]) => {
    let said = "";
    try {
      said = execFileSync(command, [flag], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
    } catch (error) {
      // Mosquitto ends with 3 when it has said what its options are.
      said = String((error as { stdout?: unknown }).stdout);
    }
    return `${command} ${/\d+\.\d+\.\d+/.exec(said)?.[0] ?? "(not on this machine)"}`;
  });
  const own = HANDOVER.includes(peer)
    ? [`handover ${read("../package.json")}, commit ${execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim()}`]
    : [];
  return [...own, ...packages, ...programs].join(", ") || "as observed in November 2026, commit 47a552c4 of WEBcodeX1/x0";
}

function write(): void {
  const resultOf = (scenario: { readonly name: string }, peer: Peer) => results.get(keyOf(scenario, peer)) ?? "";
  const rows = peers.map((peer) => `| ${peer.title} | ${SCENARIOS.map((scenario) => shown(resultOf(scenario, peer))).join(" | ")} |`);
  const twoTabs = SCENARIOS.find(({ name }) => name === "two tabs");
  const inBoth = peers.map((peer) => {
    const result = twoTabs ? resultOf(twoTabs, peer) : "";
    return `${peer.title}: ${typeof result === "string" ? "-" : sum(result, "inBoth")}`;
  });
  const filled: Record<string, string> = {
    date: new Date().toISOString().slice(0, 10),
    minutes: String(Math.round((Date.now() - began) / 60_000)),
    node: process.version,
    load: loadavg()[2]?.toFixed(0) ?? "?",
    users: String(USERS),
    table: [`| | ${SCENARIOS.map(({ name }) => name).join(" | ")} |`, `| --- |${" --- |".repeat(SCENARIOS.length)}`, ...rows].join("\n"),
    scenarios: SCENARIOS.map(({ name, says }) => `- **${name}**: ${says}`).join("\n"),
    versions: peers.map((peer) => `- ${peer.title}: ${versionOf(peer)}`).join("\n"),
    inBoth: inBoth.join("; "),
    left: SCENARIOS.find(({ repeats }) => repeats)?.name ?? "",
    controls: controlled.join("\n"),
  };
  const text = readFileSync(new URL("loss/table.md", import.meta.url), "utf8").replace(/\{(\w+)\}/g, (whole, name: string) => filled[name] ?? whole);
  writeFileSync(new URL("../docs/loss-table.md", import.meta.url), text);
}
