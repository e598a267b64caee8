/**
 * The composition root: the only file that names concrete engines and transports.
 * @module
 */
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import type { Server as HttpServer } from "node:http";
import { type AddressInfo, Server as TcpServer } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { type Logger, pino } from "pino";
import { Authenticator, type Provider, parseServiceKeys } from "./auth.ts";
import { backupRoute } from "./backup.ts";
import { type Config, ConfigError, listOf } from "./config.ts";
import type { Engine } from "./engine.ts";
import { memoryEngine } from "./engines/memory.ts";
import { rabbitmqEngine } from "./engines/rabbitmq.ts";
import { sqliteEngine } from "./engines/sqlite.ts";
import type { HandoverError } from "./errors.ts";
import { growWithLoad } from "./heap.ts";
import { fromFastify, httpServer } from "./http.ts";
import { Hub } from "./hub.ts";
import { Metrics } from "./metrics.ts";
import { metricsRoute } from "./monitoring.ts";
import { isAllowedOrigin } from "./origin.ts";
import { demoRoutes, descriptionRoutes, sdkRoute, x0ScriptRoute } from "./pages.ts";
import type { UserIdentity } from "./protocol.ts";
import { webSocketTransport } from "./transports/websocket.ts";
import { x0Route, x0SessionRoute } from "./transports/x0/route.ts";
import { X0Transport } from "./transports/x0.ts";

/** The version of this package. */
export const VERSION: string = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version;
const LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"];
/** Time in which a server that stops still answers, and time in which those answers may leave. */
const FLUSH_MS = 500;

export interface Server {
  /** Where it listens, e.g. `http://127.0.0.1:8080`. */
  readonly url: string;
  readonly engine: Engine;
  /** Whether messages are accepted. */
  isReady(): boolean;
  /**
   * Drains and stops: no new messages, clients told to come back spread out, what was asked before answered, the store closed.
   * Resolves within about two seconds; calling it again waits for the same end.
   */
  close(): Promise<void>;
}

/**
 * Starts a server.
 * @param config  from `loadConfig`
 * @param onFailure  the store has failed: nothing accepted is lost, but the process must stop
 * @throws ConfigError for settings that do not go together
 * @throws HandoverError store-unavailable, when the store cannot be opened
 */
