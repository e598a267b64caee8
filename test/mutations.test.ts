/**
 * The list of mistakes that `npm run mutations` makes stays applicable: each finds its place exactly once.
 * @module
 */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

interface Mutation {
  readonly promise: number;
  readonly says: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  readonly turnsRed: readonly string[];
}

const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");

test("[A11] there is a mistake for each of the six promises, and each finds its place in the code exactly once", () => {
  const mutations = JSON.parse(read("test/mutations.json")) as Mutation[];
  expect([...new Set(mutations.map(({ promise }) => promise))].sort()).toEqual([1, 2, 3, 4, 5, 6]);
  for (const { says, file, find, replace, turnsRed } of mutations) {
    expect(read(file).split(find).length - 1, `${says}: ${file} holds its place`).toBe(1);
    expect(replace, says).not.toBe(find);
    expect(turnsRed.length, says).toBeGreaterThan(0);
  }
});
