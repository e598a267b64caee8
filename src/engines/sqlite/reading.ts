/**
 * What is read of the store: a mailbox's mail, and all mail that waits. What is not as it was written is told apart, and never handed over.
 * @module
 */
import { crc32 } from "node:zlib";
import type { EntryRow, UnsettledResult, UnsettledRow } from "./call.ts";
import { isIntact } from "./checksum.ts";
import type { FreshBook } from "./fresh.ts";
import type { FreshMail } from "./shelf.ts";
import { type GapRow, type MailboxRow, type MailRow, STEP_ROWS, type Statements } from "./statement.ts";

/** Most bytes of events, about, that one step of a walk hands over. */
const STEP_BYTES = 8 * 1024 * 1024;

export interface Reading {
  readonly entries: readonly EntryRow[];
  /** Numbers of what is unsettled, also for other sessions. */
  readonly unsettled: readonly number[];
  /** Unacknowledged endings. */
  readonly ended: GapRow[];
  /** Not what was written: to be ended. */
  readonly damaged: readonly MailRow[];
  readonly lookedAt: number;
  readonly more: boolean;
}

/** One step of reading a mailbox above a number. */
export function readMail(
  run: Statements,
  box: MailboxRow,
  fresh: FreshBook,
  {
    session,
    after,
    limit,
    maxBytes,
    nowMs,
  }: { readonly session: string; readonly after: number; readonly limit: number; readonly maxBytes: number; readonly nowMs: number },
): Reading {
  const ended = run.gaps.all(box.id, after);
  let lookedAt = ended.length < STEP_ROWS ? box.head : (ended.at(-1)?.seq ?? box.head);
  let more = lookedAt < box.head;
  const entries: EntryRow[] = [];
  const unsettled: number[] = [];
  const damaged: MailRow[] = [];
  let bytes = 0;
  let rows = 0;
  // Where all that waits is fresh, nothing has a row.
  const inRows = box.count === fresh.shelf(box.id).count ? [] : run.mail.iterate(box.id, after);
  for (const row of byNumber(inRows, above(fresh.waiting(box.id), after))) {
    if (row.seq > lookedAt) break;
    rows += 1;
    if (rows > STEP_ROWS * 10) {
      lookedAt = row.seq - 1;
      more = true;
      break;
    }
    // First of all: whose it is and how long it lives may be what is damaged.
    const isFresh = "ended_ms" in row;
    if (!isFresh && !isIntact(row, box.user)) {
      damaged.push(row);
      continue;
    }
    if ((row.session === null || row.session === session) && row.expires_ms > nowMs) {
      if (row.text === null || (!isFresh && crc32(row.text) !== row.event_checksum)) {
        if (!isFresh) damaged.push(row);
        continue;
      }
      const last = entries.at(-1);
      if (last && (entries.length >= limit || bytes + row.bytes > maxBytes)) {
        lookedAt = last[0];
        more = false;
        break;
      }
      bytes += row.bytes;
      entries.push([row.seq, row.message, row.attempts, row.text, row.session]);
    }
    unsettled.push(row.seq);
  }
  return { entries, unsettled, ended, damaged, lookedAt, more };
}

function* above(mails: Iterable<FreshMail>, after: number): Generator<FreshMail> {
  for (const mail of mails) if (mail.seq > after) yield mail;
}

/** Two sources, each ascending, as one. */
function* byNumber(rows: Iterable<MailRow>, mails: Generator<FreshMail>): Generator<MailRow | FreshMail> {
  let mail = mails.next();
  for (const row of rows) {
    for (; !mail.done && mail.value.seq < row.seq; mail = mails.next()) yield mail.value;
    yield row;
  }
  for (; !mail.done; mail = mails.next()) yield mail.value;
}

/** One step of a walk through all deliveries: those that wait, and the damaged ones by their keys. */
export function walkMail(
  run: Statements,
  message: string,
  mailbox: number,
): UnsettledResult & { readonly damaged: readonly (readonly [string, number])[] } {
  const rows: UnsettledRow[] = [];
  const damaged: (readonly [string, number])[] = [];
  let last: readonly [string, number] | null = null;
  let looked = 0;
  let bytes = 0;
  for (const row of run.walk.iterate(message, mailbox)) {
    if (bytes > STEP_BYTES) break;
    looked += 1;
    last = [row.message, row.mailbox];
    if (row.ending !== null) continue;
    bytes += row.bytes;
    if (row.event === null || row.text === null || !isIntact(row, row.user) || crc32(row.text) !== row.event_checksum) damaged.push(last);
    else rows.push([row.event, row.message, row.source, row.text, row.expires_ms, row.topic, row.user, row.session]);
  }
  return { rows, damaged, after: looked === STEP_ROWS || bytes > STEP_BYTES ? last : null };
}
