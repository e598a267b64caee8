/**
 * Every setting, in one table. The parser, `handover config`, the options of `handover serve` and docs/config.md all come from it.
 * Defaults < file < environment < command line. No other module reads `process.env`.
 * @module
 */
import { readFileSync } from "node:fs";
import { isIP } from "node:net";

interface SettingRow<T> {
  /** Environment variable. */
  readonly variable: string;
  readonly unit?: string;
  readonly default: T;
  /** Reads a text (environment, command line). @throws Error with the rest of the sentence `HANDOVER_X …` */
  read(text: string): T;
  /** Checks a value from the file. @throws Error likewise */
  check(value: unknown): T;
  /** Never printed. */
  readonly isSecret?: boolean;
  /** One sentence. */
  readonly says: string;
}

function text(
  row: Pick<SettingRow<string>, "variable" | "default" | "says" | "isSecret">,
  check: (value: string) => string = (value) => value,
): SettingRow<string> {
  return {
    ...row,
    read: check,
    check(value) {
      if (typeof value !== "string") throw new Error("must be a text");
      return check(value);
    },
  };
}

function whole(row: Pick<SettingRow<number>, "variable" | "unit" | "default" | "says">, least: number, most: number): SettingRow<number> {
  const check = (value: unknown): number => {
    if (typeof value === "number" && Number.isInteger(value) && value >= least && value <= most) return value;
    throw new Error(`must be a whole number from ${least} to ${most}`);
  };
  return { ...row, read: (value) => check(/^\d+$/.test(value) ? Number(value) : undefined), check };
}

function flag(row: Pick<SettingRow<boolean>, "variable" | "default" | "says">): SettingRow<boolean> {
  return {
    ...row,
    read(value) {
      if (["1", "true", "yes", "on"].includes(value)) return true;
      if (["0", "false", "no", "off", ""].includes(value)) return false;
      throw new Error("must be true or false");
    },
    check(value) {
      if (typeof value !== "boolean") throw new Error("must be true or false");
      return value;
    },
  };
}

function oneOf<const T extends string>(row: { variable: string; default: NoInfer<T>; says: string }, values: readonly T[]): SettingRow<T> {
  const check = (value: unknown): T => {
    const found = values.find((each) => each === value);
    if (found === undefined) throw new Error(`must be one of ${values.join(", ")}`);
    return found;
  };
  return { ...row, read: check, check };
}

const MIB = 1_048_576;

/** The elements of a setting that is a list by commas. */
export function listOf(setting: string): string[] {
  return setting.split(",").flatMap((element) => element.trim() || []);
}

