/**
 * /openapi.json: what there is over HTTP, from the schemas that validate, the table of errors and the table of operations.
 * @see https://spec.openapis.org/oas/v3.1.1
 * @module
 */
import { ERRORS, type ErrorCode } from "../errors.ts";
import { Components, type Json, type Limits, type Name, problemExample } from "./document.ts";
import { OPERATIONS, type Operation, type Success } from "./operations.ts";

const SECURITY = {
  token: { type: "http", scheme: "bearer", bearerFormat: "JWT", description: "A user's token, as a session has it or as the backend signs it." },
  serviceKey: { type: "http", scheme: "bearer", description: "A service key (`HANDOVER_SERVICE_KEY`), for backends." },
  cookie: { type: "apiKey", in: "cookie", name: "handover", description: "A user's token as POST /v1/cookie keeps it, from allowed pages only." },
} as const;

/** Writes the description. The same limits give the same document. */
export function openapi(limits: Limits): Json {
  const components = new Components();
  const responses = new Map<string, Json>();
  const paths: Record<string, Record<string, Json>> = {};
  for (const operation of OPERATIONS) {
    paths[operation.path] = { ...paths[operation.path], [operation.method]: operationOf(operation, components, responses) };
  }
  return {
    openapi: "3.1.1",
    info: {
      title: "Handover",
      version: limits.version,
      license: { name: "MIT", identifier: "MIT" },
      summary: "Hands JSON objects from one logged-in user to another, and does not lose them.",
      description:
        `Protocol version 1. PROTOCOL.md is the same in prose. A message has at most ${limits.maxMessageBytes} bytes as an event and lives at most ${limits.maxTtlSeconds} seconds here. ` +
        "Answers may gain fields: pass over those that you do not know. Every refusal is a problem document with a `code`.",
    },
    servers: [{ url: "/" }],
    tags: [
      { name: "sending", description: "Messages, their state, taking back" },
      { name: "receiving", description: "Deliveries and acknowledgements" },
      { name: "identity", description: "Sessions and tokens" },
      { name: "operation", description: "For operators and developers" },
    ],
    paths,
    components: {
      schemas: components.all(),
      responses: Object.fromEntries(responses),
      examples: problemExamples(),
      securitySchemes: SECURITY,
    },
  };
}

function operationOf(operation: Operation, components: Components, responses: Map<string, Json>): Json {
  const { id, tag, summary, description, asks, parameters, body } = operation;
  const answers: Record<string, Json> = {};
  for (const [status, success] of Object.entries(operation.answers)) answers[status] = successOf(success, components);
  for (const [status, codes] of byStatus(operation.problems)) {
    const name = codes.join("_or_");
    if (!responses.has(name)) responses.set(name, problemOf(codes, components));
    answers[status] = { $ref: `#/components/responses/${name}` };
  }
  if (!responses.has("any")) responses.set("any", problemOf([], components));
  answers.default = { $ref: "#/components/responses/any" };
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    security: (asks ?? []).map((scheme) => ({ [scheme]: [] })),
    ...(parameters ? { parameters: parameters.map((parameter) => ({ ...parameter, schema: components.schema(parameter.schema) })) } : {}),
    ...(body ? { requestBody: { required: true, content: contentOf(body.schema, body.examples, components) } } : {}),
    responses: answers,
  };
}

/** One for each code that HTTP can answer. */
function problemExamples(): Json {
  const codes = [...new Set(OPERATIONS.flatMap(({ problems }) => problems))];
  return Object.fromEntries(codes.map((code) => [code, { summary: ERRORS[code].title, value: problemExample(code) }]));
}

function byStatus(codes: readonly ErrorCode[]): [string, ErrorCode[]][] {
  const found = new Map<string, ErrorCode[]>();
  for (const code of codes) {
    const status = String(ERRORS[code].status);
    found.set(status, [...(found.get(status) ?? []), code]);
  }
  return [...found];
}

function contentOf(names: Name | readonly Name[], examples: Readonly<Record<string, unknown>> | undefined, components: Components): Json {
  const list = typeof names === "string" ? [names] : names;
  const refs = list.map((name) => components.ref(name));
  const named = Object.entries(examples ?? {}).map(([key, value]) => [key, { value }]);
  return {
    "application/json": { schema: refs.length === 1 ? refs[0] : { oneOf: refs }, ...(examples ? { examples: Object.fromEntries(named) } : {}) },
  };
}

function successOf({ description, body, type, examples, headers }: Success, components: Components): Json {
  const texts = Object.entries(headers ?? {}).map(([name, says]) => [name, { description: says, schema: { type: "string" } }]);
  return {
    description,
    ...(headers ? { headers: Object.fromEntries(texts) } : {}),
    ...(body ? { content: contentOf(body, examples, components) } : type ? { content: { [type]: {} } } : {}),
  };
}

/** The answer for some codes of one status; for none: whatever else goes wrong, with any HTTP request. */
function problemOf(codes: readonly ErrorCode[], components: Components): Json {
  const headers = {
    ...(codes.some((code) => ERRORS[code].status === 401) ? { "WWW-Authenticate": { schema: { const: "Bearer" } } } : {}),
    ...(codes.some((code) => "retryAfterMs" in ERRORS[code])
      ? { "Retry-After": { description: "seconds", schema: { type: "integer", minimum: 1 } } }
      : {}),
    ...(codes.includes("rate-limited") ? { RateLimit: { description: "draft-ietf-httpapi-ratelimit-headers", schema: { type: "string" } } } : {}),
  };
  const problem = components.ref("Problem");
  const schema = codes.length === 0 ? problem : { allOf: [problem, { properties: { code: { enum: codes } } }] };
  const examples = Object.fromEntries(codes.map((code) => [code, { $ref: `#/components/examples/${code}` }]));
  return {
    description: codes.length === 0 ? "What may go wrong with any request" : codes.map((code) => `${ERRORS[code].title} (\`${code}\`)`).join("; "),
    ...(Object.keys(headers).length > 0 ? { headers } : {}),
    content: { "application/problem+json": { schema, ...(codes.length > 0 ? { examples } : {}) } },
  };
}
