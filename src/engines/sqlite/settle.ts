import type { Books } from "./books.ts";
import { ACKED, type Change, DEAD, type EndedRow, EXPIRED } from "./call.ts";
import { isIntact } from "./checksum.ts";
import { giveRows } from "./give-rows.ts";
import type { FreshMail } from "./shelf.ts";
import type { DeliveryRow, MailboxRow } from "./statement.ts";

/**
 * What a receiver says of its mail, done.
 * @param session  the receiver's: mail for another one is not its own
 * @returns what ended by these changes, in their order; what turned out to have expired, or to be damaged, is told instead
 */
export function settle(books: Books, user: string, session: string, changes: readonly Change[]): readonly EndedRow[] {
  const box = books.ledger.mailboxOf(user);
  if (!box) return [];
  const settled: EndedRow[] = [];
  const open = (row: DeliveryRow | undefined): row is DeliveryRow => {
    if (!row || (row.session !== null && row.session !== session)) return false;
    if (!books.deliveries.hasExpired(row)) return true;
    books.deliveries.endAndTell(row, EXPIRED);
    return false;
  };
  /** What else is done with fresh mail than to acknowledge it is done with its rows. */
  const rowAt = (seq: number) => {
    const mail = books.fresh.waitingAt(box.id, seq);
    if (mail) giveRows(books, [mail]);
    return books.run.atSeq.get(box.id, seq);
  };
  for (const change of changes) {
    switch (change[0]) {
      case "acked":
        for (const seq of change[1]) {
          const mail = books.fresh.waitingAt(box.id, seq);
          if (mail && !books.deliveries.hasExpired(mail)) {
            settled.push(ackFresh(books, box, mail));
            continue;
          }
          const row = rowAt(seq);
          if (open(row)) settled.push([books.deliveries.end(row, ACKED, null), row.message, ACKED]);
        }
        break;
      case "acked-upto":
        settled.push(...settleUpto(books, box, change[1], new Set(change[2]), open));
        break;
      case "rejected": {
        const row = rowAt(change[1]);
        if (open(row)) settled.push([books.deliveries.end(row, DEAD, change[2]), row.message, DEAD]);
        break;
      }
      case "nacked": {
        const row = rowAt(change[1]);
        if (!open(row)) break;
        if (!isIntact(row, user)) books.deliveries.endDamaged(row);
        else if (row.attempts >= books.options.maxAttempts)
          settled.push([books.deliveries.end(row, DEAD, `nacked ${row.attempts} times`), row.message, DEAD]);
        else if (change[2] > 0) books.deliveries.delay(row, books.outcome.nowMs + change[2]);
        else books.deliveries.comeAgain(row, row.attempts + 1);
        break;
      }
      case "held": {
        const seqs = change[2].filter((seq) => open(rowAt(seq)));
        if (books.holds.hold(box, session, change[1], seqs, books.outcome.nowMs)) books.outcome.wrote = true;
        break;
      }
      case "released":
        if (books.holds.releaseAbove(box, session, change[1], change[2])) books.outcome.wrote = true;
        break;
    }
  }
  return settled;
}

function settleUpto(
  books: Books,
  box: MailboxRow,
  upto: number,
  except: ReadonlySet<number>,
  open: (row: DeliveryRow | undefined) => row is DeliveryRow,
): readonly EndedRow[] {
  const settled: EndedRow[] = [];
  for (const mail of books.fresh.waiting(box.id)) {
    if (mail.seq > upto) break;
    if (except.has(mail.seq)) continue;
    if (books.deliveries.hasExpired(mail)) giveRows(books, [mail]);
    else settled.push(ackFresh(books, box, mail));
  }
  if (box.count === books.fresh.shelf(box.id).count) return settled;
  const fresh = settled.length;
  for (const row of books.run.upto.all(box.id, upto))
    if (row.seq !== null && !except.has(row.seq) && open(row)) settled.push([books.deliveries.end(row, ACKED, null), row.message, ACKED]);
  return fresh === 0 || fresh === settled.length ? settled : settled.sort(([one], [other]) => one - other);
}

function ackFresh(books: Books, box: MailboxRow, mail: FreshMail): EndedRow {
  books.ledger.touchFresh(box);
  box.count -= 1;
  box.bytes -= mail.bytes;
  books.fresh.ack(mail, books.outcome.nowMs);
  books.outcome.noteDue(books.deliveries.keptUntil(ACKED));
  books.outcome.wrote = true;
  return [mail.seq, mail.message, ACKED];
}
