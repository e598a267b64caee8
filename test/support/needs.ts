/**
 * Suites that need something a machine may lack. On a laptop they are left out, with a line at the end of `npm test` that says so and
 * how to have them; with `CI` set, leaving one out fails.
 * @module
 */
import { spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "vitest";
import { canMake } from "./disk.ts";

export interface Need {
  /** Whether the machine has it. */
  readonly isThere: boolean;
  /** What is missing, e.g. `there is no Chromium`. */
  readonly reason: string;
  /** How to have it, e.g. `apt-get install chromium`. */
  readonly how: string;
}

/** Where Chromium is; real tabs need it. */
export const CHROMIUM_PATH = process.env.CHROMIUM_PATH ?? "/usr/bin/chromium";

export const CHROMIUM: Need = {
  isThere: existsSync(CHROMIUM_PATH),
  reason: `there is no Chromium at ${CHROMIUM_PATH}`,
  how: "apt-get install chromium, or set CHROMIUM_PATH",
};

/** A C compiler makes the library that lets a disk fail on purpose. */
export const COMPILER: Need = {
  isThere: process.platform === "linux" && spawnSync("gcc", ["--version"]).status === 0,
  reason: "there is no gcc, or this is not Linux",
  how: "apt-get install gcc libc6-dev",
};

const FAKETIME_LIBRARY = `/usr/lib/${{ arm64: "aarch64", x64: "x86_64" }[process.arch as string] ?? process.arch}-linux-gnu/faketime/libfaketimeMT.so.1`;

/** It gives a process another time of day. */
export const FAKETIME: Need & { readonly library: string } = {
  isThere: existsSync(FAKETIME_LIBRARY),
  reason: `there is no ${FAKETIME_LIBRARY}`,
  how: "apt-get install faketime",
  library: FAKETIME_LIBRARY,
};

const runs = (command: string, ...args: string[]) => spawnSync(command, args).status === 0;

/** What the examples in other languages are written for. */
export const FOREIGN: Need = {
  isThere:
    runs("bash", "--version") &&
    runs("curl", "--version") &&
    runs("jq", "--version") &&
    runs("python3", "-c", "import sys; sys.exit(sys.version_info < (3, 9))"),
  reason: "there is no bash, curl, jq or Python 3.9",
  how: "apt-get install bash curl jq python3",
};

/** It makes the certificate of pages over https. */
export const OPENSSL: Need = {
  isThere: spawnSync("openssl", ["version"]).status === 0,
  reason: "there is no openssl",
  how: "apt-get install openssl",
};

/** Tried, and not told from who one is: root in a container often may not. */
function canMount(): boolean {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return false;
  const dir = mkdtempSync(join(tmpdir(), "handover-mount-"));
  const isMounted = runs("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir);
  if (isMounted) runs("umount", dir);
  rmdirSync(dir);
  return isMounted;
}

/** Who may mount can make a disk that is small enough to be filled. */
export const MOUNT: Need = {
  isThere: canMount(),
  reason: "mounting a small disk needs root on Linux, with the right to mount",
  how: "run npm test as root; in a container, one that may mount (CAP_SYS_ADMIN)",
};

const hasLoop = MOUNT.isThere && existsSync("/dev/loop-control");

/** Disks of real file systems, in a file. */
export const EXT4: Need = {
  isThere: hasLoop && canMake("ext4"),
  reason: "making a disk with ext4 needs root on Linux, with the right to mount, loop devices, and mkfs.ext4",
  how: "apt-get install e2fsprogs, and run npm test as root; in a container, one that may mount (CAP_SYS_ADMIN) and has /dev/loop-control",
};
export const XFS: Need = {
  isThere: hasLoop && canMake("xfs"),
  reason: "making a disk with xfs needs root on Linux, with the right to mount, loop devices, and mkfs.xfs",
  how: "apt-get install xfsprogs, and run npm test as root; in a container, one that may mount (CAP_SYS_ADMIN) and has /dev/loop-control",
};

/** Where RabbitMQ is; its tests use queues of their own and remove them. */
export const AMQP_URL = process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672";

export const RABBITMQ: Need = {
  // Asked in a process of its own, since the tests are registered before anything can be awaited.
  isThere:
    spawnSync(process.execPath, [
      "-e",
      `const { hostname, port } = new URL(${JSON.stringify(AMQP_URL)});
      require("net").connect(port || 5672, hostname, () => process.exit(0)).on("error", () => process.exit(1)).setTimeout(2000, () => process.exit(1))`,
    ]).status === 0,
  reason: `there is no RabbitMQ at ${new URL(AMQP_URL).host}`,
  how: "apt-get install rabbitmq-server and start it, or set AMQP_URL",
};

/** Several needs as one; what is said is of those that are missing. */
export function both(...needs: readonly Need[]): Need {
  const missing = needs.filter(({ isThere }) => !isThere);
  return {
    isThere: missing.length === 0,
    reason: missing.map(({ reason }) => reason).join("; "),
    how: missing.map(({ how }) => how).join("; "),
  };
}

/** `describe`, for a suite that needs something. */
export function describeWith(need: Need, suite: string, body: () => void): void {
  if (need.isThere) {
    describe(suite, body);
    return;
  }
  const file = process.env.HANDOVER_TEST_LEFT_OUT;
  if (file) appendFileSync(file, `${JSON.stringify({ suite, reason: need.reason, how: need.how })}\n`);
  if (process.env.CI) {
    test(`${suite} must not be left out here: ${need.reason}; ${need.how}`, () => {
      throw new Error(`${need.reason}; to have it: ${need.how}`);
    });
  } else {
    describe.skip(`${suite} (left out: ${need.reason})`, body);
  }
}
