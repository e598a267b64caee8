/**
 * nginx and Apache in front of a server, each with the file from deploy/ as it is committed: only ports, addresses and folders are this machine's.
 * @module
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Need } from "../support/needs.ts";
import { freePort } from "../support/port.ts";

const DEPLOY = fileURLToPath(new URL("../../deploy/", import.meta.url));
const START_MS = 10_000;
const MODULES = "/usr/lib/apache2/modules";

export type ProxyName = "nginx" | "apache";

/** Where the commands are; Debian has them outside of a user's PATH. */
const COMMANDS = { nginx: "/usr/sbin/nginx", apache: "/usr/sbin/apache2" } as const;

export const PROXIES: Record<ProxyName, Need> = {
  nginx: { isThere: existsSync(COMMANDS.nginx), reason: `there is no nginx at ${COMMANDS.nginx}`, how: "apt-get install nginx" },
  apache: {
    isThere: existsSync(COMMANDS.apache) && existsSync(MODULES),
    reason: `there is no Apache at ${COMMANDS.apache}`,
    how: "apt-get install apache2-bin",
  },
};

export interface ProxyServer {
  /** `https://localhost:…` */
  readonly url: string;
  /** The certificate of that name, PEM. */
  readonly certificate: string;
  /** What it has written to its log. */
  readonly log: string;
  /** The connections over which requests have come so far: the client's port, and the version of HTTP. */
  connections(): { readonly port: number; readonly protocol: string }[];
  stop(): Promise<void>;
}

/** Starts the proxy and waits until it takes connections. @param target  the server behind it @throws Error with its log when it does not start */
export async function startProxy(name: ProxyName, target: string): Promise<ProxyServer> {
  const folder = mkdtempSync(join(tmpdir(), `handover-${name}-`));
  // Its workers are another user's.
  chmodSync(folder, 0o755);
  const certificate = makeCertificate(folder);
  const port = await freePort();
  const files = join(folder, "handover");
  cpSync(join(DEPLOY, name), files, { recursive: true });
  const placed = (text: string) =>
    text
      .replaceAll("127.0.0.1:8080", new URL(target).host)
      .replaceAll("/etc/ssl/handover", folder)
      .replaceAll(/\/etc\/(nginx|apache2)\/handover/g, files)
      .replaceAll(/\b443\b/g, String(port));
  const site = join(folder, "site.conf");
  writeFileSync(site, placed(readFileSync(join(DEPLOY, name, "handover.conf"), "utf8")));
  const log = join(folder, "error.log");
  writeFileSync(log, "");
  chmodSync(log, 0o666);
  const main = join(folder, "main.conf");
  writeFileSync(main, name === "nginx" ? nginxMain(folder, site) : apacheMain(folder, site, port));
  const args = name === "nginx" ? ["-p", folder, "-c", main, "-e", log] : ["-f", main, "-DFOREGROUND"];
  const child = spawn(COMMANDS[name], args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (part) => (output += part));
  const end = () => child.kill("SIGKILL");
  process.once("exit", end);
  child.once("exit", () => process.off("exit", end));
  const said = () => `${output}${readFileSync(log, "utf8")}`;
  await listens(child, port, said);
  return {
    url: `https://localhost:${port}`,
    certificate,
    get log() {
      return said();
    },
    connections() {
      const lines = readFileSync(join(folder, "access.log"), "utf8").trim().split("\n");
      const distinct = new Set(lines.filter((line) => line !== ""));
      return [...distinct].map((line) => ({ port: Number(line.split(" ")[0]), protocol: line.split(" ")[1] ?? "" }));
    },
    async stop() {
      const gone = child.exitCode === null ? once(child, "exit") : undefined;
      child.kill("SIGTERM");
      await gone;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** What a distribution's own file says around a site, without the paths that need root. */
function nginxMain(folder: string, site: string): string {
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((what) => `${what}_temp_path ${folder}/tmp;`).join("\n");
  mkdirSync(join(folder, "tmp"));
  return `daemon off; pid ${folder}/pid; worker_processes 2; error_log ${folder}/error.log info;
    events { worker_connections 4096; }
    http { log_format connections '$remote_port $server_protocol'; access_log ${folder}/access.log connections; ${temporary} include ${site}; }`;
}

function apacheMain(folder: string, site: string, port: number): string {
  // Those that a2enmod adds, as the file says itself, and those that Debian has switched on.
  const added = /^#\s+a2enmod (.*?) &&/m.exec(readFileSync(site, "utf8"))?.[1]?.split(" ") ?? [];
  const modules = ["mpm_event", "authz_core", "alias", "env", "mime", "reqtimeout", "socache_shmcb", ...added];
  writeFileSync(join(folder, "mime.types"), "");
  const user = process.getuid?.() === 0 ? "User nobody\nGroup nogroup" : "";
  return `ServerRoot ${folder}\nServerName localhost\nPidFile ${folder}/pid\nDefaultRuntimeDir ${folder}\nErrorLog ${folder}/error.log\nLogLevel info\nTypesConfig ${folder}/mime.types
    LogFormat "%{remote}p %H" connections\nCustomLog ${folder}/access.log connections
    ${user}\n${modules.map((module) => `LoadModule ${module}_module ${MODULES}/mod_${module}.so`).join("\n")}
    Listen 127.0.0.1:${port}
    RequestReadTimeout header=20-40,minrate=500
    RequestReadTimeout body=10,minrate=500
    <Directory />
      Require all denied
    </Directory>
    Include ${site}\n`;
}

async function listens(child: ChildProcess, port: number, said: () => string): Promise<void> {
  const until = performance.now() + START_MS;
  for (;;) {
    if (child.exitCode !== null) throw new Error(`It ended with ${child.exitCode}:\n${said()}`);
    const socket = connect(port, "127.0.0.1");
    const isOpen = await new Promise<boolean>((resolve) => {
      socket.once("connect", () => resolve(true));
      socket.once("error", () => resolve(false));
    });
    socket.destroy();
    if (isOpen) return;
    if (performance.now() > until) {
      child.kill("SIGKILL");
      throw new Error(`It does not listen:\n${said()}`);
    }
    await pause(50);
  }
}

/** For `localhost`, in the two files that the snippets name. @returns the certificate */
function makeCertificate(folder: string): string {
  const [key, chain] = [join(folder, "privkey.pem"), join(folder, "fullchain.pem")];
  const options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const made = spawnSync("openssl", ["req", ...options, ...names, "-keyout", key, "-out", chain], { encoding: "utf8" });
  if (made.status !== 0) throw new Error(`openssl made no certificate: ${made.stderr}`);
  return readFileSync(chain, "utf8");
}
