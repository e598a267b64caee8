/**
 * When a poll is held, and when it is let go: seen from inside, since nothing on the wire says so.
 * @module
 */
import { vi } from "vitest";
import { Hub } from "../../src/hub.ts";

export interface Watch {
  /** Resolves when that user has opened so many links, polls included, since the watch began. */
  opened(user: string, count: number): Promise<void>;
  /** Resolves when so many of them have ended. */
  closed(user: string, count: number, withinMs?: number): Promise<void>;
}

/** Watches the hub of this process. */
export function watchLinks(): Watch {
  const opens = new Map<string, number>();
  const ends = new Map<string, number>();
  const count = (counts: Map<string, number>, user: string) => counts.set(user, (counts.get(user) ?? 0) + 1);
  const open = Hub.prototype.open;
  vi.spyOn(Hub.prototype, "open").mockImplementation(async function (this: Hub, identity, link, resume) {
    const channel = await open.call(this, identity, link, resume);
    count(opens, identity.user);
    const closed = channel.closed.bind(channel);
    channel.closed = (isReturning) => {
      closed(isReturning);
      count(ends, identity.user);
    };
    return channel;
  });
  const reached = (counts: Map<string, number>, user: string, wanted: number, withinMs = 5_000) =>
    vi.waitFor(
      () => {
        if ((counts.get(user) ?? 0) < wanted) throw new Error(`${user}: ${counts.get(user) ?? 0} of ${wanted} links`);
      },
      { timeout: withinMs, interval: 2 },
    );
  return { opened: (user, wanted) => reached(opens, user, wanted), closed: (user, wanted, withinMs) => reached(ends, user, wanted, withinMs) };
}
