// Faye, with its memory engine and with the Redis engine that its documentation names for state outside of the process ("Engines").
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { redis } from "./redis.mjs";

const require = createRequire(import.meta.url);
const faye = require("faye");

/** "Setting up": a time-out above the server's, and an interval for retries. Sends are retried without end unless told otherwise ("Controlling dispatch"). */
const CLIENT = { timeout: 120, retry: 1 };

const peer = (engine) => ({
  title: engine === "redis" ? "Faye, Redis engine" : "Faye, memory engine",
  packages: engine === "redis" ? ["faye", "faye-redis"] : ["faye"],
  programs: engine === "redis" ? [["redis-server", "--version"]] : [],
  processes(port, dir, anotherPort) {
    const isRedis = engine === "redis";
    const node = { command: process.execPath, args: [import.meta.filename, `${port}`, ...(isRedis ? [`${anotherPort}`] : [])], port };
    return isRedis ? [redis(anotherPort, dir), node] : [node];
  },
  async openPage({ url, user, handle }) {
    const client = new faye.Client(`${url}/faye`, CLIENT);
    const subscription = client.subscribe(`/users/${user}`, (message) => void handle(message.n));
    subscription.then(
      () => {},
      () => {},
    );
    return { drop: () => client.disconnect() };
  },
  async openSender(url) {
    const client = new faye.Client(`${url}/faye`, CLIENT);
    return { send: (user, message) => client.publish(`/users/${user}`, message), close: () => client.disconnect() };
  },
});
export const peers = [peer("memory"), peer("redis")];

if (process.argv[1] === import.meta.filename) {
  const [port, redisPort] = process.argv.slice(2).map(Number);
  const engine = redisPort ? { engine: { type: require("faye-redis"), host: "127.0.0.1", port: redisPort } } : {};
  const http = createServer();
  new faye.NodeAdapter({ mount: "/faye", timeout: 45, ...engine }).attach(http);
  http.listen(port, "127.0.0.1");
}
