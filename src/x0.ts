/**
 * x0's messages as events of our mailboxes, and back: the one place that knows it, for the server's wire (transports/x0) and for the script in x0's
 * pages (client/x0). Nothing is imported here, so that the script can have it.
 *
 * Two types, because they may do different things to the page that gets them:
 *
 * - `x0.set-data`, data `{"dst-object", "payload"}`: values for a form. Anybody may send it to whom they may send.
 * - `x0.message`, data any message of x0: some kinds run code or markup in the page (`net-phone`, unknown `txt-id`, `fire-events`,
 *   `switch-screen-id`), so only services may send it, and tokens with the scope `x0:any` (auth.ts).
 *
 * What an event becomes depends on its type alone, so it does not matter which way it came in.
 * @module
 */

/** The words that x0's wire adds (docs/x0.md): event types, and scopes. */
export const X0 = {
  /** Values for a form of a page. */
  setData: "x0.set-data",
  /** Any message of x0; some kinds run code or markup in the page that gets them, so it needs {@link X0.anyScope}. */
  message: "x0.message",
  anyScope: "x0:any",
  /** No two page loads have this token: a page's next poll is then the acknowledgement of what it was answered. */
  pageLoadScope: "x0:page-load",
} as const;

/** A message as x0's client understands it. */
export type X0Message = Readonly<Record<string, unknown>>;

/** What of an event says what it is to a page of x0's. */
export interface X0Event {
  readonly type: string;
  readonly source: string;
  readonly data?: unknown;
}

const SET_DATA_FIELDS = new Set(["msg-type", "method-id", "dst-object", "payload"]);

/** The type and data of the event that a message becomes. @param source  the sender's session value, where its id does not say it */
export function eventOf(message: X0Message, source: string | undefined): { readonly type: string; readonly data: object } {
  const said = source === undefined ? {} : { session_src: source };
  if (!isSetData(message)) return { type: X0.message, data: { ...message, ...said } };
  return { type: X0.setData, data: { "dst-object": message["dst-object"], payload: message.payload, ...said } };
}

/**
 * The message that an event is to a page, with its sender in `session_src`: a user's id, never a credential; for a service its source, which no
 * user's id can be like. Where ids are made from session values it is the value.
 * @param isValueOf  whether the session value that the event's data names is the one that this user's id was made from
 * @returns undefined, when it is none of x0's
 */
export function messageOf({ type, source, data }: X0Event, isValueOf: (value: string, user: string) => boolean): X0Message | undefined {
  if (typeof data !== "object" || data === null || Array.isArray(data)) return undefined;
  const { session_src: said, ...fields } = data as X0Message;
  const values = { "msg-type": "net-message", "method-id": "set-data", "dst-object": fields["dst-object"], payload: fields.payload };
  const message = type === X0.message ? fields : values;
  if (type !== X0.message && (type !== X0.setData || !isSetData(values))) return undefined;
  const user = /^\/users\/(.*)$/.exec(source)?.[1];
  return { ...message, session_src: user !== undefined && typeof said === "string" && isValueOf(said, user) ? said : (user ?? source) };
}

/** Values for an object of the page, and not a word more: whatever x0's client understands besides is not among it. */
function isSetData(message: X0Message): boolean {
  const { payload } = message;
  return (
    message["msg-type"] === "net-message" &&
    message["method-id"] === "set-data" &&
    typeof message["dst-object"] === "string" &&
    typeof payload === "object" &&
    payload !== null &&
    !Array.isArray(payload) &&
    Object.keys(message).every((field) => SET_DATA_FIELDS.has(field))
  );
}

/** Whether an id was made from a session value that is none itself: it is the value's hash. */
export function isHashedId(id: string): boolean {
  return /^x0:[A-Za-z0-9_-]{43}$/.test(id);
}
