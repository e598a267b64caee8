/**
 * Servers for tests: in this process, on a free port of 127.0.0.1, with a store of their own.
 * @module
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Config, loadConfig, type SettingKey } from "../../src/config.ts";
import { type Server, startServer } from "../../src/server.ts";
import { signToken } from "../../src/testing/wire.ts";

export const SERVICE_KEY = "desk:a-service-key-for-tests";
export const SERVICE_CREDENTIAL = "a-service-key-for-tests";
export const TOKEN_SECRET = "a secret of at least 32 bytes, for tests";

const IN_AN_HOUR_S = Math.floor(Date.now() / 1000) + 3_600;

/** A token as any backend could sign it, for an hour: the same for a user in a whole test file. @param more  claims that differ */
export function tokenOf(user: string, more: object = {}): string {
  return signToken(TOKEN_SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: IN_AN_HOUR_S, ...more });
}

export type EngineName = "memory" | "sqlite";

export interface Started {
  readonly url: string;
  readonly server: Server;
  readonly config: Config;
  /** A token as any backend could sign it; the same for the same words, since to x0's wire another token is another page. */
  token(user: string, more?: object): string;
  /** Stops and starts it again with the same data at the same address. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a server. @param flags  settings that differ from the defaults, as texts */
export async function start(engine: EngineName, flags: Partial<Record<SettingKey, string>> = {}): Promise<Started> {
  const data = await mkdtemp(join(tmpdir(), "handover-test-"));
  const configOf = (port: string) =>
    loadConfig({
      environment: {},
      flags: { engine: `${engine}:`, data, port, serviceKey: SERVICE_KEY, tokenSecret: TOKEN_SECRET, logLevel: "silent", ...flags },
    });
  const failed = (cause: Error) => {
    throw cause;
  };
  const config = configOf("0");
  let server = await startServer(config, failed);
  const { url } = server;
  return {
    url,
    config,
    get server() {
      return server;
    },
    token: tokenOf,
    async restart() {
      await server.close();
      server = await startServer(configOf(new URL(url).port), failed);
    },
    async stop() {
      await server.close();
      await rm(data, { recursive: true, force: true });
    },
  };
}
