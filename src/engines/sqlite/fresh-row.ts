/**
 * Fresh mail on the disk: the row that a commit writes, and what rows say together.
 * @module
 */
import { crc32 } from "node:zlib";
import { nameOfKey } from "./key.ts";
import type { Db } from "./schema.ts";
import type { FreshMail } from "./shelf.ts";
import type { FreshRow } from "./statement.ts";

/** What came with one commit. */
export interface Arrival {
  readonly commit: number;
  /** Between these its ids are. */
  readonly first: string;
  readonly last: string;
  readonly nowMs: number;
  readonly mails: readonly FreshMail[];
  readonly bytes: number;
}

/** Per mail: message, mailbox, seq, source, bytes, event's checksum, accepted_ms, expires_ms, ttl, key, hash, key_due_ms. */
type Tuple = readonly [string, number, number, string, number, number, number, number, number, string | null, string | null, number];

/** What a row says, as JSON. */
interface Header {
  readonly now: number;
  /** Times are counted from `now`, and the checksum is signed: small numbers are written in half the time. */
  readonly mails: readonly Tuple[];
  /** In their place until version 7: with dates. */
  readonly came?: readonly Tuple[];
  /** Pairs: mailbox, seq; acknowledged at `now`. */
  readonly acked: readonly number[];
  /** Pairs: what has rows since this commit. */
  readonly moved: readonly number[];
}

/** What a commit says of fresh mail. */
export interface Told {
  readonly came: readonly FreshMail[];
  readonly acked: readonly FreshMail[];
  readonly moved: readonly FreshMail[];
}

/** The values of a row: mails, checksum, header, events. */
export function writeFresh({ came, acked, moved }: Told, nowMs: number): readonly [number, number, string, Buffer] {
  const header: Header = { now: nowMs, mails: came.map((mail) => toTuple(mail, nowMs)), acked: acked.flatMap(place), moved: moved.flatMap(place) };
  const text = JSON.stringify(header);
  return [came.length, crc32(text), text, Buffer.from(came.map((mail) => mail.text).join(""))];
}

function toTuple(mail: FreshMail, nowMs: number): Tuple {
  const { message, mailbox, seq, source, bytes, event_checksum, accepted_ms, expires_ms, ttl, key, hash, key_due_ms } = mail;
  const [accepted, expires, keyDue] = [accepted_ms - nowMs, expires_ms - nowMs, key_due_ms - nowMs];
  return [message, mailbox, seq, source, bytes, event_checksum | 0, accepted, expires, ttl, key, hash, keyDue];
}

function place(mail: FreshMail): readonly [number, number] {
  return [mail.mailbox, mail.seq];
}

/** Between which ids mail is. */
export function idsOf(mails: readonly FreshMail[]): { readonly first: string; readonly last: string } {
  let [first, last] = [mails[0]?.message ?? "", ""];
  for (const { message } of mails) {
    if (message < first) first = message;
    if (message > last) last = message;
  }
  return { first, last };
}

/** The fresh mail of a database, and how many of its rows are not what was written. */
export function readFresh(db: Db): ReturnType<typeof replayFresh> {
  return replayFresh(db.prepare<[], FreshRow>("SELECT n, mails, checksum, header, events FROM fresh ORDER BY n").all());
}

/** How many rows of fresh mail are not what was written: without reading the mail in them, which is done once, when the store is opened. */
export function countDamagedFresh(db: Db): number {
  const rows = db.prepare<[], Pick<FreshRow, "checksum" | "header">>("SELECT checksum, header FROM fresh").all();
  return rows.filter((row) => !isWhole(row)).length;
}

function isWhole({ checksum, header }: Pick<FreshRow, "checksum" | "header">): boolean {
  return crc32(header) === checksum;
}

/** What rows of fresh mail say together. @param rows  in the order of the commits */
export function replayFresh(rows: readonly FreshRow[]): { arrivals: Arrival[]; damaged: number; lost: number } {
  const arrivals: Arrival[] = [];
  const byPlace = new Map<string, FreshMail>();
  let damaged = 0;
  let lost = 0;
  for (const { n, mails: count, checksum, header, events } of rows) {
    if (!isWhole({ checksum, header })) {
      damaged += 1;
      lost += count;
      continue;
    }
    const { now, mails: tuples, came, acked, moved } = JSON.parse(header) as Header;
    const baseMs = came ? 0 : now;
    let at = 0;
    const mails = (came ?? tuples).map((tuple): FreshMail => {
      const [message, mailbox, seq, source, bytes, checksumAsWritten, accepted, expires, ttl, key, hash, keyDue] = tuple;
      const event_checksum = checksumAsWritten >>> 0;
      const [accepted_ms, expires_ms, key_due_ms] = [baseMs + accepted, baseMs + expires, baseMs + keyDue];
      // A text that is not what was written is found when it is read, as that of a row.
      const text = events.toString("utf8", at, at + bytes);
      at += bytes;
      const keyName = key === null ? null : nameOfKey(source, key);
      const ofMessage = { message, source, text, event_checksum, bytes, accepted_ms, expires_ms, ttl, key, keyName, hash, key_due_ms };
      return { ...ofMessage, mailbox, seq, event: null, session: null, topic: null, attempts: 1, ended_ms: null, commit: n, isMoved: false };
    });
    for (const mail of mails) byPlace.set(`${mail.mailbox} ${mail.seq}`, mail);
    const each = (pairs: readonly number[], change: (mail: FreshMail) => void) => {
      for (let pair = 0; pair < pairs.length; pair += 2) {
        const mail = byPlace.get(`${pairs[pair]} ${pairs[pair + 1]}`);
        if (mail) change(mail);
      }
    };
    each(acked, (mail) => {
      mail.ended_ms = now;
    });
    each(moved, (mail) => {
      mail.isMoved = true;
    });
    arrivals.push({ commit: n, ...idsOf(mails), nowMs: now, mails, bytes: at });
  }
  return { arrivals, damaged, lost };
}