export async function startServer(config: Config, onFailure: (cause: HandoverError) => void): Promise<Server> {
  const log = logger(config.logLevel);
  const { serviceKey, tokenSecret } = secretsOf(config);
  requireLoopback(config, config.host);
  // The engine is made with it, and it names the engine.
  const metrics = new Metrics({ version: VERSION, engine: config.engine.split(":", 1)[0] ?? "" });
  const engine = engineOf(config, log, metrics);
  let hasFailed = false;
  await engine.open((cause) => {
    hasFailed = true;
    onFailure(cause);
  });
  try {
    const authenticator = new Authenticator({
      tokenSecret,
      audience: config.audience,
      serviceKeys: parseServiceKeys(serviceKey),
      provider: providerOf(config, log),
    });
    const onError = (error: HandoverError) => log.error({ err: error.cause ?? error }, "something went wrong inside the server");
    const hub = new Hub({
      engine,
      authenticate: (credential) => authenticator.authenticate(credential),
      maxMessageBytes: config.maxMessageBytes,
      maxTtlSeconds: Math.floor(config.maxTtlMs / 1000),
      maxReceiversPerUser: config.maxReceiversPerUser,
      isKnown: knownUsers(config),
      onError,
      metrics,
    });
    const webSocket = webSocketTransport(hub, onError);
    const sign = ({ user, session, scopes }: UserIdentity) =>
      authenticator.signToken(user, session, Math.ceil(config.sessionTtlMs / 1000), scopes.join(" "));
    const x0 = config.x0 === "off" ? undefined : new X0Transport(hub, { mode: config.x0, allowsAny: config.x0AnyKind, sign, onError });
    const origins = listOf(config.origins);
    // Any page may be any user there anyway, and one line in x0's pages shall be enough.
    const isOpen = config.x0 === "demo" && origins.length === 0;
    const app = await httpServer({
      hub,
      authenticator,
      webSocket,
      isReady: () => !hasFailed,
      origins,
      isOpen,
      hosts: config.dev ? LOOPBACK : [],
      sessionTtlMs: config.sessionTtlMs,
      maxConnections: config.maxConnections,
      trustedProxies: listOf(config.trustedProxies),
      log,
    });
    metricsRoute(app, { access: config.metrics, metrics, engine, hub, webSockets: () => webSocket.size, isReady: () => !hasFailed });
    backupRoute(app, engine, hub);
    sdkRoute(app);
    descriptionRoutes(app, { version: VERSION, maxMessageBytes: config.maxMessageBytes, maxTtlSeconds: Math.floor(config.maxTtlMs / 1000) });
    if (x0) {
      await app.register((own, _options, done) => {
        x0Route(own, x0, fromFastify);
        done();
      });
      await app.register((own, _options, done) => {
        x0SessionRoute(own, x0, (origin, host) => isOpen || isAllowedOrigin(origins, origin, host));
        done();
      });
      x0ScriptRoute(app);
    }
    if (config.dev) demoRoutes(app, hub, authenticator, config.sessionTtlMs);
    if (config.x0 === "demo") {
      log.warn(
        `HANDOVER_X0=demo: whoever reaches this port reads the mail of every x0 session, and can be any user${isOpen ? "; so can every page that a browser shows, of whatever origin" : ""}. For trying it out only.`,
      );
    } else if (config.x0 === "registered" && origins.length === 0) {
      log.info("HANDOVER_ORIGINS is not set: x0's pages poll as ever. Name their origins there, and they can have /x0/handover.js (docs/x0.md).");
    }
    if (engine.name === "rabbitmq") log.warn("The RabbitMQ engine is experimental: one node per journal.");
    if (engine.supports.durable === "no") log.warn("The memory engine is not durable: messages end with this process. For tests only.");
    await listen(app, config);
    const stopGrowing = growWithLoad(() => metrics.sentCount);

    let closing: Promise<void> | undefined;
    const close = async () => {
      // The socket outlives this process: who comes from now on waits for the next one, instead of being turned away by this one.
      const isElsewhere = config.listenFd > 0;
      const stopped = isElsewhere ? stopListening(app.server) : undefined;
      x0?.drain(isElsewhere);
      // x0's pages have no second try: what they send on the connections that they still have is taken.
      if (x0 && isElsewhere) await pause(FLUSH_MS);
      hub.drain(config.drainMs);
      webSocket.close(hub.draining());
      // Who is connected, or is about to be, is answered with 503 for a moment; a connection that is cut says less.
      await pause(FLUSH_MS);
      stopGrowing();
      const closed = app.close();
      await engine.close();
      const cut = setTimeout(() => app.server.closeAllConnections(), FLUSH_MS);
      await closed;
      await stopped;
      clearTimeout(cut);
    };
    const { address, port, family } = app.server.address() as AddressInfo;
    return {
      url: `http://${family === "IPv6" ? `[${address}]` : address}:${port}`,
      engine,
      isReady: () => !hasFailed && !hub.isDraining,
      close: () => {
        closing ??= close();
        return closing;
      },
    };
  } catch (thrown) {
    await engine.close();
    throw thrown;
  }
}

/**
 * Log lines on standard output. Those for which there is no room (a full disk, a pipe that nobody reads) wait for the next line, up to a MiB of
 * them, and are lost beyond that: they end nothing, and nothing waits for them.
 */
function logger(level: Config["logLevel"]): Logger {
  // What pino does by itself for a full pipe is to sleep, with the whole process, until there is room.
  const output = pino.destination({ fd: 1, sync: true, maxLength: 1_048_576, retryEAGAIN: () => false });
  output.on("error", () => {});
  return pino({ level, base: { pid: process.pid } }, output);
}

function providerOf({ jwksUrl, issuer }: Config, log: Logger): Provider | undefined {
  if (jwksUrl === "") return undefined;
  const onFailure = (failure: HandoverError) => log.error({ err: failure.cause }, `The identity provider gave no keys (${jwksUrl}).`);
  return { jwksUrl: new URL(jwksUrl), issuer: issuer === "" ? undefined : issuer, onFailure };
}

/** Whether a user exists, where the server is configured to know. */
function knownUsers({ users }: Config): (user: string) => boolean {
  const known = new Set(listOf(users));
  return known.size === 0 ? () => true : (user) => known.has(user);
}

/** Takes no more connections, and goes on with those that there are. Resolves when there are none. */
function stopListening(server: HttpServer): Promise<void> {
  // Not the HTTP server's own close, which would end connections between two requests.
  return new Promise((resolve) => TcpServer.prototype.close.call(server, () => resolve()));
}