/** The table. Its keys are the keys of the file and, in kebab-case, the options of the command. */
const SETTINGS = {
  host: text({ variable: "HANDOVER_HOST", default: "127.0.0.1", says: "Address to listen on; 0.0.0.0 or :: for every interface." }),
  port: whole({ variable: "HANDOVER_PORT", default: 8080, says: "Port to listen on; 0 takes a free one." }, 0, 65_535),
  data: text({
    variable: "HANDOVER_DATA",
    default: "./data",
    says: "Folder of the embedded store, made on first use. One process at a time owns it.",
  }),
  engine: text(
    {
      variable: "HANDOVER_ENGINE",
      default: "sqlite:",
      says: "Where messages live: `sqlite:` (the embedded store in the data folder), `amqp://user:password@host/vhost` (RabbitMQ's quorum queues and the data folder; experimental, one node) or `memory:` (nothing survives the process).",
    },
    (value) => {
      if (value === "" || value === "sqlite:") return "sqlite:";
      if (value === "memory:") return value;
      if (/^amqps?:\/\//.test(value) && URL.canParse(value)) {
        const { searchParams } = new URL(value);
        if (!/^[A-Za-z0-9_-]{1,64}$/.test(searchParams.get("journal") ?? "main"))
          throw new Error("its journal must be a name of 1 to 64 letters, digits, - and _");
        if ((searchParams.get("refill") ?? "1") !== "1") throw new Error("its refill can only be 1, for one start");
        return value;
      }
      throw new Error("must be sqlite:, memory:, or an address amqp://… or amqps://…");
    },
  ),
  dev: flag({
    variable: "HANDOVER_DEV",
    default: false,
    says: "Development mode, on this machine only: makes a service key and a secret in the data folder and serves the demonstration page.",
  }),
  serviceKey: {
    ...text({
      variable: "HANDOVER_SERVICE_KEY",
      default: "",
      says: "What backends identify themselves with: one key, or several name:key by commas. Unset: no backend can make sessions here.",
    }),
    isSecret: true,
  },
  tokenSecret: {
    ...text({ variable: "HANDOVER_TOKEN_SECRET", default: "", says: "Secret that signs and checks tokens (HS256), at least 32 bytes." }, (value) => {
      if (value !== "" && Buffer.byteLength(value) < 32) throw new Error("must have at least 32 bytes");
      return value;
    }),
    isSecret: true,
  },
  jwksUrl: text(
    {
      variable: "HANDOVER_JWKS_URL",
      default: "",
      says: "Where an identity provider has its keys (JWKS): its tokens (RS256, ES256, EdDSA) are good here too, or without a token secret alone. https, or http on this machine.",
    },
    (value) => {
      if (value === "") return value;
      const url = URL.canParse(value) ? new URL(value) : undefined;
      const isSafe = url?.protocol === "https:" || (url?.protocol === "http:" && ["127.0.0.1", "localhost", "[::1]"].includes(url.hostname));
      if (!url || !isSafe || url.username !== "" || url.password !== "") {
        throw new Error("must be an address https://… without user and password; http://… only on 127.0.0.1, localhost or [::1]");
      }
      return value;
    },
  ),
  issuer: text({
    variable: "HANDOVER_ISSUER",
    default: "",
    says: "The `iss` claim that tokens of the identity provider must have. Unset: any that its keys have signed.",
  }),
  audience: text({ variable: "HANDOVER_AUDIENCE", default: "handover", says: "The `aud` claim that tokens must have." }),
  origins: text(
    {
      variable: "HANDOVER_ORIGINS",
      default: "",
      says: "Origins whose pages may use this server, exactly as browsers send them, by commas. Unset: pages of the same origin only, or with HANDOVER_X0=demo every page that has a token.",
    },
    (value) => {
      for (const origin of listOf(value)) {
        // Any other spelling (a port that goes without saying, capitals) would never be equal to what a browser sends.
        if (!/^https?:\/\/[^/\s*]+$/.test(origin) || !URL.canParse(origin) || new URL(origin).origin !== origin)
          throw new Error(`holds ${JSON.stringify(origin)}, which is not an origin such as https://app.example.com`);
      }
      return value;
    },
  ),
  users: text(
    {
      variable: "HANDOVER_USERS",
      default: "",
      says: "The users that there are, by commas; a message to anybody else is refused with 404. Unset: any, and the mailbox waits for them.",
    },
    (value) => {
      for (const user of listOf(value)) {
        if (!/^[A-Za-z0-9._:@-]{1,128}$/.test(user)) throw new Error(`holds ${JSON.stringify(user)}, which is not a user id`);
      }
      return value;
    },
  ),
  sessionTtlMs: whole(
    { variable: "HANDOVER_SESSION_TTL_MS", unit: "ms", default: 3_600_000, says: "Life of a session's token when the backend does not say." },
    1_000,
    31_536_000_000,
  ),
  maxTtlMs: whole(
    { variable: "HANDOVER_MAX_TTL_MS", unit: "ms", default: 30 * 24 * 3_600_000, says: "Longest time to live that a message is granted." },
    1_000,
    31_536_000_000,
  ),
  maxMessageBytes: whole(
    { variable: "HANDOVER_MAX_MESSAGE_BYTES", unit: "bytes", default: MIB / 4, says: "Largest message, counted as the whole event." },
    1_024,
    MIB - 4_096,
  ),
  mailboxMaxMessages: whole(
    { variable: "HANDOVER_MAILBOX_MAX_MESSAGES", default: 10_000, says: "Most unsettled messages in one mailbox; more are refused with 507." },
    1,
    10_000_000,
  ),
  mailboxMaxBytes: whole(
    { variable: "HANDOVER_MAILBOX_MAX_BYTES", unit: "bytes", default: 64 * MIB, says: "Most bytes of unsettled messages in one mailbox." },
    MIB,
    1_099_511_627_776,
  ),
  maxReceiversPerUser: whole(
    { variable: "HANDOVER_MAX_RECEIVERS_PER_USER", default: 100, says: "Most tabs, devices and workers of one user connected at the same time." },
    1,
    100_000,
  ),
  maxConnections: whole({ variable: "HANDOVER_MAX_CONNECTIONS", default: 15_000, says: "Most open connections; more are refused." }, 1, 1_000_000),
  drainMs: whole(
    {
      variable: "HANDOVER_DRAIN_MS",
      unit: "ms",
      default: 8_000,
      says: "When stopping: the time over which clients are told to spread their return.",
    },
    0,
    60_000,
  ),
  logLevel: oneOf({ variable: "HANDOVER_LOG_LEVEL", default: "info", says: "How much is logged, as JSON lines on standard output." }, [
    "trace",
    "debug",
    "info",
    "warn",
    "error",
    "fatal",
    "silent",
  ]),
  metrics: oneOf(
    {
      variable: "HANDOVER_METRICS",
      default: "local",
      says: "Who may read `/metrics`: `local` (requests from this machine that no proxy passed on, and service keys), `key` (service keys only), `open` (anybody) or `off`.",
    },
    ["local", "key", "open", "off"],
  ),
  x0: oneOf(
    {
      variable: "HANDOVER_X0",
      default: "off",
      says: "The wire of x0's micro-msg-server (docs/x0.md): `demo`, any session value is who it says, as that server has it; `registered`, it is a token of this server's.",
    },
    ["off", "demo", "registered"],
  ),
  x0Public: flag({
    variable: "HANDOVER_X0_PUBLIC",
    default: false,
    says: "Lets HANDOVER_X0=demo listen on addresses that others can reach, where anybody can be any user.",
  }),
  x0AnyKind: flag({
    variable: "HANDOVER_X0_ANY_KIND",
    default: false,
    says: "With HANDOVER_X0=demo, pages may send each other what runs code or markup in the page that gets it, not set-data only.",
  }),
  trustedProxies: text(
    {
      variable: "HANDOVER_TRUSTED_PROXIES",
      default: "",
      says: "Addresses and networks of proxies in front, by commas, whose X-Forwarded-For says whose request it is. Unset: none.",
    },
    (value) => {
      for (const proxy of listOf(value)) {
        const [address = "", bits] = proxy.split("/");
        const most = isIP(address) === 6 ? 128 : 32;
        if (isIP(address) === 0 || (bits !== undefined && !(/^\d{1,3}$/.test(bits) && Number(bits) >= 1 && Number(bits) <= most)))
          throw new Error(`holds ${JSON.stringify(proxy)}, which is neither an address nor a network such as 10.0.0.0/8`);
      }
      return value;
    },
  ),
  listenFd: whole(
    {
      variable: "HANDOVER_LISTEN_FD",
      default: 0,
      says: "Descriptor of a socket that listens already, instead of host and port; it is listened on until the process ends. systemd's LISTEN_FDS is taken by itself. 0: none.",
    },
    0,
    1_000_000,
  ),
} as const satisfies Record<string, SettingRow<string> | SettingRow<number> | SettingRow<boolean>>;

