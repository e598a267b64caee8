/**
 * What makes up one connection.
 * @module
 */
import type { Http } from "./http.ts";
import type { Inbox } from "./inbox.ts";
import type { Report } from "./listeners.ts";
import type { Unsent } from "./message.ts";
import type { Mute } from "./mute.ts";
import type { Outbox } from "./outbox.ts";
import type { Token } from "./token.ts";
import type { Status, Timing, Transport } from "./wire.ts";

/** What concerns browser pages. */
export interface PageOptions {
  /** Most messages in hand at once, 1–1,000. 32 unless said. */
  readonly window?: number;
  /**
   * Whether the tabs of one login (server, user and session) in one browser share a connection: one tab has it, the handlers of every tab run, and
   * a message is acknowledged when those of all tabs are done. True unless said. Without Web Locks (on plain http) each tab has a connection.
   */
  readonly share?: boolean;
  /** Told of messages that an earlier page, or a tab that has gone, was to send, and that cannot be sent any more. */
  readonly onUnsent?: (unsent: Unsent) => void;
}

export interface Parts {
  readonly base: string;
  readonly token: Token;
  readonly http: Http;
  readonly inbox: Inbox;
  readonly outbox: Outbox;
  readonly transports: readonly Transport[];
  readonly timing: Timing;
  readonly report: Report;
  readonly warn: (text: string) => void;
  readonly options: PageOptions;
}

/** What a connection is told by the page where it is. */
export interface Line {
  readonly mute: Mute;
  /** How the connection is that another tab has. */
  become(status: Status): void;
  /** Another tab has the connection from now on, or this page is left. */
  over(): void;
  /** Something suggests that the network, or the page, is back. */
  nudge(): void;
}
