// Example 10: the page people see first. What a page needs of the SDK is in three places: connect, on and send; all else is the form.

const MESSAGE_TYPE = "form.data";
const FIELDS = ["Form1", "Form2", "Form3", "Form4"];
const KEPT_MESSAGES = 20;

/** What to tell a person about an error of the SDK or of the demonstration's backend. */
const explain = (error) => error.detail ?? error.message;

const element = (id) => document.getElementById(id);
const form = element("exchange");
const controls = Object.fromEntries(FIELDS.map((name) => [name, form.elements.namedItem(name)]));
const title = document.title;

// ---------------------------------------------------------------------------------------------------- who this tab is

/**
 * Asks the demonstration's backend for a session. A real backend does this after its own login.
 * @param {string | null} user  who to stay, or null for any user
 * @returns {Promise<{ user: string, token: string, expires: string, users: string[] }>}
 */
async function openSession(user) {
  const response = await fetch("/demo/session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(user === null ? {} : { user }),
  });
  const body = await response.json().catch(() => ({}));
  if (response.ok) {
    // A session is one login of a user: all tabs of this browser in which they are this user use it, and share a connection by that.
    localStorage.setItem(`session ${body.user}`, JSON.stringify(body));
    return body;
  }
  const error = new Error(body.detail ?? `The server answered with status ${response.status}.`);
  error.status = response.status;
  throw error;
}

/** The user's session as another tab has opened it, if it is still good for a while. */
function knownSession(user) {
  const session = JSON.parse(localStorage.getItem(`session ${user}`) ?? "null");
  return session !== null && Date.parse(session.expires) > Date.now() + 60_000 ? session : null;
}

/** A lock that each tab has while it is open: its name says who the tab is. */
const LOCK = "tab of ";

/** Takes this tab's lock. Where the browser has no locks, all goes on without. */
function holdLock(user) {
  navigator.locks?.request(LOCK + user, { mode: "shared" }, () => new Promise(() => {}));
}

/** A session as a user whom no other tab of this browser is. A server that was just started does not know yet who all the open tabs are. */
async function openNewSession() {
  const session = await openSession(null);
  const { held } = (await navigator.locks?.query()) ?? { held: [] };
  const isOther = (user) => held.some(({ name }) => name === LOCK + user);
  const free = isOther(session.user) ? session.users.find((user) => !isOther(user)) : undefined;
  return free === undefined ? session : openSession(free);
}

/** Opens the first session of this tab, however long the server takes to answer. */
async function startSession() {
  let pauseMs = 500;
  for (;;) {
    const user = sessionStorage.getItem("user");
    try {
      if (user === null) return await openNewSession();
      return knownSession(user) ?? (await openSession(user));
    } catch (error) {
      const isRefused = error.status >= 400 && error.status < 500;
      // The user of an earlier server, which this one does not know: become one that it does.
      if (isRefused && user !== null) sessionStorage.removeItem("user");
      else if (isRefused) throw error;
      else {
        showConnection({ state: "offline", error });
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
        pauseMs = Math.min(pauseMs * 2, 4_000);
      }
    }
  }
}

async function becomeAnother() {
  const button = element("become-another");
  button.disabled = true;
  try {
    const current = sessionStorage.getItem("user");
    let session = await openNewSession();
    if (session.user === current) {
      // All are in use: take the next one, so that the button always does what it says.
      const { users } = session;
      session = await openSession(users[(users.indexOf(current) + 1) % users.length]);
    }
    sessionStorage.setItem("user", session.user);
    location.reload();
  } catch (error) {
    button.disabled = false;
    showSent("error", `This tab is still ${sessionStorage.getItem("user")}. ${error.message}`);
  }
}

function showUsers({ user, users }) {
  sessionStorage.setItem("user", user);
  holdLock(user);
  element("user-id").value = user;
  dress(element("self-avatar"), user, users);
  document.body.dataset.user = user;
  const destination = element("destination");
  destination.replaceChildren(...users.filter((each) => each !== user).map((each) => new Option(each, each)));
  const chosen = sessionStorage.getItem("destination");
  if (chosen !== null && chosen !== user && users.includes(chosen)) destination.value = chosen;
  destination.disabled = false;
}

/** Gives a user's sign its letter and one of six colours, the same in every tab. */
function dress(sign, user, users) {
  const index = users.indexOf(user);
  sign.dataset.hue = index < 0 ? "none" : String(index % 6);
  sign.textContent = /\d+$/.exec(user)?.[0].slice(-2) ?? user.slice(0, 1).toUpperCase();
}

// ------------------------------------------------------------------------------------------------------- the connection

const TRANSPORT_WORDS = { websocket: "WebSocket", poll: "long polling", sse: "event stream" };

