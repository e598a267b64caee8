/**
 * A page that behaves on the wire as x0's own client does, written from the facts in X0.md (sections 2 to 4) and from nothing else, with the names
 * that x0's objects have for those who extend its pages. It runs in the browser: {@link x0Client} is put into the page as text, so it uses nothing
 * outside of itself.
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
  /** Every message that the page was given, whole, whatever became of it. */
  readonly given: readonly Readonly<Record<string, unknown>>[];
  /** What became of its sends: `sending` for ever, when the answer was none that it knows. */
  readonly sent: readonly ("sending" | "successful" | "unsuccessful")[];
  /** Polls of x0's own. */
  polls: number;
  /** It has stopped polling for good. */
  isDeaf: boolean;
  /** Its work on each message. */
  work: () => void;
}

/** The scripts of the page: afterwards there are x0's names, and `x0Start`, which `Init` calls when everything is loaded. */
export function x0Client({ server, session, busyMs }: ClientOptions): void {
  interface Rpc {
    URL: string;
    RequestType: string;
    PostData: Record<string, unknown>;
    Request(sender: Sender): void;
  }
  interface Sender {
    PostRequestData?: Record<string, unknown>;
    XMLRPCResultData?: unknown;
    callbackXMLRPCAsync(): void;
  }
  interface Item {
    status: number;
    text: string;
    readonly box: HTMLElement;
    setProcessStatus(status: number): void;
    setDisplayText(text: string): void;
    updateDisplay(): void;
  }
  interface Handler extends Sender {
    RPC: Rpc;
    getMsg(): void;
    processMsg(message: Record<string, unknown>): void;
  }
  interface Factory {
    SysSessionID: string;
    SysSessionValue: string | null;
    MsgServerGetURL: string;
    GlobalAsyncNotifyIndicator: { addMsgItem(config: { ID: string; DisplayHeader: string }): void; getMsgItemByName(id: string): Item | undefined };
    sysGlobalAsyncNotifyHandler: Handler;
    getText(id: string): string;
    getObjectByID(id: unknown): { RuntimeSetDataFunc(payload: unknown): void };
  }

  function busy(): void {
    const until = performance.now() + busyMs;
    while (performance.now() < until);
  }

  const shown: { payload: Record<string, unknown>; session_src: string }[] = [];
  const given: Record<string, unknown>[] = [];
  const sent: ("sending" | "successful" | "unsuccessful")[] = [];
  const state: ClientState = { shown, given, sent, polls: 0, isDeaf: false, work: busy };
  const load = Math.random();
  const page = globalThis as unknown as { sysFactory: Factory };

  const element = (id: string) => document.getElementById(id) as HTMLInputElement;
  /** Ten pseudo-digits, each 0 to 10. */
  const newName = () => Array.from({ length: 10 }, () => Math.round(Math.random() * 10)).join("");
  /** For the test, on a connection of its own: it is sent even when the page is left in this moment, or works and does nothing else. */
  let told = 0;
  const tell = (path: string, what: object) => {
    told += 1;
    // At most 64 KiB are sent like that; and they may arrive in another order.
    const text = JSON.stringify({ session, load, at: [performance.timeOrigin, told], ...what }, (_key, value) =>
      typeof value === "string" ? value.slice(0, 4_000) : value,
    );
    navigator.sendBeacon(path, text);
  };

  function sysCallXMLRPC(this: Rpc, url: string): void {
    this.URL = url;
    this.RequestType = "POST";
    this.PostData = {};
  }
  /** Nothing but 200 and JSON is an answer, and there is no second try. */
  sysCallXMLRPC.prototype.Request = function (this: Rpc, sender: Sender): void {
    if (sender.PostRequestData !== undefined) this.PostData = sender.PostRequestData;
    const { SysSessionID: id, SysSessionValue: value } = page.sysFactory;
    if (value !== null) this.PostData.SessionData = { ID: id, Value: value };
    const request = new XMLHttpRequest();
    request.onreadystatechange = () => {
      if (request.readyState !== 4) return;
      const isPoll = sender === page.sysFactory.sysGlobalAsyncNotifyHandler;
      try {
        if (request.status !== 200) throw new Error(String(request.status));
        sender.XMLRPCResultData = request.responseText === "" ? "" : JSON.parse(request.responseText);
      } catch {
        if (isPoll) state.isDeaf = true;
        return;
      }
      sender.callbackXMLRPCAsync();
    };
    request.open(this.RequestType, `${this.URL}?a__=${newName()}`, true);
    request.setRequestHeader("Cache-Control", "max-age=0");
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Upgrade-Insecure-Requests", "1");
    request.setRequestHeader("Content-Type", "application/json; charset=UTF-8");
    request.send(JSON.stringify(this.PostData));
  };

  const newRpc = (url: string) => new (sysCallXMLRPC as unknown as new (url: string) => Rpc)(url);

  function sysAsyncNotifyMsgHandler(this: Handler): void {
    this.RPC = newRpc(page.sysFactory.MsgServerGetURL);
  }
  sysAsyncNotifyMsgHandler.prototype.getMsg = function (this: Handler): void {
    const { SysSessionID: id, SysSessionValue: value } = page.sysFactory;
    if (id === undefined || id === null) return;
    state.polls += 1;
    this.PostRequestData = { session_src: value, type: "GET" };
    this.RPC.Request(this);
  };
  sysAsyncNotifyMsgHandler.prototype.callbackXMLRPCAsync = function (this: Handler): void {
    try {
      for (const message of (this.XMLRPCResultData as { messages?: Record<string, unknown>[] }).messages ?? []) this.processMsg(message);
    } catch (thrown) {
      // One message that it cannot handle aborts the rest of the batch.
      console.debug(thrown);
    }
    this.getMsg();
  };
  sysAsyncNotifyMsgHandler.prototype.processMsg = function (this: Handler, message: Record<string, unknown>): void {
    given.push(message);
    tell("/given", { message });
    state.work();
    const indicator = page.sysFactory.GlobalAsyncNotifyIndicator;
    const config = { ID: "SYS__GLOBAL_MSG", DisplayHeader: page.sysFactory.getText("TXT.SYS.INDICATOR.NETEVENT") };
    if (message["msg-type"] === "net-phone") element("notices").innerHTML += String(message["phonenr-src"]);
    if (message["msg-type"] !== "net-message") return;
    if (message["txt-id"] !== undefined) {
      element("notices").innerHTML += String(message["txt-id"]);
      indicator.addMsgItem(config);
      const item = indicator.getMsgItemByName(config.ID);
      item?.setProcessStatus(1);
      item?.setDisplayText(page.sysFactory.getText(String(message["txt-id"])));
      item?.updateDisplay();
    }
    if (message["method-id"] === undefined) return;
    if (message["method-id"] === "set-data") {
      page.sysFactory.getObjectByID(message["dst-object"]).RuntimeSetDataFunc(message.payload);
      shown.push(message as (typeof shown)[number]);
      tell("/shown", { payload: message.payload, from: message.session_src });
    }
    indicator.addMsgItem(config);
    // And it is left turning.
    indicator.getMsgItemByName(config.ID)?.setProcessStatus(1);
  };

  const form = {
    RuntimeSetDataFunc(payload: Record<string, unknown>): void {
      element("Form1").checked = Boolean(payload.Form1);
      for (const id of ["Form2", "Form3", "Form4"]) element(id).value = payload[id] === null ? "" : String(payload[id]);
    },
  };

  const items: Record<string, Item> = {};
  function newItem(header: string): Item {
    const box = document.createElement("div");
    box.className = "sysIndicatorItem IndicatorLoading";
    box.innerHTML = '<b></b><span class="text">The data is currently sent to the server.</span>';
    (box.firstElementChild as HTMLElement).textContent = header;
    element("indicators").append(box);
    return {
      status: -1,
      text: "",
      box,
      setProcessStatus(status) {
        this.status = status;
      },
      setDisplayText(text) {
        this.text = text;
      },
      updateDisplay() {
        box.className = `sysIndicatorItem ${this.status === 0 ? "IndicatorSuccess" : "IndicatorError"}`;
        (box.lastElementChild as HTMLElement).textContent = this.text;
      },
    };
  }

  /** What Init makes of the name that was a function until then. */
  function sysFactory(this: Factory): void {
    this.SysSessionID = "SYS_SESSION";
    this.SysSessionValue = session;
    this.MsgServerGetURL = server;
    this.getText = (id) => (id === "TXT.SYS.INDICATOR.NETEVENT" ? "Network event received." : id);
    this.getObjectByID = (id) => {
      const object = (page as unknown as { objects: Record<string, typeof form> }).objects[String(id)];
      if (!object) throw new TypeError(`no object ${String(id)}`);
      return object;
    };
    this.GlobalAsyncNotifyIndicator = {
      addMsgItem({ ID, DisplayHeader }) {
        items[ID] = newItem(DisplayHeader);
      },
      getMsgItemByName: (id) => items[id],
    };
  }

  /** Any mouse button, on the way down. */
  function press(): void {
    const index = sent.push("sending") - 1;
    const [Form2, Form3, Form4] = ["Form2", "Form3", "Form4"].map((id) => element(id).value);
    const button: Sender = {
      PostRequestData: {
        RequestData: {
          FormlistSelectDstUser: { UserID: "user1", DstUserSession: element("to").value },
          FormlistExchangeData: { Form1: element("Form1").checked, Form2, Form3, Form4 },
        },
        ServiceData: {},
      },
      callbackXMLRPCAsync() {
        const answer = (this.XMLRPCResultData === "" ? {} : this.XMLRPCResultData) as Record<string, unknown>;
        sent[index] = "error" in answer || "ErrorCode" in answer ? "unsuccessful" : "successful";
      },
    };
    newRpc(server).Request(button);
  }

  /** Texts, menu, object and skeleton, one after the other; then the screen is there, and messages are asked for. */
  function loadNext(rest: readonly string[], then: () => void): void {
    const [name, ...others] = rest;
    if (name === undefined) {
      then();
      return;
    }
    const request = new XMLHttpRequest();
    request.open("GET", `/part/${name}?a__=${newName()}`, true);
    request.onload = () => loadNext(others, then);
    request.send();
  }

  function x0Start(): void {
    page.sysFactory = new (sysFactory as unknown as new () => Factory)();
    page.sysFactory.sysGlobalAsyncNotifyHandler = new (sysAsyncNotifyMsgHandler as unknown as new () => Handler)();
    element("send").addEventListener("mousedown", press);
    loadNext(["texts", "menu", "object", "skeleton"], () => page.sysFactory.sysGlobalAsyncNotifyHandler.getMsg());
  }
  Object.assign(globalThis, { x0: state, objects: { FormlistExchangeData: form }, sysCallXMLRPC, sysAsyncNotifyMsgHandler, sysFactory, x0Start });
}
