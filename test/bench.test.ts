/**
 * The benchmark itself: each claim runs from end to end, with counts so small that its figures mean nothing. Nothing is measured here.
 * @module
 */
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { Bench } from "../bench/claim.ts";
import { CLAIMS } from "../bench/claims.ts";

// A browser's start alone takes longer than all others together; test/browser has the SDK in Chromium.
const small = CLAIMS.filter(({ name }) => name !== "browser");

test("every file of bench/claims is a claim that the benchmark runs", () => {
  expect(CLAIMS.map(({ name }) => name).sort()).toEqual(
    readdirSync(new URL("../bench/claims", import.meta.url))
      .map((file) => file.replace(".ts", ""))
      .sort(),
  );
});

test.for(small)("the claim $name runs, and every message of it came once and in order", { concurrent: true, timeout: 180_000 }, async (claim) => {
  const bench = new Bench({ rounds: 1, systems: ["handover"], isSmoke: true }, () => {});
  await claim.run(bench);
  expect(bench.failures).toEqual([]);
  expect(bench.table).toContain("| --- |");
});
