/**
 * What the command line offers: serve, and the tools that make a terminal one of the two sides.
 * @module
 */
import { readFileSync } from "node:fs";
import { Command, InvalidArgumentError } from "commander";
import { Authenticator } from "./auth.ts";
import { connect, type Handover, type Message } from "./client/index.ts";
import { type Config, ConfigError, describeConfig } from "./config.ts";
import { HandoverError } from "./errors.ts";
import { backupCommand, doctorCommand, restoreCommand } from "./maintenance.ts";
import {
  asClient,
  clientSecrets,
  detailOf,
  type Flags,
  fetchFrom,
  jsonOrText,
  serverUrl,
  settingsOf,
  type ToolFlags,
  withoutTools,
  withSettings,
} from "./options.ts";
import type { SessionId, UserId } from "./protocol.ts";
import { type Server, secretsOf, startServer, VERSION } from "./server.ts";
import { inheritedSocket, supervise } from "./supervise.ts";

/** A stop that takes longer than this is cut short. */
const STOP_LIMIT_MS = 9_000;

/** Runs one command line. Sets the exit code; what goes wrong is one line on standard error that says what to do. */
export async function run(argv: readonly string[]): Promise<void> {
  const program = new Command("handover")
    .description("Hands JSON objects and notifications from one logged-in user to another, and does not lose them.")
    .version(VERSION)
    .showHelpAfterError("(add --help for what there is)")
    .addHelpText(
      "after",
      `
Try it on this machine:
  handover serve --dev                          start, with a page to open in two tabs
  handover listen --dev bob                     be bob
  handover send --dev bob '{"n":1}'             send to bob

In earnest:
  HANDOVER_TOKEN_SECRET=… HANDOVER_SERVICE_KEY=… handover serve --host 0.0.0.0 --data /var/lib/handover`,
    );
  program.addCommand(serveCommand());
  program.addCommand(sendCommand());
  program.addCommand(listenCommand());
  program.addCommand(tokenCommand());
  program.addCommand(configCommand());
  for (const command of [backupCommand, restoreCommand, doctorCommand]) program.addCommand(command());
  try {
    await program.parseAsync([...argv]);
  } catch (thrown) {
    process.exitCode = 1;
    process.stderr.write(`${explain(thrown)}\n`);
  }
}

function explain(thrown: unknown): string {
  if (thrown instanceof ConfigError || thrown instanceof HandoverError) return thrown.message;
  // The SDK's errors, which are not the server's class.
  if (thrown instanceof Error && "code" in thrown && typeof thrown.code === "string") return `${thrown.message} (${thrown.code})`;
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
}

function serveCommand(): Command {
  return withSettings(new Command("serve").description("start the server"))
    .option(
      "--supervise",
      "hold the port in a process of its own and start the server again when it ends, so that no connection is refused meanwhile",
    )
    .action(async ({ supervise: isSupervised, ...flags }: Flags & { supervise?: true }) => {
      const socket = inheritedSocket(process.env, process.pid);
      const config = settingsOf(socket === undefined ? flags : { ...flags, listenFd: String(socket) });
      if (!isSupervised) return serve(config);
      if (config.listenFd > 0)
        throw new ConfigError("The socket is somebody else's already (LISTEN_FDS, --listen-fd), so --supervise has nothing to hold.");
      const command = [process.execPath, ...process.execArgv, ...process.argv.slice(1).filter((word) => word !== "--supervise")];
      process.exit(await supervise({ host: config.host, port: config.port, command, say: (line) => say(config, line) }));
    });
}

