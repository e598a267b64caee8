import type { Addressed } from "../../src/engine.ts";
import type { MessageId, UserId } from "../../src/protocol.ts";

/** A message that lives an hour. */
export function makeMessage(id: string, users: readonly string[], change: Partial<Addressed> = {}): Addressed {
  const acceptedAtMs = change.acceptedAtMs ?? Date.now();
  return {
    id: id as MessageId,
    source: "/users/alice",
    event: JSON.stringify({ specversion: "1.0", id, source: "/users/alice", type: "test", data: "x".repeat(100) }),
    acceptedAtMs,
    expiresAtMs: acceptedAtMs + 3600_000,
    ttlSeconds: 3600,
    recipients: users.map((user) => ({ user: user as UserId })),
    ...change,
  };
}
