/** docs/reliability.md says what was not proved as plainly as what was. */
import { expect, test } from "vitest";

const { page } = (await import(new URL("../../scripts/reliability.mjs", import.meta.url).href)) as {
  readonly page: (results: object, faults: object) => string;
};

const faults = { R5: { title: "The disk is full", text: "Filled." } };
const control = { says: "no room is kept", found: "D12 E44", passed: true };
const ran = { date: "2026-11-24", commit: "abc", passed: true, rows: [{ what: "full disk", figures: { rounds: 5, lost: 0 } }], leftOut: [] };
const pageOf = (found: object, controls: object) => page({ machine: "a machine", found: { R5: found }, controls: { R5: [controls] } }, faults);

test("the page of the fault tests, when all of them held, has their figures and what turned red, and no failure", () => {
  const text = pageOf(ran, control);
  expect(text).toContain("| full disk | rounds 5, lost 0 |");
  expect(text).toContain("| no room is kept | D12 E44 |");
  expect(text).not.toMatch(/WRONG|failed|Not all/);
});

test("it says what was not run", () => {
  expect(page({ machine: "a machine", found: {}, controls: {} }, faults)).toContain("- R5: not run yet.");
});

test.each([
  ["a control that saw too little", ran, { ...control, found: "E44", passed: false, expected: "D12 E44" }, "**WRONG**: E44, and not D12 E44"],
  ["a control that saw nothing", ran, { ...control, found: "", passed: false, expected: "E44" }, "**WRONG**: nothing turned red, and not E44"],
  ["a test that failed", { ...ran, passed: false }, control, "- R5: a test failed."],
  ["what was left out", { ...ran, leftOut: [{ suite: "a full disk", reason: "no root" }] }, control, "- R5: left out, since no root: a full disk."],
])("it says at its top, and where it belongs: %s", (_what, found, controls, words) => {
  const text = pageOf(found, controls);
  expect(text).toContain(words);
  expect(text.indexOf("**Not all of it is proved:**")).toBeLessThan(text.indexOf("## R5"));
  expect(text.indexOf("**Not all of it is proved:**")).toBeGreaterThan(0);
});
