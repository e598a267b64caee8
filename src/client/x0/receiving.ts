/**
 * Receives x0's messages by the SDK, and leaves it to x0's own polling where that cannot be.
 * @module
 */
import { isHashedId, messageOf, X0 } from "../../x0.ts";
import { type ClientErrorCode, connect, type Handover, type Message, type Status } from "../index.ts";
import type { Entry } from "./entry.ts";
import type { Notice } from "./notice.ts";
import { finishIndicator, type MsgHandler, sessionValue } from "./page.ts";

/** A server that answers on x0's address and never on `/v1`, so often: something between lets only the one through. */
const MAX_DOUBTS = 3;

export interface Texts {
  readonly offline: string;
  /** Nothing will arrive until the page is loaded again. */
  readonly ended: string;
}

export class Receiving {
  readonly #base: string;
  readonly #entry: Entry;
  readonly #notice: Notice;
  readonly #texts: Texts;
  readonly #onThere: () => void;
  /** Whose polling is in use; undefined: x0's client has not asked yet, or has no session. */
  #use: "ours" | "original" | undefined;
  #handover: Handover | undefined;
  #poll: () => void = () => {};
  #hasBeenOnline = false;
  #doubts = 0;

  /** @param onThere  told that the page has its session, and that the server is there again */
  constructor(base: string, entry: Entry, notice: Notice, texts: Texts, onThere: () => void) {
    this.#base = base;
    this.#entry = entry;
    this.#notice = notice;
    this.#texts = texts;
    this.#onThere = onThere;
  }

  /**
   * x0's client asks for messages: at the start of the page, and after each of its own polls.
   * @param poll  x0's own polling
   */
  begin(handler: MsgHandler, poll: () => void): void {
    if (this.#use === "ours") return;
    if (this.#use === undefined) this.#onThere();
    if (this.#use === "original" || sessionValue() === undefined) {
      poll();
      return;
    }
    this.#use = "ours";
    this.#poll = poll;
    const handover = connect(this.#base, {
      token: () => this.#entry.token(),
      onError: (error, message) =>
        console.error("Handover:", error, ...(message ? ["\nx0's client could not process this message, which is given again:", message] : [])),
    });
    for (const type of [X0.setData, X0.message]) handover.on(type, (message) => this.#process(handler, message));
    handover.onStatus((status) => this.#became(status));
    this.#handover = handover;
  }

  /** Acknowledged when this resolves; given again when it rejects. */
  async #process(handler: MsgHandler, message: Message): Promise<void> {
    const { isDemo } = this.#entry;
    // The value cannot be held against its hash here; where there are such ids, anybody may come with any value.
    const x0Message = messageOf(message, (_value, id) => isDemo && isHashedId(id));
    if (!x0Message) throw new TypeError("This is not what x0's messages are.");
    const processing = handler.processMsg(x0Message);
    // At once: the next message of the same turn has an indicator of its own.
    finishIndicator(x0Message);
    await processing;
  }

  #became({ state, error }: Status): void {
    if (this.#use !== "ours") return;
    if (state === "online") {
      this.#hasBeenOnline = true;
      this.#notice.hide();
      this.#onThere();
    } else if (state !== "closed") {
      this.#notice.show(this.#texts.offline);
      if (state === "offline" && !this.#hasBeenOnline) void this.#doubt(error?.code);
    } else if (this.#hasBeenOnline) {
      console.error("Handover: no messages are received any more:", error);
      this.#notice.show(this.#texts.ended);
    } else this.#giveUp(String(error?.detail));
  }

  /** The first connection does not come about. Where the server is not there either, it is waited for. */
  async #doubt(code: ClientErrorCode | undefined): Promise<void> {
    if (this.#entry.refusal) {
      this.#giveUp(this.#entry.refusal.detail);
      return;
    }
    const isUnanswered = code === "connection-lost" || code === "token-failed";
    this.#doubts = isUnanswered && (await this.#entry.isServerThere()) ? this.#doubts + 1 : 0;
    if (this.#doubts < MAX_DOUBTS || this.#hasBeenOnline) return;
    this.#giveUp("The server answers x0's polls, but nothing at /v1. What is in front of it must pass on /v1/ and /x0/ too.");
  }

  #giveUp(why: string): void {
    if (this.#use !== "ours") return;
    this.#use = "original";
    console.error(`Handover: this page cannot use ${this.#base}/v1. ${why} x0's own polling goes on.`);
    this.#notice.hide();
    void this.#handover?.close();
    this.#poll();
  }
}
