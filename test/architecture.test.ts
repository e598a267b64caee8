/**
 * Who may import whom (ARCHITECTURE.md). A newcomer can trust the layers because this holds them.
 * @module
 */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const SRC = fileURLToPath(new URL("../src/", import.meta.url));

interface Import {
  readonly to: string;
  readonly typeOnly: boolean;
}

const FILES = readdirSync(SRC, { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts"))
  .sort();
const TEXTS = new Map(FILES.map((file) => [file, readFileSync(join(SRC, file), "utf8")]));
const IMPORTS = new Map([...TEXTS].map(([file, text]) => [file, importsOf(file, text)]));

function importsOf(file: string, text: string): Import[] {
  const found: Import[] = [];
  const statement =
    /^(?:import|export)\s+(type\s)?([^;"']*?)\s*from\s+"([^"]+)"|^import\s+"([^"]+)"|\bimport\("([^"]+)"\)|new URL\("(\.[^"]+\.[tj]s)"/gm;
  for (const [, type, names = "", from, bare, dynamic] of text.matchAll(statement)) {
    const path = from ?? bare ?? dynamic;
    if (path === undefined) continue;
    const each = /^\{(.*)\}$/s
      .exec(names.trim())?.[1]
      ?.split(",")
      .map((name) => name.trim());
    const typeOnly = type !== undefined || (each?.filter((name) => name !== "").every((name) => name.startsWith("type ")) ?? false);
    found.push({ to: path.startsWith(".") ? relative(SRC, join(SRC, dirname(file), path)) : path, typeOnly });
  }
  return found;
}

const LAYERS: Readonly<Record<string, readonly string[]>> = {
  L0: ["protocol.ts", "errors.ts", "time.ts", "answers.ts", "x0.ts"],
  L1: ["engine.ts", "set-back.ts", "tail.ts", "heartbeat.ts", "expiry.ts", "transport.ts"],
  L2: ["jwks.ts", "auth.ts", "message.ts", "sessions.ts", "receiver.ts", "mailbox.ts", "channel.ts", "metrics.ts", "hub.ts"],
  L4: [
    "config.ts",
    "origin.ts",
    "cookie.ts",
    "http.ts",
    "heap.ts",
    "monitoring.ts",
    "backup.ts",
    "pages.ts",
    "server.ts",
    "supervise.ts",
    "options.ts",
    "maintenance.ts",
    "commands.ts",
    "cli.ts",
    "index.ts",
  ],
};

function layerOf(file: string): string {
  if (/^(engines|transports|bridges)\//.test(file)) return "L3";
  if (file.startsWith("describe/")) return "L2";
  if (/^(client|testing)\//.test(file)) return file.split("/")[0] ?? "";
  return Object.keys(LAYERS).find((layer) => LAYERS[layer]?.includes(file)) ?? "none";
}

/** An engine or transport may be several files, in a folder of its name: `sqlite.ts`, `sqlite/store.ts`. */
const familyOf = (file: string) => file.replace(/\.ts$/, "").split("/").slice(0, 2).join("/");

const MAY: Readonly<Record<string, (from: string, to: string, typeOnly: boolean) => boolean>> = {
  L0: (from, to) => (from === "protocol.ts" && to === "errors.ts") || (from === "answers.ts" && layerOf(to) === "L0"),
  L1: (_from, to) => ["L0", "L1"].includes(layerOf(to)),
  L2: (_from, to) => ["L0", "L1", "L2"].includes(layerOf(to)),
  L3: (from, to) => ["L0", "L1"].includes(layerOf(to)) || familyOf(from) === familyOf(to),
  L4: (from, to) => {
    // The composition root is the only one to name an engine, beside what mends a store that no server has open; a transport's HTTP side is http.ts, which names it too.
    if (to.startsWith("engines/")) return from === "server.ts" || (from === "maintenance.ts" && to.startsWith("engines/sqlite/"));
    if (to.startsWith("transports/")) return from === "server.ts" || from === "http.ts";
    // A terminal is a client like any other.
    if (layerOf(to) === "client") return from === "commands.ts";
    return layerOf(to) !== "testing";
  },
  client: (_from, to, typeOnly) => layerOf(to) === "client" || (layerOf(to) === "L0" && (typeOnly || to === "x0.ts")),
  testing: (_from, to) => ["L0", "L1", "testing"].includes(layerOf(to)),
};

const ours = (path: string) => FILES.includes(path);

test("[A1] every file has its place in the layer table, and every file of the table is there", () => {
  expect(FILES.filter((file) => layerOf(file) === "none")).toEqual([]);
  expect(
    Object.values(LAYERS)
      .flat()
      .filter((file) => !FILES.includes(file)),
  ).toEqual([]);
  // The reading of imports itself works: server.ts is known to name these.
  expect(IMPORTS.get("server.ts")).toContainEqual({ to: "engines/sqlite.ts", typeOnly: false });
  expect(IMPORTS.get("transport.ts")).toContainEqual({ to: "answers.ts", typeOnly: true });
});

test("[A2] files import only what their layer may", () => {
  const wrong: string[] = [];
  for (const [file, imports] of IMPORTS) {
    for (const { to, typeOnly } of imports) {
      if (to.startsWith("..") || (/\.ts$/.test(to) && !ours(to))) wrong.push(`${file} → ${to}, which is not there`);
      else if (ours(to) && !MAY[layerOf(file)]?.(file, to, typeOnly)) wrong.push(`${file} (${layerOf(file)}) → ${to} (${layerOf(to)})`);
    }
  }
  expect(wrong).toEqual([]);
});

test("[A3] the client imports no package and nothing of Node; the protocol imports its validator and nothing else", () => {
  const packages = (inLayer: string) =>
    [...IMPORTS].flatMap(([file, imports]) => (layerOf(file) === inLayer ? imports.filter(({ to }) => !ours(to)).map(({ to }) => to) : []));
  expect(packages("client")).toEqual([]);
  expect([...new Set(packages("L0"))].filter((name) => !name.startsWith("typebox"))).toEqual([]);
  expect(packages("L1")).toEqual([]);
});

test("[A4] there are no cycles of imports", () => {
  const cycles: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(" → "));
    else if (!done.has(file)) {
      for (const { to } of IMPORTS.get(file) ?? []) if (ours(to)) visit(to, [...path, file]);
      done.add(file);
    }
  };
  for (const file of FILES) visit(file, []);
  expect(cycles).toEqual([]);
});

test("[A5] only config.ts and the command read the environment; nothing exports a default", () => {
  const reading = [...TEXTS].filter(([, text]) => /\bprocess\.env\b/.test(text.replace(/^\s*(\*|\/\/).*$/gm, ""))).map(([file]) => file);
  expect(reading.filter((file) => !["config.ts", "options.ts", "commands.ts"].includes(file))).toEqual([]);
  expect([...TEXTS].filter(([, text]) => /^export default\b/m.test(text)).map(([file]) => file)).toEqual([]);
});

test("[A23] the thread of the store loads no schemas: they take longer to load than a store takes to open", () => {
  const loaded = new Set<string>();
  const load = (file: string) => {
    if (loaded.has(file)) return;
    loaded.add(file);
    for (const { to, typeOnly } of IMPORTS.get(file) ?? []) if (!typeOnly) load(to);
  };
  load("engines/sqlite/worker.ts");
  expect(loaded).toContain("engines/sqlite/fresh.ts");
  expect([...loaded].filter((each) => each.startsWith("typebox") || each === "protocol.ts")).toEqual([]);
});