/** Shows how the connection is, in words. @param status  as the SDK tells it: `{ state, transport?, error? }` */
function showConnection({ state, transport, error }) {
  const connection = element("connection");
  connection.dataset.status = state;
  connection.dataset.transport = transport ?? "";
  let words = "Connecting…";
  if (state === "online") words = `Connected · ${TRANSPORT_WORDS[transport] ?? transport}`;
  else if (state === "closed") words = `Disconnected. ${explain(error)} Load the page again to go on.`;
  // The same words between the tries and during one: nothing flickers, and a screen reader says it once.
  else if (error !== undefined) words = "Offline, reconnecting…";
  if (connection.textContent !== words) connection.textContent = words;
  connection.title = state === "online" || error === undefined ? "" : explain(error);
}

// ---------------------------------------------------------------------------------------------------------- the form

/** The form's values, under x0's names: `{ Form1: boolean, Form2: string, Form3: string, Form4: string }`. */
function readForm() {
  return Object.fromEntries(FIELDS.map((name) => [name, controls[name].type === "checkbox" ? controls[name].checked : controls[name].value]));
}

/** Puts values into the form as plain values. What is missing, or not of the field's kind, leaves its field alone. */
function fillForm(data) {
  for (const name of FIELDS) {
    const control = controls[name];
    const value = data[name];
    if (control.type === "checkbox") {
      if (typeof value === "boolean") control.checked = value;
    } else if (typeof value === "string") {
      if (control.type !== "select-one" || [...control.options].some((option) => option.value === value)) control.value = value;
    }
  }
}

const isFormData = (data) => typeof data === "object" && data !== null && FIELDS.some((name) => name in data);

// Edits are counted, so that a sending knows whether the form still shows what was sent.
let edits = 0;
let hasDraft = false;
// What was typed and then replaced by received values: kept until something is sent.
let replacedDraft = null;

const isTyping = () => hasDraft && document.hasFocus() && element("data").contains(document.activeElement);

/** Shows received values in the form, and offers the way back to what was typed there. */
function applyData({ from, time, data }) {
  if (hasDraft) replacedDraft = readForm();
  fillForm(data);
  hasDraft = false;
  if (replacedDraft === null) showNote(`${from} sent this at ${clock(time)}.`);
  else showNote(`${from} sent this at ${clock(time)}; it took the place of what you had typed.`, "Bring back mine", bringBack);
}

function bringBack() {
  fillForm(replacedDraft);
  replacedDraft = null;
  hasDraft = true;
  hideNote();
}

let noteAction = null;

function showNote(text, actionText, action) {
  element("form-note-text").textContent = text;
  const button = element("form-note-action");
  button.hidden = action === undefined;
  button.textContent = actionText ?? "";
  noteAction = action ?? null;
  element("form-note").hidden = false;
}

function hideNote() {
  noteAction = null;
  element("form-note").hidden = true;
}

// ----------------------------------------------------------------------------------------------------- what is received

let unseen = 0;

