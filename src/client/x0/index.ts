/**
 * The script that a page of x0's adds with one line, after x0's own scripts:
 *
 * ```html
 * <script src="http://x0-msg-server.x0.localnet:8080/x0/handover.js"></script>
 * ```
 *
 * It replaces how messages come and go, not what the page does with them. The server is where the script comes from, unless `data-server` says
 * otherwise. `data-offline` and `data-ended` are what the person is told, in the page's own language.
 * @module
 */
import { Entry } from "./entry.ts";
import { Notice } from "./notice.ts";
import { Outbox } from "./outbox.ts";
import { replaceReceiving, replaceRequests } from "./page.ts";
import { Receiving } from "./receiving.ts";
import { isToMessageServer, persistentRequest } from "./request.ts";

function install({ src, dataset }: HTMLScriptElement): void {
  const base = new URL(dataset.server ?? new URL(src).origin, location.href).href.replace(/\/+$/, "");
  const texts = {
    offline: dataset.offline ?? "No connection to the message server. Messages go and arrive when it is back.",
    ended: dataset.ended ?? "No messages arrive any more. Please load this page again.",
  };
  const notice = new Notice();
  const entry = new Entry(base);
  const outbox = new Outbox(base, entry);
  const receiving = new Receiving(base, entry, notice, texts, () => outbox.nudge());
  if (!replaceReceiving((handler, original) => receiving.begin(handler, original))) {
    console.error("Handover: x0's client is not here, or this script is here twice. Add it once, after sysAsyncNotifyMsgHandler.js.");
    return;
  }
  const kind = persistentRequest(base, outbox, (isAnswered) => (isAnswered ? notice.hide() : notice.show(texts.offline)));
  replaceRequests((rpc) => (isToMessageServer(rpc.RequestType, rpc.URL) ? kind : undefined));
}

const { currentScript } = document;
if (currentScript instanceof HTMLScriptElement) install(currentScript);
else console.error("Handover: add this script with <script src=…>, not as a module.");
