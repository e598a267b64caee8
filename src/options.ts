/**
 * What the commands have in common: flags that are settings, and asking a running server.
 * @module
 */
import { type Command, Option } from "commander";
import { parseServiceKeys } from "./auth.ts";
import { type Config, ConfigError, loadConfig, optionOf, rows, type SettingKey } from "./config.ts";
import { type Secrets, secretsOf } from "./server.ts";

export type Flags = Partial<Record<SettingKey, string | boolean>> & { config?: string };

/** Adds an option for each setting. */
export function withSettings(command: Command, keys?: readonly SettingKey[]): Command {
  command.option("--config <file>", "JSON file with settings (HANDOVER_CONFIG)");
  for (const [key, row] of rows()) {
    if (keys && !keys.includes(key)) continue;
    const shown = row.default === "" ? "" : ` [${String(row.default)}${row.unit ? ` ${row.unit}` : ""}]`;
    const value = typeof row.default === "boolean" ? "" : ` <${row.unit ?? (typeof row.default === "number" ? "number" : "text")}>`;
    command.addOption(new Option(`${optionOf(key)}${value}`, `${row.says}${shown} (${row.variable})`));
  }
  return command;
}

export function settingsOf({ config: file, ...flags }: Flags): Config {
  return loadConfig({ file: file ?? process.env.HANDOVER_CONFIG, environment: process.env, flags });
}

export interface ToolFlags extends Flags {
  url?: string;
  token?: string;
}

/** Options of a command that talks to a running server. */
export function asClient(command: Command): Command {
  return withSettings(command, ["dev", "data", "serviceKey"])
    .addOption(new Option("--url <url>", "the server [http://127.0.0.1:8080]").env("HANDOVER_URL"))
    .addOption(new Option("--token <token>", "a user's token, instead of the service key").env("HANDOVER_TOKEN"));
}

export function serverUrl(flags: ToolFlags, config: Config): string {
  return (flags.url ?? `http://${config.host}:${config.port}`).replace(/\/$/, "");
}

/** The flags that are settings. */
export function withoutTools({ url: _url, token: _token, ...settings }: ToolFlags): Flags {
  return settings;
}

export async function fetchFrom(url: string, path: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(`${url}${path}`, init);
  } catch (cause) {
    throw new ConfigError(`There is no answer from ${url}. Is the server running there? (--url)`, { cause });
  }
}

export function clientSecrets(config: Config): Pick<Secrets, "serviceKey"> {
  const { serviceKey } = config.dev ? secretsOf(config) : config;
  // The setting of a server, which may have several keys with names: the first.
  return { serviceKey: parseServiceKeys(serviceKey)[0]?.key ?? "" };
}

/** JSON if it is JSON, else the text itself. */
export function jsonOrText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export function detailOf(answer: string): string {
  const problem = jsonOrText(answer);
  return typeof problem === "object" && problem !== null && "detail" in problem ? String(problem.detail) : answer;
}
