/**
 * x0's own client in the page, as far as this script knows it: what it uses, and what it replaces. Whatever is not as expected is left alone.
 * @module
 */
import type { X0Message } from "../../x0.ts";

/** x0's message handler; there is one in a page. */
export interface MsgHandler {
  /** Shows a message. Throws when it cannot. */
  processMsg(message: X0Message): unknown;
}

/** One of x0's requests to a server. */
export interface Rpc {
  readonly URL?: unknown;
  readonly RequestType?: unknown;
}

interface IndicatorItem {
  setProcessStatus?(status: number): void;
  setDisplayText?(text: string): void;
  updateDisplay?(): void;
}

interface Factory {
  readonly SysSessionID?: unknown;
  readonly SysSessionValue?: unknown;
  readonly GlobalAsyncNotifyIndicator?: { getMsgItemByName?(id: string): IndicatorItem | undefined };
  getText?(id: string): string;
}

// Declared by x0's classic scripts; the second is the function that makes it before it is the object itself.
declare const sysAsyncNotifyMsgHandler: { prototype: MsgHandler & { getMsg(): void } } | undefined;
declare const sysFactory: Factory | undefined;
declare const sysCallXMLRPC: { prototype: Rpc & { Request(sender: unknown): void } } | undefined;

/** Has x0's client ask `receive` for messages. @returns whether it is there, and not replaced already */
export function replaceReceiving(receive: (handler: MsgHandler, original: () => void) => void): boolean {
  if (typeof sysAsyncNotifyMsgHandler === "undefined") return false;
  const { prototype } = sysAsyncNotifyMsgHandler;
  const original = prototype.getMsg;
  if (replaced.has(original)) return false;
  prototype.getMsg = function () {
    receive(this, () => original.call(this));
  };
  replaced.add(prototype.getMsg);
  return true;
}

/**
 * Has x0's client make certain requests of its with another kind of XMLHttpRequest.
 * @param kindOf  the kind for a request; undefined: the browser's own
 */
export function replaceRequests(kindOf: (rpc: Rpc) => typeof XMLHttpRequest | undefined): void {
  if (typeof sysCallXMLRPC === "undefined") return;
  const { prototype } = sysCallXMLRPC;
  const original = prototype.Request;
  prototype.Request = function (sender) {
    const kind = kindOf(this);
    if (!kind) return original.call(this, sender);
    const own = globalThis.XMLHttpRequest;
    // x0 makes its request before this call returns; nobody else sees the other kind.
    globalThis.XMLHttpRequest = kind;
    try {
      original.call(this, sender);
    } finally {
      globalThis.XMLHttpRequest = own;
    }
  };
}

/** The page's session value now; undefined: it has none. */
export function sessionValue(): string | undefined {
  if (typeof sysFactory === "undefined") return undefined;
  const { SysSessionID: id, SysSessionValue: value } = sysFactory;
  return id !== undefined && id !== null && typeof value === "string" && value !== "" ? value : undefined;
}

/** x0's client leaves the indicator of what arrived turning for ever (X0.md, bug 4): says that it is there, as x0's own texts have it. */
export function finishIndicator(message: X0Message): void {
  // Of the other kinds the client does it itself.
  if (message["msg-type"] !== "net-message" || message["method-id"] === undefined) return;
  try {
    const factory = typeof sysFactory === "undefined" ? undefined : sysFactory;
    const item = factory?.GlobalAsyncNotifyIndicator?.getMsgItemByName?.("SYS__GLOBAL_MSG");
    if (!item?.setProcessStatus || !item.setDisplayText || !item.updateDisplay) return;
    item.setProcessStatus(0);
    item.setDisplayText(factory?.getText?.("TXT.SYS.INDICATOR.NETEVENT") ?? "");
    item.updateDisplay();
  } catch (error) {
    // The message itself was shown.
    console.warn("Handover: x0's indicator could not be updated:", error);
  }
}

/** What this script has put in place. */
const replaced = new WeakSet<() => void>();
