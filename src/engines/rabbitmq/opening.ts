/**
 * Brings index and journal together when the engine opens: finds out whether they belong together and are whole, and makes good what a crash
 * or a loss has left.
 * @module
 */
import type { Addressed, Engine } from "../../engine.ts";
import { asHandoverError } from "../../errors.ts";
import { unavailable } from "./failure.ts";
import type { Journal } from "./journal.ts";
import { countDeliveries, type JournalCall, type Owner, RECORD_BYTES, type Replay, sizeOf, weightOf, writeRecord } from "./record.ts";

/** Messages of a rebuild that are stored at once. */
const REBUILD_STEP = 500;
/** A call of a refill, which has a record of its own, holds no more. */
const REFILL_MESSAGES = 500;

/** An engine that can say what waits in it. */
export interface JournalIndex extends Engine {
  /** All that is unsettled, in the order of its acceptance, each message with the recipients for whom it waits; keys are not told. */
  unsettled(): Promise<readonly Addressed[]>;
}

export interface Parties {
  readonly index: JournalIndex;
  readonly indexName: string;
  readonly journal: Journal;
  /** Whether what waits in the index may be written into a journal that has lost it. */
  readonly mayRefill: boolean;
  readonly log: (line: string) => void;
}

/** Where the journal stands: the last number given in it, what it weighs, and how many deliveries the index has accepted. */
export interface Standing {
  readonly n: number;
  readonly weight: number;
  readonly accepted: number;
}

/** @throws HandoverError store-unavailable with a sentence for the operator, when they do not belong together or something is missing */
export async function bringTogether(parties: Parties): Promise<Standing> {
  const { index, indexName, journal, mayRefill, log } = parties;
  const owner = await journal.readOwner();
  const hasMail = (await index.totals()).accepted > 0;
  let standing: Standing | undefined;
  if (owner?.index === indexName) {
    const found = owner.isClean ? await continueClean(parties, owner) : await continueAfterCrash(parties, owner);
    if (found.isWhole) standing = found;
    else if (!mayRefill)
      throw unavailable(
        `The journal on this broker does not hold all that waits in the data folder: a queue was deleted or emptied, a policy dropped records, or it is an older journal. ${HOW_TO_REFILL}`,
      );
  } else if (!hasMail) standing = await rebuild(parties, owner);
  else if (owner)
    throw unavailable(
      "The journal on this broker belongs to another data folder. Use that folder; or an empty one, which is rebuilt from the journal; or another journal (?journal=name).",
    );
  else if (!mayRefill)
    throw unavailable(
      `This data folder has a journal, but not on this broker. Use the broker, virtual host and name that it was made with. ${HOW_TO_REFILL}`,
    );
  else if ((await journal.countRecords()) > 0)
    throw unavailable(
      "There is a journal of this name whose owner is not known. It is not overwritten: delete its queues, or use another (?journal=name).",
    );
  if (standing && mayRefill) log("The journal is whole; nothing was written into it. Take refill out of HANDOVER_ENGINE.");
  return standing ?? refill(parties);
}

const HOW_TO_REFILL =
  "If that is lost for good: add refill=1 to HANDOVER_ENGINE for one start, and all that waits in the folder is written into the journal.";

async function continueClean({ index, journal }: Parties, owner: Owner): Promise<Standing & { readonly isWhole: boolean }> {
  const { accepted } = await index.totals();
  if (accepted < owner.accepted) throw isOldCopy();
  const isWhole = accepted === owner.accepted && (await journal.countRecords()) >= owner.records;
  return { n: nextN(owner.n), weight: owner.weight, accepted, isWhole };
}

/** What was confirmed and not yet stored is stored, and nothing else. Nobody has an answer to it. */
async function continueAfterCrash(parties: Parties, owner: Owner): Promise<Standing & { readonly isWhole: boolean }> {
  const { index } = parties;
  const replay = await read(parties);
  const before = await index.totals();
  if (before.accepted < replay.accepted) throw isOldCopy();
  // Whatever is unsettled here stands there: it was published before it was stored.
  const isWhole = countDeliveries(replay.calls()) >= before.unsettled;
  const nowMs = Date.now();
  for (const { n, items } of replay.calls()) {
    if (n <= replay.done || items.some(({ expiresAtMs, acceptedAtMs }) => expiresAtMs <= nowMs && expiresAtMs > acceptedAtMs)) continue;
    const known = await Promise.all(items.map(({ id }) => index.find(id)));
    if (known.some((state) => state !== undefined)) continue;
    await index.append(items).catch((thrown: unknown) => {
      const error = asHandoverError(thrown);
      if (error.code !== "internal") throw error;
      parties.log(`A call in the journal could not be stored, and was not: ${error.message}`);
    });
  }
  const { accepted } = await index.totals();
  return { n: nextN(replay.lastN, owner.n), weight: replay.weight, accepted, isWhole };
}

/** A new index for an old journal: all that waits, under a new epoch. */
async function rebuild(parties: Parties, owner: Owner | undefined): Promise<Standing> {
  const { index, log } = parties;
  const replay = await read(parties);
  let step: Promise<void>[] = [];
  let count = 0;
  for (const { items } of replay.calls()) {
    for (const item of items) step.push(restore(index, item));
    count += items.length;
    if (step.length < REBUILD_STEP) continue;
    await Promise.all(step);
    step = [];
  }
  await Promise.all(step);
  if (count > 0) log(`The mailboxes were rebuilt from the journal: ${count} messages wait, under a new epoch.`);
  return { n: nextN(replay.lastN, owner?.n ?? 0), weight: replay.weight, accepted: (await index.totals()).accepted };
}

async function restore(index: Engine, item: Addressed): Promise<void> {
  const [appended] = await index.append([item]);
  if (appended?.outcome !== "stored" || appended.accepted.refused)
    throw unavailable(
      `Message ${item.id} of the journal does not fit the mailbox it was accepted for (${appended?.outcome}). Raise the mailbox limits, empty the data folder and start again.`,
    );
}

/** A new journal for an old index. What is left of the journal is given up: whatever it had and the index had not was stored before. */
async function refill({ index, journal, log }: Parties): Promise<Standing> {
  await journal.empty();
  const { accepted } = await index.totals();
  const items = await index.unsettled();
  let n = nextN();
  let weight = 0;
  for (let from = 0; from < items.length; ) {
    const some: Addressed[] = [];
    for (let bytes = 0; from < items.length && some.length < REFILL_MESSAGES && bytes < RECORD_BYTES; from += 1) {
      const item = items[from];
      if (!item) break;
      some.push(item);
      bytes += sizeOf([item]);
    }
    n += 1;
    const calls: JournalCall[] = [{ n, items: some }];
    const record = { done: n, accepted, calls, gone: [], void: [] };
    await journal.publish(writeRecord(record));
    weight += weightOf(record);
  }
  log(`${items.length} messages that wait in the data folder were written into the journal. Take refill out of HANDOVER_ENGINE.`);
  return { n, weight, accepted };
}

async function read({ journal, log }: Parties): Promise<Replay> {
  const replay = await journal.readAll();
  if (replay.unreadable > 0) log(`The journal holds ${replay.unreadable} records that this version cannot read; they are left out.`);
  return replay;
}

/** Numbers rise, whoever wrote the last one. */
function nextN(...known: readonly number[]): number {
  return Math.max(Date.now() * 1_000, ...known);
}

function isOldCopy() {
  return unavailable(
    "This data folder is older than its journal: a copy that was put back. What was accepted and settled since is not in it. Move the folder's content away and start again: the mailboxes are rebuilt from the journal.",
  );
}
