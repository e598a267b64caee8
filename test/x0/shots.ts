/**
 * Requests at x0's address as nobody in their senses sends them: right ones with something changed (fields, values, text, bytes, headers, the way
 * they are sent), and noise.
 * @module
 */
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { directOf, formOf, pollOf, setDataOf } from "./tab.ts";

/** One request, as it goes over the wire. */
export interface Shot {
  readonly method: string;
  /** `a__`; undefined: without. */
  readonly name: string | undefined;
  /** With its preflight before it, on the same connection. */
  readonly hasPreflight: boolean;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Uint8Array;
  /**
   * `whole` and `split` (two writes) and `chunked` are HTTP, and must be answered. Not `cut` (the connection ends in its middle), `short` and `long`
   * (Content-Length is not the body's), `hostile` (headers that no server takes).
   */
  readonly sent: "whole" | "split" | "chunked" | "cut" | "short" | "long" | "hostile";
  /** Where it is split, cut or chunked. */
  readonly at: number;
}

/** In the values of a message: whom it is for. */
export const MARK = "mark";

type Fields = Record<string, unknown>;

const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);

const ANYTHING = fc.anything({ maxDepth: 3, withBigInt: false, withMap: false, withSet: false, withDate: false, withTypedArray: false });
/** What x0's client understands, and what JavaScript does. */
const FIELD = fc.constantFrom(
  ..."msg-type method-id dst-object payload session_src txt-id phonenr-src fire-events switch-screen-id notify-id notify-status __proto__ constructor toString n".split(
    " ",
  ),
);
const SCRIPT = fc.constantFrom(
  "<img src=x onerror=alert(1)>",
  "</script><script>alert(1)</script>",
  "net-phone",
  "set-data",
  "net-message",
  "Event1",
);

/** Values for a form: any, and those that a page could take for more than values. */
const VALUES = fc.oneof(
  fc.dictionary(fc.string({ maxLength: 8 }), fc.oneof(fc.string({ unit: "binary" }), fc.boolean(), fc.double(), ANYTHING), { maxKeys: 4 }),
  fc.dictionary(FIELD, fc.oneof(SCRIPT, ANYTHING), { maxKeys: 6 }),
);

function rightBodies(session: fc.Arbitrary<string>, to: fc.Arbitrary<string>): fc.Arbitrary<Fields> {
  const sending = (write: (from: string, to: string, values: Fields) => object) =>
    fc.tuple(session, to, VALUES).map(([from, destination, values]) => write(from, destination, values) as Fields);
  const each = (weight: number, arbitrary: fc.Arbitrary<Fields>) => ({ weight, arbitrary });
  return fc.oneof(
    each(
      8,
      session.map((value) => pollOf(value) as Fields),
    ),
    each(
      1,
      session.map((value) => ({ type: "DEL", session_src: value })),
    ),
    each(5, sending(formOf)),
    each(
      3,
      sending((from, destination, values) => directOf(from, destination, setDataOf(values))),
    ),
    each(
      1,
      sending((from, destination, values) => directOf(from, destination, { ...setDataOf({ n: 1 }), ...values })),
    ),
    each(1, sending(directOf)),
    // Of two shapes at once.
    each(
      1,
      sending((from, destination, values) => ({ ...formOf(from, destination, values), ...directOf(from, destination, setDataOf(values)) })),
    ),
    each(
      1,
      sending((from, destination, values) => ({ ...formOf(from, destination, values), ...pollOf(from) })),
    ),
  );
}

/** Some field, at some depth, left out, of another value, or under another name. */
function changed(bodies: fc.Arbitrary<Fields>): fc.Arbitrary<Fields> {
  return fc.tuple(bodies, fc.array(fc.tuple(fc.nat(3), fc.nat(30), ANYTHING, FIELD), { minLength: 1, maxLength: 2 })).map(([body, changes]) => {
    const copy = structuredClone(body);
    for (const [depth, index, value, other] of changes) {
      let place = copy;
      for (let level = 0; level < depth; level++) {
        const inner = Object.values(place).filter(isFields);
        place = inner[index % Math.max(1, inner.length)] ?? place;
      }
      const names = Object.keys(place);
      const name = names[index % Math.max(1, names.length)];
      if (name === undefined) continue;
      if (index % 5 === 0) delete place[name];
      else if (index % 5 === 1) Object.defineProperty(place, other, { value: place[name], enumerable: true, configurable: true, writable: true });
      else place[name] = value;
    }
    return copy;
  });
}

