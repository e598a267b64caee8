// Loaded into a server (node --import) it has the clock go ahead by so many ms: a day passes between two starts.
const aheadMs = Number(process.env.BENCH_AHEAD_MS ?? 0);
const now = Date.now.bind(Date);

globalThis.Date = class extends Date {
  constructor(...values: [] | [number | string | Date]) {
    if (values.length === 0) super(now() + aheadMs);
    else super(...values);
  }
  static override now(): number {
    return now() + aheadMs;
  }
} as DateConstructor;
