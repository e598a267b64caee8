/**
 * A page that behaves on the wire as x0's own client does, written from the facts in X0.md (sections 2 to 4) and from nothing else. It runs in the
 * browser: {@link x0Client} is put into the page as text, so it uses nothing outside of itself.
 * @module
 */

export interface ClientOptions {
  /** The message server's address, in full. */
  readonly server: string;
  /** What `user_session` is. */
  readonly session: string;
  /** How long the page works on each message, ms. */
  readonly busyMs: number;
}

/** What the page shows of itself to a test. */
export interface ClientState {
  /** Messages whose processing ended, in order. */
  readonly shown: readonly { readonly payload: Readonly<Record<string, unknown>>; readonly session_src: string }[];
  /** What became of its sends: `sending` for ever, when the answer was none that it knows. */
  readonly sent: readonly ("sending" | "successful" | "unsuccessful")[];
  polls: number;
  /** It has stopped polling for good. */
  isDeaf: boolean;
}

/** The script of the page. */
export function x0Client({ server, session, busyMs }: ClientOptions): void {
  const shown: { payload: Record<string, unknown>; session_src: string }[] = [];
  const sent: ("sending" | "successful" | "unsuccessful")[] = [];
  const state: ClientState = { shown, sent, polls: 0, isDeaf: false };
  Object.assign(globalThis, { x0: state });
  const load = Math.random();

  const element = (id: string) => document.getElementById(id) as HTMLInputElement;

  /** Ten pseudo-digits, each 0 to 10. */
  const newName = () => Array.from({ length: 10 }, () => Math.round(Math.random() * 10)).join("");

  function post(body: unknown, done: (status: number, text: string) => void): void {
    const request = new XMLHttpRequest();
    request.open("POST", `${server}?a__=${newName()}`, true);
    request.setRequestHeader("Cache-Control", "max-age=0");
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Upgrade-Insecure-Requests", "1");
    request.setRequestHeader("Content-Type", "application/json; charset=UTF-8");
    request.onload = () => done(request.status, request.responseText);
    request.onerror = () => done(0, "");
    request.send(JSON.stringify(body));
  }

  /** Nothing else that it could be is taken; and it is never asked for again. */
  function poll(): void {
    state.polls += 1;
    post({ session_src: session, type: "GET", SessionData: { ID: "SYS_SESSION", Value: session } }, (status, text) => {
      let answer: { messages?: unknown } | null = null;
      try {
        if (status !== 200) throw new Error(String(status));
        if (text !== "") answer = JSON.parse(text);
      } catch {
        state.isDeaf = true;
        return;
      }
      try {
        for (const message of (answer?.messages ?? []) as Record<string, unknown>[]) show(message);
      } catch (thrown) {
        // One message that it cannot handle aborts the rest of the batch.
        console.debug(thrown);
      }
      poll();
    });
  }

  function show(message: Record<string, unknown>): void {
    const until = performance.now() + busyMs;
    while (performance.now() < until);
    if (message["msg-type"] === "net-phone") element("notices").innerHTML += String(message["phonenr-src"]);
    if (message["msg-type"] !== "net-message") return;
    if (message["txt-id"] !== undefined) element("notices").innerHTML += String(message["txt-id"]);
    if (message["method-id"] !== "set-data") return;
    if (message["dst-object"] !== "FormlistExchangeData") throw new Error(`no object ${message["dst-object"]}`);
    const payload = message.payload as Record<string, unknown>;
    element("Form1").checked = Boolean(payload.Form1);
    for (const id of ["Form2", "Form3", "Form4"]) element(id).value = payload[id] === null ? "" : String(payload[id]);
    shown.push(message as (typeof shown)[number]);
    // For the test, on a connection of its own: it is sent even when the page is left in this moment.
    navigator.sendBeacon("/shown", JSON.stringify({ session, load, payload, from: message.session_src }));
  }

  // Any mouse button, on the way down.
  element("send").addEventListener("mousedown", () => {
    const index = sent.push("sending") - 1;
    const [Form2, Form3, Form4] = ["Form2", "Form3", "Form4"].map((id) => element(id).value);
    const body = {
      RequestData: {
        FormlistSelectDstUser: { UserID: "user1", DstUserSession: element("to").value },
        FormlistExchangeData: { Form1: element("Form1").checked, Form2, Form3, Form4 },
      },
      ServiceData: {},
      SessionData: { ID: "SYS_SESSION", Value: session },
    };
    post(body, (status, text) => {
      if (status !== 200) return;
      const answer = (text === "" ? {} : JSON.parse(text)) as Record<string, unknown>;
      sent[index] = "error" in answer || "ErrorCode" in answer ? "unsuccessful" : "successful";
    });
  });

  /** Texts, menu, object and skeleton, one after the other; then the screen is there, and the first poll is sent. */
  function loadNext(rest: readonly string[]): void {
    const [name, ...others] = rest;
    if (name === undefined) {
      poll();
      return;
    }
    const request = new XMLHttpRequest();
    request.open("GET", `/part/${name}?a__=${newName()}`, true);
    request.onload = () => loadNext(others);
    request.send();
  }
  loadNext(["texts", "menu", "object", "skeleton"]);
}