export type SettingKey = keyof typeof SETTINGS;
/** The settings in force. */
export type Config = { readonly [K in SettingKey]: ReturnType<(typeof SETTINGS)[K]["read"]> };

/** A setting that cannot be used; the message names key, place and what is allowed. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

export interface ConfigSources {
  /** Path of a JSON file, or undefined. */
  readonly file?: string | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Texts from the command line. */
  readonly flags: Readonly<Partial<Record<SettingKey, string | boolean>>>;
}

/** Variables that are not settings: where the file is, and those of the command-line tools. */
const OTHER_VARIABLES = ["HANDOVER_CONFIG", "HANDOVER_URL", "HANDOVER_TOKEN"];

/**
 * Puts the settings together: defaults < file < environment < command line.
 * @throws ConfigError for an unknown key or `HANDOVER_*` variable, and for a value that is not allowed
 */
export function loadConfig(sources: ConfigSources): Config {
  const values: Record<string, unknown> = {};
  for (const [key, row] of rows()) values[key] = row.default;
  if (sources.file !== undefined) {
    for (const [key, value] of Object.entries(readFile(sources.file))) {
      const row = Object.hasOwn(SETTINGS, key) ? SETTINGS[key as SettingKey] : undefined;
      if (!row) throw new ConfigError(`${sources.file}: there is no setting ${key}.${nearest(key, Object.keys(SETTINGS))}`);
      values[key] = checked(`${sources.file}: ${key}`, () => row.check(value));
    }
  }
  const variables = new Map(rows().map(([key, row]) => [row.variable, key]));
  for (const [variable, value] of Object.entries(sources.environment)) {
    if (!variable.startsWith("HANDOVER_") || value === undefined || OTHER_VARIABLES.includes(variable)) continue;
    const key = variables.get(variable);
    if (!key) throw new ConfigError(`There is no setting ${variable}.${nearest(variable, [...variables.keys(), ...OTHER_VARIABLES])}`);
    values[key] = checked(variable, () => SETTINGS[key].read(value));
  }
  for (const [key, row] of rows()) {
    const value = sources.flags[key];
    if (value === undefined) continue;
    values[key] = checked(optionOf(key), () => (typeof value === "boolean" ? row.check(value) : row.read(value)));
  }
  return Object.freeze(values) as unknown as Config;
}

