/**
 * The peers' own packages are in bench/peers, so that the project needs none of them: `npm run bench` installs them there.
 * @module
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";

const PEERS = new URL("../peers/", import.meta.url);
const require = createRequire(new URL("package.json", PEERS));

/** Installs what bench/peers/package-lock.json names, unless that is done. */
export function installPeers(): void {
  if (existsSync(new URL("node_modules/amqplib/package.json", PEERS))) return;
  const { status } = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: PEERS.pathname, stdio: "inherit" });
  if (status !== 0) console.error("The peers' packages could not be installed; what needs them is left out.");
}

/** A package of bench/peers; T is what the caller uses of it. */
export function peer<T>(name: string): T {
  return require(name) as T;
}

/** Its version; undefined when it is not installed. */
export function versionOf(name: string): string | undefined {
  const file = new URL(`node_modules/${name}/package.json`, PEERS);
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version : undefined;
}
