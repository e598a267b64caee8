/**
 * SPEC.md and the tests name the same rules: when they disagree, one of them is wrong.
 * @module
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** Rules as SPEC.md states them: lines that begin with `- **E1**`. */
function statedRules(): string[] {
  return [...readFileSync(join(ROOT, "SPEC.md"), "utf8").matchAll(/^- \*\*([A-Z]\d+)\*\*/gm)].map(([, id = ""]) => id);
}

/** Rules in the titles of tests, here and in the published suites: `"[E1] …`. */
function testedRules(): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const folder of ["test", "src/testing"]) {
    for (const file of readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })) {
      if (!file.endsWith(".ts")) continue;
      for (const [, id = ""] of readFileSync(join(ROOT, folder, file), "utf8").matchAll(/["'`]\[([A-Z]\d+)\] /g)) {
        found.set(id, [...(found.get(id) ?? []), `${folder}/${file}`]);
      }
    }
  }
  return found;
}

const byNumber = (one: string, other: string) => one.charCodeAt(0) - other.charCodeAt(0) || Number(one.slice(1)) - Number(other.slice(1));

test("[A9] every rule of SPEC.md is in the title of a test, and every rule in a title is in SPEC.md", () => {
  const stated = statedRules();
  const tested = testedRules();
  expect(stated.length).toBeGreaterThan(50);
  expect(stated.filter((id) => !tested.has(id)).sort(byNumber), "stated and not tested").toEqual([]);
  expect([...tested.keys()].filter((id) => !stated.includes(id)).sort(byNumber), "tested and not stated").toEqual([]);
});

test("[A9] rules that docs/faults.md names are rules of SPEC.md", () => {
  const stated = statedRules();
  const rows = readFileSync(join(ROOT, "docs/faults.md"), "utf8")
    .split("\n")
    .filter((line) => /\| .*[A-Z]\d+.* \|$/.test(line));
  expect(rows.length).toBeGreaterThan(10);
  for (const row of rows) {
    const named =
      row
        .split("|")
        .at(-2)
        ?.match(/\b[A-Z]\d+\b/g) ?? [];
    expect(
      named.filter((id) => !stated.includes(id)),
      row,
    ).toEqual([]);
    expect(named[0], row).toMatch(/^W/);
  }
});

test("[A10] SPEC.md states each rule once, with a sentence", () => {
  const lines = readFileSync(join(ROOT, "SPEC.md"), "utf8")
    .split("\n")
    .filter((line) => /^- \*\*[A-Z]\d+\*\*/.test(line));
  const ids = statedRules();
  expect(ids.filter((id, place) => ids.indexOf(id) !== place)).toEqual([]);
  for (const line of lines) expect(line).toMatch(/^- \*\*[A-Z]\d+\*\* \S.{15,}/);
});