function receive(received, users) {
  // A service has no user: its name, then.
  const message = { ...received, from: received.from ?? received.source.replace(/^\/services\//, "") };
  const hasForm = isFormData(message.data);
  const isKeptOut = hasForm && isTyping();
  listMessage(message, users, hasForm);
  if (isKeptOut) {
    showNote(`${message.from} sent values at ${clock(message.time)}. You are typing, so yours were left alone.`, "Show them", () =>
      applyData(message),
    );
  } else if (hasForm) {
    applyData(message);
  }
  if (document.visibilityState === "hidden") {
    unseen += 1;
    document.title = `(${unseen}) ${title}`;
  }
}

/** Puts a message on top of the list, opened; the one before it is folded. */
function listMessage(message, users, hasForm) {
  const { id, from, time, data } = message;
  const item = document.createElement("li");
  item.className = "received";
  item.dataset.id = id;
  item.dataset.from = from;

  const sign = document.createElement("span");
  sign.className = "avatar";
  sign.setAttribute("aria-hidden", "true");
  dress(sign, from, users);
  const who = document.createElement("b");
  who.textContent = from;
  const when = document.createElement("time");
  when.dateTime = time;
  when.textContent = clock(time);
  const head = document.createElement("summary");
  const words = document.createElement("span");
  words.append(who, " sent you data at ", when);
  if (hasForm && typeof data.Form2 === "string") {
    const gist = document.createElement("span");
    gist.className = "gist";
    gist.textContent = data.Form2;
    words.append(gist);
  }
  head.append(sign, words);
  const details = document.createElement("details");
  details.open = true;
  details.append(head);
  item.append(details);

  if (hasForm) {
    const again = document.createElement("button");
    again.type = "button";
    again.className = "quiet";
    again.textContent = "Show in the form";
    again.addEventListener("click", () => applyData(message));
    details.append(describe(data), again);
  } else {
    const raw = document.createElement("pre");
    raw.textContent = JSON.stringify(data, null, 2) ?? "(no data)";
    details.append(raw);
  }

  const list = element("received");
  const previous = list.querySelector("details");
  if (previous !== null) previous.open = false;
  list.prepend(item);
  while (list.childElementCount > KEPT_MESSAGES) list.lastElementChild.remove();
  element("received-none").hidden = true;
}

/** The values as a list of names and texts. */
function describe(data) {
  const values = document.createElement("dl");
  for (const name of ["Form2", "Form3", "Form1", "Form4"]) {
    if (!(name in data) || data[name] === "") continue;
    const control = controls[name];
    const key = document.createElement("dt");
    key.textContent = control.labels[0].firstChild.textContent.trim();
    const value = document.createElement("dd");
    if (typeof data[name] === "boolean") value.textContent = data[name] ? "yes" : "no";
    else if (typeof data[name] !== "string") value.textContent = JSON.stringify(data[name]);
    else value.textContent = [...(control.options ?? [])].find((option) => option.value === data[name])?.text ?? data[name];
    values.append(key, value);
  }
  return values;
}

const clock = (time) => new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

// ---------------------------------------------------------------------------------------------------------- what is sent

function showSent(state, text) {
  const sent = element("sent-state");
  sent.dataset.state = state;
  // Only a change is announced to a screen reader.
  if (sent.textContent !== text) sent.textContent = text;
}

function showSending({ state }) {
  showSent("sending", state === "online" ? "Sending…" : "The server cannot be reached. It is sent as soon as it can be: leave this tab open.");
}

let isSending = false;
let sendings = 0;

async function send(handover) {
  if (isSending) return;
  const to = element("destination").value;
  if (to === "") return;
  const sending = ++sendings;
  const editsBefore = edits;
  isSending = true;
  element("send").setAttribute("aria-disabled", "true");
  showSending(handover.status);
  try {
    const { id } = await handover.send(to, MESSAGE_TYPE, readForm());
    if (edits === editsBefore) hasDraft = false;
    replacedDraft = null;
    hideNote();
    showSent("accepted", `Accepted: on disk. Waiting for ${to}…`);
    // Not awaited: the next message may be sent while this one waits for its reader.
    void follow(handover, id, to, sending);
  } catch (error) {
    showSent("error", `Not sent. ${explain(error)}`);
  } finally {
    isSending = false;
    element("send").removeAttribute("aria-disabled");
  }
}

const ENDING_WORDS = {
  expired: (user) => `${user} did not fetch it in time: it has expired.`,
  replaced: () => "A newer message took its place.",
  evicted: () => "It was taken back before it was read.",
  dead: (user) => `${user}’s page could not process it.`,
};

/** Asks for the state of the newest message, soon and then with growing pauses, until it has ended. */
async function follow(handover, id, to, sending) {
  let pauseMs = 100;
  while (sending === sendings) {
    await pause(pauseMs);
    pauseMs = Math.min(pauseMs * 1.6, 15_000);
    let recipient;
    try {
      const { recipients } = await handover.state(id);
      recipient = recipients.find(({ user }) => user === to);
    } catch (error) {
      // Not known any more: there is nothing to wait for. Anything else may pass, and the message waits on the server's disk meanwhile.
      if (error.code === "unknown") return;
      continue;
    }
    if (sending !== sendings || recipient === undefined) return;
    if (recipient.state === "acked") {
      showSent("acked", recipient.endedAt ? `${to} had it at ${clock(recipient.endedAt)}.` : `${to} had it.`);
      return;
    }
    if (recipient.state in ENDING_WORDS) {
      showSent("ended", ENDING_WORDS[recipient.state](to));
      return;
    }
  }
}

/** Ends the running pause: something happened that makes asking worth while. */
let wake = () => {};

/** Waits, but not beyond the return of the connection or of the person; while nobody looks at the page, until somebody does. */
async function pause(ms) {
  await new Promise((resolve) => {
    wake = resolve;
    setTimeout(() => document.visibilityState === "visible" && resolve(), ms);
  });
}

// --------------------------------------------------------------------------------------------------------------- start

async function start() {
  if (globalThis.Handover === undefined) throw new Error("The file /handover.js is missing: run “npm run build” and start the server again.");
  let session = await startSession();
  const { users } = session;
  showUsers(session);

  const handover = globalThis.Handover.connect("", {
    async token() {
      // The first session is there already; later calls come when its token has expired or is refused.
      const current = session ?? (await openSession(sessionStorage.getItem("user")));
      session = null;
      return current.token;
    },
  });
  handover.onStatus((status) => {
    showConnection(status);
    if (isSending) showSending(status);
    if (status.state === "online") wake();
  });
  showConnection(handover.status);
  handover.on(MESSAGE_TYPE, async (message) => receive(message, users));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void send(handover);
  });
}

form.addEventListener("submit", (event) => event.preventDefault());
element("data").addEventListener("input", () => {
  edits += 1;
  hasDraft = true;
  // What a plain note says is no longer so; one with a button still has something to give.
  if (noteAction === null) hideNote();
});
element("form4").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
element("form-note-action").addEventListener("click", () => noteAction?.());
element("destination").addEventListener("change", (event) => sessionStorage.setItem("destination", event.target.value));
element("become-another").addEventListener("click", () => void becomeAnother());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") return;
  unseen = 0;
  document.title = title;
  wake();
});

start().catch((error) => showConnection({ state: "closed", error }));
