/**
 * x0's wire as JSON: what its pages send to `POST /python/MsgHandler.py`, and what they are answered (X0.md, section 2).
 * @module
 */
import Type from "typebox";
import { HandoverError } from "../../errors.ts";
import { parse } from "../../protocol.ts";
import type { X0Message } from "../../x0.ts";

/** A request, whichever of the shapes it had. `session` is the value that identifies the page, as it came. */
export type X0Request =
  | { readonly kind: "poll" | "delete"; readonly session: string }
  | { readonly kind: "send"; readonly session: string; readonly to: string; readonly message: X0Message };

// Other fields may be there: x0's client sends some that mean nothing here.
const value = Type.String({ minLength: 1, maxLength: 8_192, description: "session" });
const fields = Type.Record(Type.String(), Type.Unknown());

const SCHEMAS = {
  named: Type.Object({ session_src: value }),
  form: Type.Object({
    SessionData: Type.Object({ Value: value }),
    RequestData: Type.Object({
      FormlistSelectDstUser: Type.Object({ DstUserSession: value }),
      FormlistExchangeData: fields,
    }),
  }),
  direct: Type.Object({ session_src: value, session_dst: value, payload: fields }),
} as const;

/** The object of the page that a form's values go to. It is fixed in x0's server too. */
const FORM_OBJECT = "FormlistExchangeData";

/**
 * Reads the body of a POST.
 * @throws HandoverError bad-request, when it is none of the shapes · forbidden, when it names two different sessions
 */
export function readRequest(body: unknown): X0Request {
  if (isForm(body)) {
    const { SessionData, RequestData } = parse(SCHEMAS.form, body, "The form");
    requireOneSession(body);
    const message = {
      "msg-type": "net-message",
      "method-id": "set-data",
      "dst-object": FORM_OBJECT,
      payload: RequestData.FormlistExchangeData,
    };
    return { kind: "send", session: SessionData.Value, to: RequestData.FormlistSelectDstUser.DstUserSession, message };
  }
  const kind = kindOf(body);
  if (kind === undefined) {
    throw new HandoverError(
      "bad-request",
      "The request is neither a poll (type GET), nor SET or DEL, nor a form with SessionData.Value, RequestData.FormlistSelectDstUser.DstUserSession and RequestData.FormlistExchangeData.",
    );
  }
  if (kind === "send") {
    const { session_src: session, session_dst: to, payload } = parse(SCHEMAS.direct, body, "The SET");
    requireOneSession(body);
    // Whoever it says it is from, the server says who it is.
    const { session_src: _claimed, ...message } = payload;
    return { kind: "send", session, to, message };
  }
  const { session_src: session } = parse(SCHEMAS.named, body, kind === "poll" ? "The poll" : "The DEL");
  requireOneSession(body);
  return { kind, session };
}

const KINDS: ReadonlyMap<unknown, X0Request["kind"]> = new Map([
  ["GET", "poll"],
  ["SET", "send"],
  ["DEL", "delete"],
] as const);

/** What a body means to be, even if it is not right. */
export function kindOf(body: unknown): X0Request["kind"] | undefined {
  return isForm(body) ? "send" : KINDS.get(at(body, "type"));
}

/** As x0's server does it: a form is what has these three, whatever its `type` says. */
function isForm(body: unknown): boolean {
  const data = at(body, "RequestData");
  return (
    at(at(body, "SessionData"), "Value") !== undefined &&
    at(at(data, "FormlistSelectDstUser"), "DstUserSession") !== undefined &&
    at(data, "FormlistExchangeData") !== undefined
  );
}

function requireOneSession(body: unknown): void {
  const [source, data] = [at(body, "session_src"), at(at(body, "SessionData"), "Value")];
  if (source !== undefined && data !== undefined && source !== data) {
    throw new HandoverError("forbidden", "session_src and SessionData.Value name two different sessions; a page has one.");
  }
}

function at(value: unknown, field: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, field) ? (value as Record<string, unknown>)[field] : undefined;
}

/** The answers. Any key `error` or `ErrorCode`, whatever its value, means to x0's client that its SET was unsuccessful. */
export const NOTHING = '{"messages":null}';
export const SENT = '{"messages":null,"status":"ok"}';

/** @param message  as JSON text */
export function writeMessage(message: string): string {
  return `{"messages":[${message}]}`;
}

export function writeError(error: HandoverError): string {
  return JSON.stringify({ messages: null, error: true, exception_id: error.code, exception: error.message });
}