async function serve(config: Config): Promise<void> {
  // What it says may go to the disk that is full: that must not end it.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  const settings: Config = config.dev && config.logLevel === "info" ? { ...config, logLevel: "warn" } : config;
  let server: Server | undefined;
  const stop = (signal: string) => {
    if (!server) process.exit(1);
    say(config, `Stopping (${signal}): what was accepted is on disk.`);
    const limit = setTimeout(() => process.exit(1), STOP_LIMIT_MS);
    limit.unref();
    server.close().then(
      () => process.exit(0),
      (thrown: unknown) => {
        process.stderr.write(`${explain(thrown)}\n`);
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  // Nothing should come here. If it does, the state of the process is unknown: say it and stop; what was accepted is on disk.
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (thrown: unknown) => {
      process.stderr.write(`handover: stopped by a mistake of its own (${event}): ${explain(thrown)}\n`);
      process.exit(1);
    });
  }
  server = await startServer(settings, (cause) => failStop(cause));
  greet(config, server);
  if (process.send) {
    // A supervisor started it: the port is gone with that process, so there is nothing to wait for any more.
    process.send("listening");
    process.once("disconnect", () => stop("the supervisor is gone"));
  }
}

/**
 * The store has failed: those who wait are answered, then the process ends. It may not go on, since what a failed sync left on disk
 * is unknown (RELIABILITY, section 0; USENIX ATC 2020, "Can Applications Recover from fsync Failures?").
 */
function failStop(cause: HandoverError): void {
  process.stderr.write(`handover: FATAL: ${cause.message}\n`);
  setTimeout(() => {
    // Not process.exit(): it would wait for the store's thread, which may be stuck in the very call that failed.
    process.kill(process.pid, "SIGKILL");
  }, 500);
}

/** Progress for people; a server in earnest writes log lines instead. */
function say(config: Config, line: string): void {
  if (config.dev) process.stdout.write(`${line}\n`);
  else if (config.logLevel !== "silent") process.stdout.write(`${JSON.stringify({ level: 30, time: Date.now(), pid: process.pid, msg: line })}\n`);
}

function greet(config: Config, { url, engine }: Server): void {
  if (!config.dev) {
    say(config, `Handover ${VERSION} listens on ${url}`);
    return;
  }
  const store = engine.supports.durable === "no" ? "in memory: nothing survives this process" : `${config.data}: on disk before it is accepted`;
  process.stdout.write(
    `
  Handover ${VERSION} · development mode · pid ${process.pid}

  Open   ${url}/   in two tabs, and press "Send Data" in one.
  Mail   ${store}
  Try    kill -9 ${process.pid}   and start again: what was accepted is delivered.
  Or     npx handover listen --dev user1     (in another terminal, be user1)

  Anyone on this machine can be any demo user here. Stop with Ctrl+C.

`,
  );
}

/** A token for `user`, as its backend would get it: with the service key, from the server. */
async function sessionToken(url: string, serviceKey: string, user: string): Promise<string> {
  if (serviceKey === "")
    throw new ConfigError("Name a user's --token, or the server's --service-key; with --dev the key is read from the data folder.");
  const response = await fetchFrom(url, "/v1/sessions", {
    method: "POST",
    headers: { Authorization: `Bearer ${serviceKey}`, "Content-Type": "application/json" },
    body: JSON.stringify({ user }),
  });
  const body: unknown = await response.json();
  if (typeof body === "object" && body !== null) {
    if ("token" in body && typeof body.token === "string") return body.token;
    if ("detail" in body) throw new ConfigError(`${url} made no session: ${String(body.detail)}`);
  }
  throw new ConfigError(`${url} answered ${response.status}, which is not a Handover server's answer.`);
}

function sendCommand(): Command {
  return asClient(new Command("send").description("send one message and wait until it is on disk"))
    .argument("<user>", "who gets it")
    .argument("[data]", "JSON; what is not JSON goes as text; - reads standard input")
    .option("--type <type>", "CloudEvents type", "message")
    .option("--ttl <seconds>", "time to live", wholeSeconds)
    .option("--from <user>", "send as this user (with the service key); none: as the service")
    .option("--key <key>", "idempotency key: sending again with the same key stores nothing twice")
    .action(async (to: string, data: string | undefined, flags: ToolFlags & { type: string; ttl?: number; from?: string; key?: string }) => {
      const { type, ttl, from, key, ...settings } = flags;
      const config = settingsOf(withoutTools(settings));
      const url = serverUrl(flags, config);
      const { serviceKey } = clientSecrets(config);
      const token = flags.token ?? (from === undefined ? serviceKey : await sessionToken(url, serviceKey, from));
      const text = data === "-" ? readFileSync(0, "utf8") : data;
      const response = await fetchFrom(url, "/v1/messages", {
        method: "POST",
        headers: {
          Authorization: `Bearer ${token}`,
          "Content-Type": "application/json",
          ...(key === undefined ? {} : { "Idempotency-Key": key }),
        },
        body: JSON.stringify({
          to: { user: to },
          type,
          ...(text === undefined ? {} : { data: jsonOrText(text) }),
          ...(ttl === undefined ? {} : { ttl }),
        }),
      });
      const answer = await response.text();
      if (response.status !== 201) throw new ConfigError(`Not accepted (${response.status}): ${detailOf(answer)}`);
      process.stdout.write(`${answer}\n`);
    });
}

function listenCommand(): Command {
  return asClient(new Command("listen").description("be a user: print what comes, one JSON event a line, and acknowledge it once printed"))
    .argument("[user]", "whose mailbox (with the service key)")
    .option("--type <type>", "only this type; others stay in the mailbox", "*")
    .option("--count <n>", "stop after so many", wholeSeconds)
    .action(async (user: string | undefined, flags: ToolFlags & { type: string; count?: number }) => {
      const { type, count, ...settings } = flags;
      const config = settingsOf(withoutTools(settings));
      const url = serverUrl(flags, config);
      const { serviceKey } = clientSecrets(config);
      if (flags.token === undefined && user === undefined)
        throw new ConfigError("Name whose mailbox it is: `handover listen bob`, or --token with a token of bob's.");
      await listen(url, async () => flags.token ?? sessionToken(url, serviceKey, user ?? ""), type, count);
    });
}

async function listen(url: string, token: () => Promise<string>, type: string, count: number | undefined): Promise<void> {
  // The first time here, so that a wrong key or a server that is not there is said at once and not tried again and again.
  let first: string | undefined = await token();
  const handover: Handover = connect(url, {
    token: async () => {
      const next = first ?? (await token());
      first = undefined;
      return next;
    },
  });
  await new Promise<void>((resolve, reject) => {
    let seen = 0;
    handover.onStatus(({ state, transport, error }) => {
      process.stderr.write(`${state}${transport ? ` (${transport})` : ""}${error && state !== "online" ? `: ${error.message}` : ""}\n`);
      if (state === "closed") error ? reject(error) : resolve();
    });
    handover.on(type, async (message: Message) => {
      // Acknowledged only after the line is out.
      await new Promise<void>((written, failed) =>
        process.stdout.write(`${JSON.stringify(message)}\n`, (error) => (error ? failed(error) : written())),
      );
      seen++;
      if (seen === count) setTimeout(resolve);
    });
    process.once("SIGINT", resolve);
    process.once("SIGTERM", resolve);
  });
  await handover.close();
}

function tokenCommand(): Command {
  return withSettings(new Command("token").description("print a token signed with this server's secret"), [
    "dev",
    "data",
    "tokenSecret",
    "audience",
    "sessionTtlMs",
  ])
    .argument("<user>", "the token's sub")
    .option("--session <session>", "the token's sid; none: a new one")
    .option("--ttl <seconds>", "its life", wholeSeconds)
    .option("--scope <words>", 'what it may do, e.g. "receive send:user:bob"; none: receive, and send to any user')
    .action(async (user: string, flags: Flags & { session?: string; ttl?: number; scope?: string }) => {
      const { session, ttl, scope, ...settings } = flags;
      const config = settingsOf(settings);
      if (!/^[A-Za-z0-9._:@-]{1,128}$/.test(user)) throw new ConfigError("A user id has 1 to 128 of A-Z a-z 0-9 . _ : @ -");
      const authenticator = new Authenticator({ tokenSecret: secretsOf(config).tokenSecret, audience: config.audience, serviceKeys: [] });
      const seconds = ttl ?? Math.ceil(config.sessionTtlMs / 1000);
      const { token } = session
        ? await authenticator.signToken(user as UserId, session as SessionId, seconds, scope)
        : await authenticator.createSession(user as UserId, seconds, scope);
      process.stdout.write(`${token}\n`);
    });
}

function configCommand(): Command {
  return withSettings(new Command("config").description("check the settings and print those in force, secrets left out")).action((flags: Flags) => {
    const config = settingsOf(flags);
    process.stdout.write(`${describeConfig(config)}\n`);
    if (!config.dev) secretsOf(config);
  });
}

function wholeSeconds(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("It must be a whole number.");
  return Number(text);
}
