/**
 * Programs of another Debian than the machine's: its brokers are newer. `BROKERS_ROOT` is the folder of its root, made by
 * `debootstrap --variant=minbase --include=rabbitmq-server,mosquitto,nats-server trixie <folder>`.
 * @module
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = process.env.BROKERS_ROOT;

/**
 * What the shell does, with the root as its `$0`, then the folder of temporary files and the command: nobody else sees the mounts, and the process keeps
 * its pid.
 */
const ENTER =
  'mkdir -p "$0$1" && mount --bind "$1" "$0$1" && mount --bind /proc "$0/proc" && mount --rbind /dev "$0/dev" && shift && exec chroot "$0" "$@"';

/** How to run a program that the machine has, or, if one was named, the other Debian. */
export function commandLine(program: string, args: readonly string[]): { readonly command: string; readonly args: readonly string[] } {
  if (ROOT === undefined) return { command: program, args };
  return { command: "unshare", args: ["--mount", "sh", "-c", ENTER, ROOT, tmpdir(), program, ...args] };
}

/** What a program says of its version; undefined: it is not there. */
export function versionSaid(program: string, ...args: string[]): string | undefined {
  const line = commandLine(program, args);
  const { stdout, stderr, status, error } = spawnSync(line.command, line.args, { encoding: "utf8" });
  return error || status === 127 ? undefined : /\d+\.\d+\.\d+/.exec(`${stdout}${stderr}`)?.[0];
}

/** Whether a file is there. @param path  absolute */
export function isThere(path: string): boolean {
  return existsSync(ROOT === undefined ? path : join(ROOT, path));
}

/** Why a program was not found. @param name  of its package */
export function howToHave(name: string): string {
  return ROOT === undefined ? `it is not on this machine: apt-get install ${name}` : `it is not in ${ROOT}, or this user may not chroot (root may)`;
}
