/**
 * A strict reader of Prometheus' text format 0.0.4: what Prometheus would take, and what promtool's lint asks of names.
 * @see https://prometheus.io/docs/instrumenting/exposition_formats
 * @module
 */
import { expect } from "vitest";
import type { Ending, Totals } from "../../src/engine.ts";

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly samples: readonly Sample[];
}

const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$/;
const VALUE = /^(NaN|[+-]?Inf|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)$/;

/** Reads a whole exposition. @throws Error at the first line that Prometheus would not take */
export function readExposition(text: string): Map<string, Family> {
  if (!text.endsWith("\n")) throw new Error("The last line does not end.");
  const families = new Map<string, { name: string; help: string; type: string; samples: Sample[] }>();
  const seen = new Set<string>();
  let family: { name: string; help: string; type: string; samples: Sample[] } | undefined;
  let help: [string, string] | undefined;
  for (const line of text.slice(0, -1).split("\n")) {
    const fault = (what: string) => new Error(`${what}: ${line}`);
    if (line === "") continue;
    const [, word, name = "", rest = ""] = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line) ?? [];
    if (word === "HELP") {
      if (help) throw fault("HELP without TYPE before it");
      help = [name, rest];
    } else if (word === "TYPE") {
      if (help?.[0] !== name) throw fault("TYPE without its HELP");
      if (families.has(name)) throw fault("a family twice");
      if (!["counter", "gauge", "histogram", "summary"].includes(rest)) throw fault("an unknown type");
      family = { name, help: help[1], type: rest, samples: [] };
      families.set(name, family);
      help = undefined;
    } else {
      const [, sampleName, labelText = "", value = ""] = SAMPLE.exec(line) ?? [];
      if (sampleName === undefined || !VALUE.test(value)) throw fault("not a sample");
      if (!family || help) throw fault("a sample outside a family");
      const suffixes = { histogram: ["_bucket", "_sum", "_count"], summary: ["", "_sum", "_count"] }[family.type] ?? [""];
      if (!suffixes.some((suffix) => sampleName === `${family?.name}${suffix}`)) throw fault(`a sample of another family than ${family.name}`);
      const labels = Object.fromEntries([...labelText.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)].map(([, key = "", text = ""]) => [key, text]));
      const series = `${sampleName}${JSON.stringify(Object.entries(labels).sort())}`;
      if (seen.has(series)) throw fault("a series twice");
      seen.add(series);
      family.samples.push({ name: sampleName, labels, value: Number(value.replace("Inf", "Infinity")) });
    }
  }
  for (const each of families.values()) if (each.type === "histogram") checkHistogram(each);
  return families;
}

/** Buckets are cumulative, end with +Inf, and that one is the count. */
function checkHistogram({ name, samples }: Family): void {
  const withoutBound = ({ le: _, ...labels }: Readonly<Record<string, string>>) => JSON.stringify(Object.entries(labels).sort());
  for (const count of samples.filter((sample) => sample.name === `${name}_count`)) {
    const isSame = (sample: Sample) => withoutBound(sample.labels) === withoutBound(count.labels);
    const buckets = samples.filter((sample) => sample.name === `${name}_bucket` && isSame(sample));
    const bounds = buckets.map(({ labels }) => Number(labels.le?.replace("Inf", "Infinity")));
    const counts = buckets.map(({ value }) => value);
    const isRising = (numbers: readonly number[], least: number) =>
      numbers.every((each, place) => place === 0 || each - (numbers[place - 1] ?? 0) >= least);
    if (!isRising(bounds, Number.MIN_VALUE) || bounds.at(-1) !== Number.POSITIVE_INFINITY) throw new Error(`${name}: the bounds ${bounds}`);
    if (!isRising(counts, 0) || counts.at(-1) !== count.value) throw new Error(`${name}: the buckets ${counts}, the count ${count.value}`);
    if (!samples.some((sample) => sample.name === `${name}_sum` && isSame(sample))) throw new Error(`${name}: no sum`);
  }
}

/** Names and units as Prometheus' own guide wants them, for families of ours. @see https://prometheus.io/docs/practices/naming */
export function expectGoodName({ name, help, type }: Family): void {
  expect(name).toMatch(/^handover_[a-z]+(_[a-z]+)*$/);
  expect(name.endsWith("_total"), name).toBe(type === "counter");
  expect(name, "base units only").not.toMatch(/_(ms|milliseconds|minutes|hours|kib|kilobytes|percent|count|sum|bucket)(_|$)/);
  if (/_(duration|delay|age)(_|$)/.test(name)) expect(name).toMatch(/_seconds$/);
  expect(help, name).toMatch(/^[A-Z1].{20,}\.$/);
}

/** Reads the metrics of a server. */
export async function scrape(url: string): Promise<Map<string, Family>> {
  const answer = await fetch(`${url}/metrics`);
  expect(answer.status).toBe(200);
  expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  return readExposition(await answer.text());
}

/** The value of one series; fails when it is not there, or there are several. */
export function read(families: ReadonlyMap<string, Family>, name: string, labels: Record<string, string> = {}): number {
  const family = families.get(name) ?? families.get(name.replace(/_(count|sum|bucket)$/, ""));
  const found = family?.samples.filter(
    (sample) => sample.name === name && Object.entries(labels).every(([key, text]) => sample.labels[key] === text),
  );
  expect(found?.length, `${name} ${JSON.stringify(labels)}`).toBe(1);
  return found?.[0]?.value ?? Number.NaN;
}

const ENDINGS = ["acked", "expired", "replaced", "evicted", "dead"] as const;

/** What the metrics say of deliveries; fails unless accepted is exactly what ended and what has not. */
export function accounts(families: ReadonlyMap<string, Family>): Totals {
  const ended = Object.fromEntries(ENDINGS.map((ending) => [ending, read(families, "handover_deliveries_ended_total", { ending })])) as Record<
    Ending,
    number
  >;
  const accepted = read(families, "handover_deliveries_accepted_total");
  const unsettled = read(families, "handover_deliveries_unsettled");
  expect(
    Object.values(ended).reduce((sum, each) => sum + each, unsettled),
    JSON.stringify(ended),
  ).toBe(accepted);
  return { accepted, unsettled, ...ended };
}
