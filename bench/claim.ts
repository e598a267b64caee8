/**
 * A claim is a file in claims/: what it measures and how. What a run notes down becomes a table of medians.
 * @module
 */
import { drive, type Run, type Shape, type Timing } from "./drive.ts";
import { median } from "./measure.ts";
import type { Running, System } from "./system.ts";

export interface Claim {
  readonly name: string;
  readonly title: string;
  /** What the columns are, and what is compared with what. */
  readonly text: string;
  run(bench: Bench): Promise<void>;
}

/** What a claim may be asked for. */
export interface Chosen {
  readonly rounds: number;
  /** Names of systems, or of systems with a wire; none: all. */
  readonly systems: readonly string[];
  /** Counts as small as may be: shows only that everything still runs. */
  readonly isSmoke: boolean;
}

/** One claim's run: what is asked, and the table that comes of it. */
export class Bench {
  readonly chosen: Chosen;
  readonly #rows = new Map<string, Map<string, number[]>>();
  readonly #failed = new Set<string>();
  readonly #log: (line: string) => void;

  constructor(chosen: Chosen, log: (line: string) => void) {
    this.chosen = chosen;
    this.#log = log;
  }

  /** `count` for a measurement, a little for a smoke test. */
  count(count: number, smoke: number): number {
    return this.chosen.isSmoke ? smoke : count;
  }

  /** All wires of these systems; for a smoke test the first of each, where another claim goes through the others. */
  wiresOf(systems: readonly System[]): readonly System[] {
    return this.chosen.isSmoke ? systems.map((system) => ({ ...system, wires: system.wires.slice(0, 1) })) : systems;
  }

  timing(warmUpMs: number, measuredMs: number): Timing {
    return this.chosen.isSmoke ? { warmUpMs: 20, measuredMs: 100 } : { warmUpMs, measuredMs };
  }

  /**
   * The timing of what comes a thousand times a second. That is seldom to a compiler that looks at what is hot: what a server costs that has been up
   * for a while shows after some seconds.
   */
  get timingOfFew(): Timing {
    return this.timing(8_000, 5_000);
  }

  isChosen(...names: readonly string[]): boolean {
    const { systems } = this.chosen;
    return systems.length === 0 || names.some((name) => systems.includes(name.toLowerCase()));
  }

  /** One round's figures of one row. */
  note(row: string, figures: Readonly<Record<string, number>>): void {
    const columns = this.#rows.get(row) ?? new Map<string, number[]>();
    this.#rows.set(row, columns);
    for (const [column, figure] of Object.entries(figures)) columns.set(column, [...(columns.get(column) ?? []), figure]);
    this.#log(
      `  ${row}: ${Object.entries(figures)
        .map(([column, figure]) => `${column} ${short(figure)}`)
        .join(", ")}`,
    );
  }

  /** The figures of a driven run, under the columns that all claims share. */
  noteRun(row: string, run: Run, more: Readonly<Record<string, number>> = {}): void {
    this.note(row, {
      "messages/s": run.perSecond,
      "µs/message": run.us,
      "server cores": run.cores,
      "driver cores": run.senderCores + run.receiverCores,
      ...more,
    });
  }

  failed(row: string, thrown: unknown): void {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    this.#failed.add(`${row}: ${why.slice(0, 300)}`);
    this.#log(`  ${row} FAILED: ${thrown instanceof Error ? thrown.stack : why}`);
  }

  /** All systems in turn, so many times, so that what else the machine does falls on all of them. */
  async rounds(
    systems: readonly System[],
    each: (running: Running, system: System, isWire: (name: string, label: string) => boolean) => Promise<void>,
  ): Promise<void> {
    for (let round = 1; round <= this.chosen.rounds; round++) {
      for (const system of systems) {
        const isWire = (wire: string, label: string) => this.isChosen(system.name, `${system.name}-${label}`, wire);
        if (system.missing !== undefined || !system.wires.some(({ wire, label }) => isWire(wire, label))) continue;
        let running: Running | undefined;
        try {
          running = await system.start();
          await each(running, system, isWire);
        } catch (thrown) {
          this.failed(system.title, thrown);
        }
        await running?.stop();
      }
    }
  }

  /** Drives every chosen wire of every system with every shape. @param rowOf  names the row */
  async drives(
    systems: readonly System[],
    shapes: readonly (Shape & { readonly name: string })[],
    timing: Timing,
    note: (row: string, run: Run) => void,
  ): Promise<void> {
    const those = this.chosen.isSmoke ? shapes.slice(-1) : shapes;
    await this.rounds(systems, async (running, system, isWire) => {
      for (const { wire, label } of system.wires) {
        if (!isWire(wire, label)) continue;
        for (const { name, ...shape } of those) {
          const row = `${name} | ${system.title}${label === "" ? "" : `, ${label}`}`;
          try {
            note(row, await drive(running, wire, shape, timing));
          } catch (thrown) {
            this.failed(row, thrown);
          }
        }
      }
    });
  }

  /** What did not run, and why. */
  get failures(): readonly string[] {
    return [...this.#failed];
  }

  /** The table in Markdown; rows in the order of their names' first part, as they were first noted. */
  get table(): string {
    const columns = [...new Set([...this.#rows.values()].flatMap((row) => [...row.keys()]))];
    if (columns.length === 0) return this.failures.join("\n");
    const parts = (row: string) => row.split(" | ");
    const groups = [...new Set([...this.#rows.keys()].map((row) => parts(row)[0]))];
    const rows = [...this.#rows].sort(([one], [other]) => groups.indexOf(parts(one)[0]) - groups.indexOf(parts(other)[0]));
    const width = Math.max(...rows.map(([row]) => parts(row).length));
    const lines = [`|${" |".repeat(width)} ${columns.join(" | ")} |`, `|${" --- |".repeat(width)}${" ---: |".repeat(columns.length)}`];
    for (const [row, figures] of rows) {
      const cells = columns.map((column) => {
        const all = figures.get(column) ?? [];
        if (all.length === 0) return "";
        const middle = short(median(all));
        return all.length === 1 ? middle : `**${middle}** (${short(Math.min(...all))}–${short(Math.max(...all))})`;
      });
      lines.push(`| ${[...parts(row), ...Array.from({ length: width - parts(row).length }, () => ""), ...cells].join(" | ")} |`);
    }
    for (const failure of this.failures) lines.push("", `Did not run: ${failure}`);
    return lines.join("\n");
  }

  /** The median of one figure; undefined when it was not noted. */
  middle(row: string, column: string): number | undefined {
    const all = this.#rows.get(row)?.get(column);
    return all && median(all);
  }
}

/** Three digits that mean something. */
export function short(figure: number): string {
  if (!Number.isFinite(figure)) return "–";
  if (Math.abs(figure) >= 100) return Math.round(figure).toLocaleString("en-GB");
  return String(Number(figure.toPrecision(3)));
}