/** Writes into what is sent whom it is for, so that one who is given it can be asked whether it was theirs. */
function marked(body: Fields): Fields {
  const { RequestData: data, type, session_dst: to, payload } = body;
  const select = isFields(data) ? data.FormlistSelectDstUser : undefined;
  const values = isFields(data) ? data.FormlistExchangeData : undefined;
  if (isFields(select) && isFields(values) && typeof select.DstUserSession === "string") values[MARK] = select.DstUserSession;
  else if (type === "SET" && typeof to === "string" && isFields(payload) && isFields(payload.payload)) payload.payload[MARK] = to;
  return body;
}

/** What JSON allows and few think of. None of it changes whom a message is for. */
const TEXTUAL: readonly ((text: string, more: number) => string)[] = [
  // The same key twice: the last one counts.
  (text, more) => text.replace("{", `{"type":"${["GET", "SET", "DEL", "get"][more % 4]}",`),
  (text, more) => text.replace(/\}$/, `,"type":"${["GET", "SET", "DEL", "PUT"][more % 4]}"}`),
  (text, more) => text.replace(/\}$/, `,"session_src":${["null", '"a"', "1", '{"a":"b"}'][more % 4]}}`),
  (text, more) => text.replace("{", `{"${["__proto__", "constructor", "prototype"][more % 3]}":{"type":"GET","session_src":"a","error":true},`),
  (text, more) => text.replace(/\}$/, `,"__proto__":${["null", "1", '{"type":"SET"}', "[]"][more % 4]}}`),
  (text, more) => {
    const depth = [10, 31, 32, 33, 500, 20_000][more % 6] ?? 0;
    return text.replace(/\}$/, `,"x":${"[".repeat(depth)}${"]".repeat(depth)}}`);
  },
  (text, more) =>
    text.replace(/true|false|\d+/, ["1e400", "-1e400", "-0", "1e-999", "9".repeat(400), "123456789012345678901234567890"][more % 6] ?? ""),
  (text, more) =>
    text.replace(
      /"(?:session_src|Value|UserID)":"/,
      (found) => `${found}${["\\ud800", "\\udfff\\ud800", "\\u0000", "\\ud83d\\ude00", "\\b"][more % 5]}`,
    ),
  (text, more) => `${" \n\t\r".repeat(more % 3_000)}${text}\n`,
  (text, more) => text.replace(/\}$/, `,"x":"${"y".repeat([4_096, 262_144, 1_040_000, 1_048_576, 1_300_000][more % 5] ?? 0)}"}`),
  (text, more) => text.replace(/"(Form\w+|n|payload)":/, (found) => `${found}"${"z".repeat(260_000 + (more % 3_000))}","x":`),
  (text, more) => text.replace(/"(\w)/, (_, letter: string) => `"\\u00${letter.charCodeAt(0).toString(16)}${more % 2 === 0 ? "" : "\\u200b"}`),
];

function cutAt(text: string, at: number, noise: string): string {
  const place = at % (text.length + 1);
  return `${text.slice(0, place)}${noise}${text.slice(place + (at % 3))}`;
}

/** Bytes of which some are none of the text. */
const ENCODED: readonly ((text: string, more: number) => Uint8Array)[] = [
  (text) => Buffer.from(`\ufeff${text}`),
  (text) => Buffer.from(text, "utf16le"),
  (text) => Buffer.from(`${text.slice(0, -1)}ÿþ}`, "latin1"),
  (text) => gzipSync(text),
  (text, more) => {
    const bytes = Buffer.from(text);
    if (bytes.length > 0) bytes[more % bytes.length] = more % 256;
    return bytes;
  },
  (text, more) => Buffer.from(text).subarray(0, more % (text.length + 1)),
];

function bodies(right: fc.Arbitrary<Fields>): fc.Arbitrary<Uint8Array> {
  const json = fc
    .oneof({ weight: 3, arbitrary: right }, { weight: 1, arbitrary: changed(right) })
    .map((body) => JSON.stringify(marked(structuredClone(body))));
  // May change whom it is for, so it says nothing of that.
  const unmarked = fc.oneof(right, changed(right)).map((body) => JSON.stringify(body));
  return fc.oneof(
    { weight: 10, arbitrary: json.map((text) => Buffer.from(text)) },
    { weight: 4, arbitrary: fc.tuple(json, fc.constantFrom(...TEXTUAL), fc.nat()).map(([text, change, more]) => Buffer.from(change(text, more))) },
    {
      weight: 2,
      arbitrary: fc.tuple(unmarked, fc.nat(), fc.string({ maxLength: 3 })).map(([text, at, noise]) => Buffer.from(cutAt(text, at, noise))),
    },
    { weight: 2, arbitrary: fc.tuple(unmarked, fc.constantFrom(...ENCODED), fc.nat()).map(([text, encode, more]) => encode(text, more)) },
    { weight: 1, arbitrary: ANYTHING.map((value) => Buffer.from(JSON.stringify(value) ?? "")) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }) },
  );
}

const TYPES = fc.oneof(
  { weight: 30, arbitrary: fc.constant("application/json; charset=UTF-8") },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      ..."text/plain|application/json; charset=latin1|multipart/form-data; boundary=x|application/x-www-form-urlencoded|APPLICATION/JSON|application/json;charset|*/*|;;".split(
        "|",
      ),
    ),
  },
);

/** Headers that are strange, and that a server can take. */
const STRANGE = fc.constantFrom<readonly [string, string]>(
  ["Host", "bad host!"],
  ["Host", "[::1]:8080"],
  ["Content-Encoding", "gzip"],
  ["Upgrade", "h2c"],
  ["Cookie", `a=${"b".repeat(3_000)}`],
  ["Authorization", "Bearer nonsense"],
  ["X-Forwarded-For", "127.0.0.1, victim"],
  ["Idempotency-Key", '"one and the same"'],
  ["Origin", "null"],
  ["Access-Control-Request-Method", "POST"],
  ["Cache-Control", "max-age=0"],
);

const HOSTILE = fc.constantFrom<readonly [string, string]>(
  ["X-Long", "x".repeat(9_000)],
  ["Expect", "the impossible"],
  ["Transfer-Encoding", "gzip, chunked"],
  ["Content-Length", "1, 2"],
  ["Content-Length", "-1"],
  ["Bad Name", "x"],
  ["X-Bytes", "\u0001\u007f"],
);

/** @param session  who says that they are asking · @param to  whom it is for */
export function shots(session: fc.Arbitrary<string>, to: fc.Arbitrary<string>): fc.Arbitrary<Shot> {
  return fc
    .record({
      method: fc.oneof(
        { weight: 20, arbitrary: fc.constant("POST") },
        { weight: 1, arbitrary: fc.constantFrom("OPTIONS", "GET", "HEAD", "PUT", "DELETE", "PATCH") },
      ),
      name: fc.option(fc.oneof(fc.stringMatching(/^[0-9]{10,20}$/), fc.string({ maxLength: 70 }), fc.constantFrom("1", "2", "3")), {
        nil: undefined,
        freq: 10,
      }),
      hasPreflight: fc.boolean(),
      type: fc.option(TYPES, { nil: undefined, freq: 50 }),
      strange: fc.oneof({ weight: 9, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: STRANGE }),
      hostile: HOSTILE,
      body: fc.option(bodies(rightBodies(session, to)), { nil: new Uint8Array(), freq: 30 }),
      sent: fc.oneof(
        { weight: 60, arbitrary: fc.constant("whole" as const) },
        { weight: 12, arbitrary: fc.constantFrom("split", "chunked", "cut") },
        { weight: 3, arbitrary: fc.constantFrom("short", "long", "hostile") },
      ),
      at: fc.nat(),
    })
    .map(({ type, strange, hostile, ...shot }) => ({
      ...shot,
      // Where what follows is no HTTP, the connection may end before the preflight is answered.
      hasPreflight: shot.hasPreflight && shot.sent !== "hostile" && shot.sent !== "short",
      headers: [
        ...(type === undefined ? [] : [["Content-Type", type] as const]),
        ...(strange === undefined ? [] : [strange]),
        ...(shot.sent === "hostile" ? [hostile] : []),
      ],
    }));
}
