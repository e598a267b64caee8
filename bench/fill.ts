/**
 * Stores with much in them.
 * @module
 */
import { folder } from "./start.ts";
import { startHandover, UNCAPPED } from "./systems/handover.ts";
import { bodyOf } from "./wire.ts";
import { token } from "./wires/handover.ts";
import { HttpConnection } from "./wires/http.ts";

const CONNECTIONS = 8;
const MOST = 100;

/** Sends `count` messages of 300 bytes, the n-th to `userOf(n)`. */
export async function fill(address: string, count: number, userOf: (n: number) => string): Promise<void> {
  let n = 0;
  const work = async (_none: unknown, sender: number) => {
    const connection = await HttpConnection.open(address, await token(`filler-${sender}`));
    while (n < count) {
      const from = n;
      n = Math.min(count, n + MOST);
      const messages = Array.from(
        { length: n - from },
        (_each, k) => `{"to":{"user":"${userOf(from + k)}"},"type":"bench","data":${bodyOf(sender, from + k)}}`,
      );
      const { status, text } = await connection.post("/v1/messages", `[${messages.join(",")}]`);
      if (status !== 201) throw new Error(`${status} ${text}`);
    }
    connection.close();
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, work));
}

let crowd: Promise<string> | undefined;

/** A data folder with so many mailboxes of one waiting message each, as `kill -9` left it; made once a run, and removed at its end. */
export function crowdFolder(mailboxes: number): Promise<string> {
  crowd ??= (async () => {
    const own = folder("crowd");
    const server = await startHandover({ data: own.path, env: UNCAPPED });
    await fill(server.address, mailboxes, (n) => `crowd-${n}`);
    await server.kill();
    return own.path;
  })();
  return crowd;
}
