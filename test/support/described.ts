/**
 * The descriptions as a stranger reads them: by their own words only, with a validator that is not ours.
 * @module
 */
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { expect } from "vitest";
import type { Answer } from "../../src/testing/wire.ts";

/** A part of a JSON document. */
export type Json = { readonly [key: string]: Json };

/** The part of a document that a reference, or a way through its keys, names. */
export function at(document: Json, ...keys: readonly string[]): Json {
  let part: Json | undefined = document;
  for (const key of keys) part = part?.[key];
  if (part === undefined) throw new Error(`There is no ${keys.join("/")}.`);
  return part;
}

/** Follows a `$ref`, if it is one. */
export function follow(document: Json, part: Json): Json {
  const reference: unknown = part.$ref;
  if (typeof reference !== "string") return part;
  if (!reference.startsWith("#/")) throw new Error(`${reference} leads out of the document.`);
  return follow(
    document,
    at(
      document,
      ...reference
        .slice(2)
        .split("/")
        .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~")),
    ),
  );
}

/** Every `$ref` of a document, with the way to it. */
export function refsOf(part: unknown, way = "#"): [way: string, reference: string][] {
  if (typeof part !== "object" || part === null) return [];
  return Object.entries(part).flatMap(([key, value]) =>
    key === "$ref" ? [[way, String(value)] as [string, string]] : refsOf(value, `${way}/${key}`),
  );
}

/**
 * Validators from a document's schemas.
 * @param isStrict  whether a field that the document does not know is a fault: nothing of ours goes out undescribed
 */
export class Schemas {
  readonly #ajv = new Ajv2020({ allErrors: true, strict: false, formats: { "date-time": /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/ } });
  readonly #known = new Map<string, ValidateFunction>();

  constructor(document: Json, isStrict: boolean) {
    this.#ajv.addSchema({ $id: "document", ...(isStrict ? (closed(document) as Json) : document) }, "document");
  }

  /** What is wrong with a value, by a schema of the document or one that refers to it; "" when nothing is. */
  fault(schema: Json, value: unknown): string {
    const text = JSON.stringify(schema).replaceAll('"$ref":"#/', '"$ref":"document#/');
    let validate = this.#known.get(text);
    if (!validate) {
      validate = this.#ajv.compile(JSON.parse(text));
      this.#known.set(text, validate);
    }
    return validate(value) ? "" : `${this.#ajv.errorsText(validate.errors)} — ${JSON.stringify(value)?.slice(0, 400)}`;
  }
}

function closed(part: unknown): unknown {
  if (Array.isArray(part)) return part.map(closed);
  if (typeof part !== "object" || part === null) return part;
  const copy = Object.fromEntries(Object.entries(part).map(([key, value]) => [key, closed(value)]));
  return copy.type === "object" && copy.properties ? { additionalProperties: false, ...copy } : copy;
}

/** Holds answers against /openapi.json, and notes which of its answers were seen. */
export class Described {
  readonly document: Json;
  readonly schemas: Schemas;
  readonly seen = new Set<string>();

  constructor(document: Json) {
    this.document = document;
    this.schemas = new Schemas(document, true);
  }

  /** Operations by their id: method, path and the operation. */
  operations(): { id: string; method: string; path: string; operation: Json }[] {
    return Object.entries(at(this.document, "paths")).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ id: String(operation.operationId), method, path, operation })),
    );
  }

  /** All answers that an operation is described with: `send 201`, `send 401 token-invalid`, … */
  answersOf(id: string): string[] {
    const found = this.operations().find((each) => each.id === id);
    if (!found) throw new Error(`There is no operation ${id}.`);
    return Object.entries(at(found.operation, "responses")).flatMap(([status, response]) => {
      if (status === "default") return [];
      const content: Json | undefined = follow(this.document, response).content;
      const problem = content?.["application/problem+json"];
      return problem ? Object.keys(at(problem, "examples")).map((code) => `${id} ${status} ${code}`) : [`${id} ${status}`];
    });
  }

  /** Expects that an answer is as described: status, type, headers and body. */
  expect(id: string, answer: Answer, what = ""): void {
    const found = this.operations().find((each) => each.id === id);
    const responses = at(found?.operation ?? {}, "responses");
    const response = follow(this.document, at({ response: responses[String(answer.status)] ?? at(responses, "default") }, "response"));
    const shown = `${id} ${what} → ${answer.status} ${JSON.stringify(answer.body)?.slice(0, 300)}`;
    const type = answer.headers.get("content-type")?.split(";", 1)[0] ?? "";
    const content: Json | undefined = response.content;
    const code = type === "application/problem+json" ? ` ${String((answer.body as { code: string }).code)}` : "";
    if (!content) {
      expect([type, answer.body], shown).toEqual(["", undefined]);
    } else {
      expect(Object.keys(content), shown).toContain(type);
      const { schema } = at(content, type);
      if (schema) expect(this.schemas.fault(schema, answer.body), shown).toBe("");
    }
    if (code === "")
      // A 204 names a time only while the server stops.
      for (const name of Object.keys(response.headers ?? {}).filter((name) => answer.status !== 204 || name !== "Retry-After"))
        if (id !== "send" || !Array.isArray(answer.body)) expect(answer.headers.get(name), `${shown}: ${name}`).toBeTruthy();
    if (answer.status === 401) expect(answer.headers.get("www-authenticate")).toBe("Bearer");
    if (answer.headers.has("retry-after")) expect(Object.keys(response.headers ?? {}), shown).toContain("Retry-After");
    this.seen.add(`${id} ${responses[String(answer.status)] ? answer.status : "default"}${code}`);
  }
}