/** The table's rows with their keys. */
export function rows(): [SettingKey, SettingRow<unknown>][] {
  return Object.entries(SETTINGS) as [SettingKey, SettingRow<unknown>][];
}

/** The command-line option of a setting. */
export function optionOf(key: SettingKey): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** The settings as they are in force, secrets left out. */
export function describeConfig(config: Config): string {
  return rows()
    .map(([key, row]) => `${row.variable}=${row.isSecret ? (config[key] ? "(set)" : "(not set)") : String(config[key])}`)
    .join("\n");
}

/** The text of docs/config.md. */
export function writeConfigDoc(): string {
  const shown = (value: unknown) => (value === "" ? "" : `\`${String(value)}\``);
  const lines = rows().map(
    ([key, row]) =>
      `| \`${key}\` | \`${row.variable}\` | \`${optionOf(key)}\` | ${shown(row.default)} | ${row.unit ?? ""} | ${row.says.replaceAll("|", "\\|")} |`,
  );
  return `# Settings

Written by \`node scripts/config-doc.mjs\` from the table in src/config.ts; change it there.

Defaults < file < environment < command line. The file is JSON, named by \`--config\` or \`HANDOVER_CONFIG\`. An unknown key or an unknown \`HANDOVER_*\`
variable is an error. \`handover config\` checks the settings and prints those in force, secrets left out.

| key | variable | option | default | unit | |
| --- | --- | --- | --- | --- | --- |
${lines.join("\n")}
`;
}

function readFile(path: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new ConfigError(`${path} cannot be read as JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new ConfigError(`${path} must hold one JSON object.`);
  return value as Record<string, unknown>;
}

function checked<T>(place: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new ConfigError(`${place} ${(cause as Error).message}.`, { cause });
  }
}

/** ` Did you mean …?` for a name that differs in little from a known one. */
function nearest(name: string, known: readonly string[]): string {
  const plain = (each: string) => each.toLowerCase().replace(/[^a-z0-9]/g, "");
  const found = known.find((each) => plain(each) === plain(name) || plain(each).startsWith(plain(name)) || plain(name).startsWith(plain(each)));
  return found ? ` Did you mean ${found}?` : " `handover config --help` lists the settings.";
}
