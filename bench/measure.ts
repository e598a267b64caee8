/**
 * What a process costs, as the kernel counts it, and what is made of many figures.
 * @module
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

/** proc(5): the name, and utime and stime, in ticks of 10 ms. */
function readStat(file: string): { readonly name: string; readonly ms: number } {
  const text = readFileSync(file, "utf8");
  const end = text.lastIndexOf(") ");
  const fields = text.slice(end + 2).split(" ");
  return { name: text.slice(text.indexOf("(") + 1, end), ms: (Number(fields[11]) + Number(fields[12])) * 10 };
}

/** CPU time of whole processes, all threads of theirs included, ms. */
export function cpuMs(pids: readonly number[]): number {
  let sum = 0;
  for (const pid of pids) sum += readStat(`/proc/${pid}/stat`).ms;
  return sum;
}

/** What {@link threadsMs} calls the thread that a process began with. */
export const MAIN_THREAD = "main";

/** CPU time of the threads that a process has now, ms, by their names; those of one name together. */
export function threadsMs(pid: number): ReadonlyMap<string, number> {
  const threads = new Map<string, number>();
  for (const id of readdirSync(`/proc/${pid}/task`)) {
    try {
      const { name, ms } = readStat(`/proc/${pid}/task/${id}/stat`);
      const key = id === String(pid) ? MAIN_THREAD : name;
      threads.set(key, (threads.get(key) ?? 0) + ms);
    } catch {
      // It has ended meanwhile.
    }
  }
  return threads;
}

/** Memory of whole processes, kB (proc(5): VmRSS). */
export function rssKb(pids: readonly number[]): number {
  let sum = 0;
  for (const pid of pids) sum += Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  return sum;
}

/** Bytes of all files below a folder. */
export function folderBytes(folder: string): number {
  let sum = 0;
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    const found = statSync(join(folder, name), { throwIfNoEntry: false });
    if (found?.isFile()) sum += found.size;
  }
  return sum;
}

/** µs on a clock that all processes of this machine share (CLOCK_MONOTONIC). */
export function nowUs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1_000_000 + Math.round(nanoseconds / 1_000);
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** @param sorted  in rising order. @param share  0.99: the value that 99 of 100 do not exceed */
export function percentile(sorted: ArrayLike<number>, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
