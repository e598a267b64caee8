/** Something that comes due at a time; among several of the same time, the one with the lowest `order` first. */
export interface Due {
  dueMs: number | undefined;
  readonly order: string;
}

interface Item<T> {
  readonly dueMs: number;
  readonly thing: T;
}

/** Things that come due, the earliest first: a binary heap. What has lost its time meanwhile is passed over. */
export class DueQueue<T extends Due> {
  #heap: Item<T>[] = [];
  #stale = 0;

  /** Sets or takes away a thing's time. */
  set(thing: T, dueMs: number | undefined): void {
    if (thing.dueMs !== undefined) this.#stale += 1;
    thing.dueMs = dueMs;
    if (dueMs !== undefined) this.#push({ dueMs, thing });
    if (this.#stale > 1_000 && this.#stale * 2 > this.#heap.length) {
      const live = this.#heap.filter((item) => item.thing.dueMs === item.dueMs);
      this.#heap = [];
      this.#stale = 0;
      for (const item of live) this.#push(item);
    }
  }

  /** The earliest time, or undefined. */
  nextMs(): number | undefined {
    for (let first = this.#heap[0]; first; first = this.#heap[0]) {
      if (first.thing.dueMs === first.dueMs) return first.dueMs;
      this.#pop();
      this.#stale -= 1;
    }
    return undefined;
  }

  /** Takes out the earliest thing that is due at `nowMs`. */
  take(nowMs: number): T | undefined {
    const nextMs = this.nextMs();
    if (nextMs === undefined || nextMs > nowMs) return undefined;
    const thing = this.#pop()?.thing;
    if (thing) thing.dueMs = undefined;
    return thing;
  }

  #push(item: Item<T>): void {
    const heap = this.#heap;
    let at = heap.length;
    while (at > 0) {
      const up = (at - 1) >> 1;
      const parent = heap[up];
      if (!parent || !isBefore(item, parent)) break;
      heap[at] = parent;
      at = up;
    }
    heap[at] = item;
  }

  #pop(): Item<T> | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (heap.length === 0 || !last) return first;
    let at = 0;
    for (;;) {
      const left = at * 2 + 1;
      const right = left + 1;
      const down = isBefore(heap[right], heap[left]) ? right : left;
      const child = heap[down];
      if (!child || !isBefore(child, last)) break;
      heap[at] = child;
      at = down;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore<T extends Due>(one: Item<T> | undefined, other: Item<T> | undefined): boolean {
  if (!one || !other) return one !== undefined;
  return one.dueMs === other.dueMs ? one.thing.order < other.thing.order : one.dueMs < other.dueMs;
}
