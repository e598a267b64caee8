/**
 * The commands that care for the embedded store: `backup` asks a running server; `restore` and `doctor` work on a folder that no server has open.
 * @module
 */
import { closeSync, createWriteStream, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { Command } from "commander";
import { ConfigError } from "./config.ts";
import { type Content, type Diagnosis, examineFile, examineFolder, type Repaired, repair } from "./engines/sqlite/doctor.ts";
import { syncFolder } from "./engines/sqlite/folder.ts";
import { restoreStore } from "./engines/sqlite/restore.ts";
import { CannotOpen } from "./engines/sqlite/schema.ts";
import type { Unreadable } from "./engines/sqlite/verify.ts";
import {
  asClient,
  clientSecrets,
  detailOf,
  type Flags,
  fetchFrom,
  serverUrl,
  settingsOf,
  type ToolFlags,
  withoutTools,
  withSettings,
} from "./options.ts";

/** Exit codes beside 0 (in order) and 1 (it could not be done). */
const [DAMAGED, LOST] = [2, 3] as const;
/** Most names of a kind that are printed. */
const MAX_NAMED = 20;

const say = (line: string) => process.stdout.write(`${line}\n`);

/** Says what the store's own errors say, and not where they come from. */
function plainly<T>(what: () => T): T {
  try {
    return what();
  } catch (thrown) {
    throw thrown instanceof CannotOpen ? new ConfigError(thrown.message) : thrown;
  }
}

export function backupCommand(): Command {
  return asClient(new Command("backup").description("write a copy of a running server's store to a file, and look whether it is whole"))
    .requiredOption("--to <file>", "the new file; one that is there is not overwritten")
    .addHelpText("after", "\nRun it on the server's own machine. Exit code 2: the copy is damaged, as the store is; it is kept as <file>.damaged.")
    .action(async (flags: ToolFlags & { to: string }) => {
      const { to, ...settings } = flags;
      const config = settingsOf(withoutTools(settings));
      const url = serverUrl(flags, config);
      const file = resolve(to);
      if (existsSync(file)) throw new ConfigError(`${file} is there already; name a new file.`);
      const { serviceKey } = clientSecrets(config);
      if (flags.token === undefined && serviceKey === "")
        throw new ConfigError("Give the server's --service-key; with --dev it is read from the data folder.");
      const response = await fetchFrom(url, "/v1/backup", { headers: { Authorization: `Bearer ${flags.token ?? serviceKey}` } });
      if (response.status !== 200 || !response.body) throw new ConfigError(`No backup (${response.status}): ${detailOf(await response.text())}`);
      const part = `${file}.part`;
      mkdirSync(dirname(file), { recursive: true });
      try {
        await pipeline(response.body, createWriteStream(part, { mode: 0o600 }));
        sync(part);
      } catch (cause) {
        rmSync(part, { force: true });
        throw new ConfigError(`The backup broke off, and nothing of it is kept: ${cause instanceof Error ? cause.message : String(cause)}`, {
          cause,
        });
      }
      const diagnosis = plainly(() => examineFile(part));
      const { content } = diagnosis;
      if (diagnosis.findings.length > 0 || !content) {
        renameSync(part, `${file}.damaged`);
        tellFindings(`The store is damaged, and so is its copy, which is kept as ${file}.damaged:`, diagnosis);
        say("Keep the backups that you have. Stop the server, and `handover doctor` says what can be saved.");
        process.exitCode = DAMAGED;
        return;
      }
      renameSync(part, file);
      syncFolder(dirname(file));
      say(`${file}: ${inWords(content)}, ${statSync(file).size} bytes, and all of it is whole.`);
    });
}

function sync(file: string): void {
  const fd = openSync(file, "r");
  fsyncSync(fd);
  closeSync(fd);
}

export function restoreCommand(): Command {
  return withSettings(new Command("restore").description("make a backup the store of a data folder, while no server runs on it"), ["data"])
    .requiredOption("--from <file>", "what `handover backup` wrote")
    .addHelpText(
      "after",
      "\nThe store that is there is kept in a folder beside it. Clients are given everything that is unsettled in the backup, also what they have\nacknowledged since; what was sent since is not in it.",
    )
    .action(({ from, ...flags }: Flags & { from: string }) => {
      const { data } = settingsOf(flags);
      const { content, kept } = plainly(() => restoreStore(resolve(from), data));
      if (kept !== undefined) say(`What was there is kept in ${kept}.`);
      say(`Restored: ${inWords(content)}. Start the server; every client is given all of it.`);
    });
}

export function doctorCommand(): Command {
  return withSettings(new Command("doctor").description("look whether the store of a data folder is in order, while no server runs on it"), ["data"])
    .option("--repair", "make a new store of what can be read, and keep the damaged one beside it")
    .addHelpText(
      "after",
      "\nExit codes: 0 in order, or repaired and nothing lost; 1 it could not look; 2 damaged, and nothing was changed; 3 repaired, and mail was lost.",
    )
    .action(({ repair: isRepair, ...flags }: Flags & { repair?: true }) => {
      const { data } = settingsOf(flags);
      const folder = resolve(data);
      const diagnosis = plainly(() => examineFolder(folder));
      for (const note of diagnosis.notes) say(`Note: ${note}.`);
      if (diagnosis.findings.length === 0) {
        say(`The store in ${folder} is in order${diagnosis.content ? `: ${inWords(diagnosis.content)}` : ""}.`);
        return;
      }
      tellFindings(`The store in ${folder} is damaged:`, diagnosis);
      if (!isRepair) {
        say("Nothing was changed. With --repair, what can be read is put into a new store, and this one is kept beside it;");
        say("a backup may hold more: `handover restore --from <file>`. Look at the disk, too.");
        process.exitCode = DAMAGED;
        return;
      }
      if (
        tellRepaired(
          plainly(() => repair(folder, diagnosis)),
          diagnosis,
        )
      )
        process.exitCode = LOST;
    });
}

function tellFindings(title: string, { findings, unreadable }: Diagnosis): void {
  say(title);
  for (const finding of findings) say(`- ${finding}`);
  tellByMailbox(unreadable, (n, user) => `${n} ${n === 1 ? "message" : "messages"} for ${user} cannot be handed out`);
}

/** @returns whether anything was lost, or may have been */
function tellRepaired({ salvaged, kept }: Repaired, { misses }: Diagnosis): boolean {
  const { taken, lost, missing, unaddressed } = salvaged;
  say(`Repaired: ${inWords(taken)} are in the new store, with ${taken.settled} that have ended and ${taken.keys} idempotency keys.`);
  if (kept !== undefined) say(`The damaged store is kept in ${kept}.`);
  tellByMailbox(lost, (n, user) => `Lost: ${n} ${n === 1 ? "message" : "messages"} for ${user}`);
  const unnamed = (missing ?? 0) - lost.length;
  if (unnamed > 0) say(`Lost: ${unnamed} more that cannot be named.`);
  if (missing === undefined) say("How many more are lost cannot be told: the store's own count of them cannot be trusted.");
  if (misses) say("Commits are missing. What was acknowledged in them is delivered again.");
  if (unaddressed.length > 0) say(`${unaddressed.length} events of which nothing says for whom they are: unaddressed.jsonl, in that folder.`);
  say("Start the server; every client is given all that is unsettled.");
  return lost.length > 0 || missing !== 0 || misses;
}

function tellByMailbox(mail: readonly Unreadable[], sentence: (n: number, user: string) => string): void {
  for (const [user, those] of Map.groupBy(mail, (each) => each.user)) {
    const ids = those.slice(0, MAX_NAMED).map(({ message }) => message);
    say(`${sentence(those.length, user ?? "a mailbox that cannot be read")}: ${ids.join(", ")}${those.length > MAX_NAMED ? ", …" : ""}`);
  }
}

function inWords({ unsettled, mailboxes }: Content): string {
  return `${unsettled} unsettled ${unsettled === 1 ? "message" : "messages"} in ${mailboxes} ${mailboxes === 1 ? "mailbox" : "mailboxes"}`;
}
