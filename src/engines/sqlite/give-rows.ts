import type { Books } from "./books.ts";
import { ACKED } from "./call.ts";
import { checksumOfDelivery } from "./checksum.ts";
import { keyOf } from "./key.ts";
import { ACCEPTED, FIRST_ENDING, UNSETTLED } from "./ledger.ts";
import type { FreshMail } from "./shelf.ts";

/** Fewer keys of mail that waits have rows of their own. */
const MIN_FOLDED = 8;

/** Gives fresh mail the rows that it would have if it had never been fresh, except that folds keep what is known of it for 24 hours. */
export function giveRows(books: Books, mails: readonly FreshMail[]): void {
  const folded: FreshMail[] = [];
  for (const mail of mails) {
    const { message, mailbox, seq, source, bytes, expires_ms, ended_ms, text, event_checksum } = mail;
    const { user } = books.ledger.touch(books.ledger.mailbox(mailbox));
    if (ended_ms === null) {
      const event = Number(books.run.addEvent.run(1, 1, event_checksum, text).lastInsertRowid);
      const checksum = checksumOfDelivery({ ...mail, event }, user, event_checksum);
      books.run.addDelivery.run(message, mailbox, seq, event, source, null, null, bytes, expires_ms, expires_ms, null, null, checksum);
    }
    const key = ended_ms === null ? keyOf(mail, user) : undefined;
    // A fold for few would cost more, now and when it goes.
    if (key && mails.length < MIN_FOLDED) books.run.addKey.run(...key, null);
    else if (key || ended_ms !== null) folded.push(mail);
    books.ledger.count(ACCEPTED, 1);
    books.ledger.count(ended_ms === null ? UNSETTLED : FIRST_ENDING + ACKED, 1);
    books.fresh.leave(mail);
  }
  if (folded.length > 0) books.outcome.noteDue(books.folds.add(folded, (mailbox) => books.ledger.mailbox(mailbox).user));
  books.outcome.wrote = true;
}
