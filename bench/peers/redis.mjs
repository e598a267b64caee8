// A Redis that keeps what it was told when it is killed: "Redis persistence" of its documentation, append-only file, synced with every write.
/** @returns the process, for those that keep their data in it */
export function redis(port, dir) {
  const args = ["--port", `${port}`, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
  // libfaketime does not get on with its allocator. Its clock matters to none of those that use it here: faye-redis writes times of its own, and
  // Socket.IO's sessions of 24 hours are there after an hour by either clock.
  return { command: "redis-server", args, port, keepsTime: true };
}