async function listen(app: Awaited<ReturnType<typeof httpServer>>, config: Config): Promise<void> {
  const { host, port, listenFd } = config;
  // Fastify passes it on to Node, whose types have it.
  const socket: { fd?: number } = listenFd > 0 ? { fd: listenFd } : {};
  try {
    await app.listen({ ...socket, host, port });
    requireLoopback(config, (app.server.address() as AddressInfo).address);
  } catch (cause) {
    if (cause instanceof ConfigError) {
      await app.close();
      throw cause;
    }
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (listenFd > 0) throw new ConfigError(`Descriptor ${listenFd} (HANDOVER_LISTEN_FD) is not a socket that listens (${String(code)}).`, { cause });
    if (code === "EADDRINUSE")
      throw new ConfigError(`Port ${port} on ${host} is in use. Stop what uses it, or choose another: --port 8081.`, { cause });
    if (code === "EACCES") throw new ConfigError(`Port ${port} needs rights that this user does not have. Choose one above 1023.`, { cause });
    if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND") throw new ConfigError(`${host} is not an address of this machine (--host).`, { cause });
    throw cause;
  }
}

function engineOf(config: Config, log: Logger, { committed, damaged }: Metrics): Engine {
  const caps = { mailboxMaxMessages: config.mailboxMaxMessages, mailboxMaxBytes: config.mailboxMaxBytes };
  if (config.engine === "memory:") return memoryEngine(caps);
  const say = (line: string) => log.error(line);
  if (!config.engine.startsWith("amqp")) return sqliteEngine({ ...caps, dir: resolve(config.data), log: say, committed, damaged });
  // A folder of its own: the index belongs to the journal.
  const index = sqliteEngine({ ...caps, dir: join(resolve(config.data), "rabbitmq"), log: say, committed, damaged });
  const { searchParams } = new URL(config.engine);
  const [journal, refill] = [searchParams.get("journal"), searchParams.get("refill")];
  return rabbitmqEngine({ url: config.engine, index, log: say, refill: refill === "1", ...(journal === null ? {} : { journal }) });
}

export interface Secrets {
  readonly serviceKey: string;
  /** Empty: tokens are the identity provider's. */
  readonly tokenSecret: string;
}

/**
 * The secrets in force: as configured; in development mode, what is not configured is made once and kept in the data folder.
 * @throws ConfigError outside development mode when nobody's tokens would be good, for an issuer without its keys, and for development mode on an address that others can reach
 */
export function secretsOf(config: Config): Secrets {
  if (config.issuer !== "" && config.jwksUrl === "") {
    throw new ConfigError("HANDOVER_ISSUER names an identity provider, and HANDOVER_JWKS_URL does not say where its keys are. Set both, or neither.");
  }
  if (config.dev) {
    requireLoopback(config, config.host);
    return {
      serviceKey: config.serviceKey || keptSecret(config.data, "service-key"),
      tokenSecret: config.tokenSecret || keptSecret(config.data, "token-secret"),
    };
  }
  if (config.tokenSecret === "" && config.jwksUrl === "") {
    throw new ConfigError(
      "HANDOVER_TOKEN_SECRET is not set: without a secret of at least 32 bytes anybody could make tokens. " +
        "Set it, for example to the output of `openssl rand -base64 32`; or set HANDOVER_JWKS_URL to the keys of your identity provider; or use --dev to try things out on this machine.",
    );
  }
  return { serviceKey: config.serviceKey, tokenSecret: config.tokenSecret };
}

/** @throws ConfigError when others can reach `host`, and the settings are for this machine only */
function requireLoopback(config: Config, host: string): void {
  if (LOOPBACK.includes(host)) return;
  if (config.dev) throw new ConfigError(`Development mode makes a session for whoever asks, so it listens on 127.0.0.1 only, not on ${host}.`);
  if (config.x0 === "demo" && !config.x0Public) {
    throw new ConfigError(
      `With HANDOVER_X0=demo anybody can be any user, and read anybody's mail, so it listens on 127.0.0.1 only, not on ${host}. ` +
        "Take HANDOVER_X0=registered, or say HANDOVER_X0_PUBLIC=true if this network is yours alone.",
    );
  }
}

/** A secret of the data folder, readable by its owner only; made if it is not there. */
function keptSecret(folder: string, name: string): string {
  const path = join(resolve(folder), name);
  mkdirSync(resolve(folder), { recursive: true, mode: 0o700 });
  try {
    writeFileSync(path, `${randomBytes(32).toString("base64url")}\n`, { mode: 0o600, flag: "wx" });
  } catch (thrown) {
    if (!(thrown instanceof Error && "code" in thrown && thrown.code === "EEXIST")) throw thrown;
    chmodSync(path, 0o600);
  }
  return readFileSync(path, "utf8").trim();
}
