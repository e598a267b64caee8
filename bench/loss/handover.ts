/**
 * Handover in the loss table: the built command with its defaults; the SDK by WebSocket and by polling; for server-sent events, which the SDK does not
 * have yet, the small page that PROTOCOL.md asks for.
 * @module
 */
import { fileURLToPath } from "node:url";
import { connect, type SendOptions, type Transport } from "../../src/client/index.ts";
import { call, field, signToken } from "../../src/testing/wire.ts";
import { EventStream } from "../../src/testing/wire-sse.ts";
import type { Peer } from "./peer.ts";

const SECRET = "a secret for the loss table, of more than 32 bytes";
const COMMAND = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));

/** As the application's backend signs it: by the server's clock. */
function tokenOf(user: string, nowMs: () => number): string {
  return signToken(SECRET, { sub: user, sid: `session-of-${user}`, aud: "handover", exp: Math.floor(nowMs() / 1_000) + 600 });
}

const senderWith =
  (options: SendOptions): Peer["openSender"] =>
  async (url, nowMs) => {
    const sdk = connect<{ order: { n: number } }>(url, { token: () => tokenOf("sender", nowMs), onError: () => {} });
    return { send: (user, message) => sdk.send(user, "order", message, options), close: () => sdk.close() };
  };

const common: Pick<Peer, "packages" | "processes" | "openSender"> = {
  packages: [],
  processes: (port, dir) => [
    {
      command: process.execPath,
      args: [COMMAND, "serve", "--port", String(port), "--data", `${dir}/data`, "--log-level", "error"],
      env: { HANDOVER_TOKEN_SECRET: SECRET },
      port,
    },
  ],
  openSender: senderWith({}),
};

const withSdk = (transport: Transport, name: string): Peer => ({
  ...common,
  title: `Handover, ${name}`,
  async openPage({ url, user, handle, nowMs }) {
    const sdk = connect<{ order: { n: number } }>(url, { token: () => tokenOf(user, nowMs), transports: [transport], onError: () => {} });
    sdk.on("order", ({ data }) => handle(data.n));
    return { drop: () => void sdk.close() };
  },
});

/** @param isHasty  acknowledges before the handler has run: the control of the table */
const withEvents = (isHasty: boolean): Peer => ({
  ...common,
  title: isHasty ? "Handover, with a page that acknowledges before its handler has run" : "Handover, server-sent events",
  async openPage({ url, user, handle, nowMs }) {
    let isGone = false;
    let stream: EventStream | undefined;
    const known = new Map<string, Promise<void>>();
    const run = async () => {
      while (!isGone) {
        try {
          const token = tokenOf(user, nowMs);
          const now = await EventStream.open({ url, token });
          stream = now;
          if (isGone) await now.leave();
          const taken = new Set<string>();
          while (now.inbox.end === undefined) {
            await now.inbox.until(
              () => now.inbox.end !== undefined || now.inbox.deliveries.some(({ event }) => !taken.has(event.id)),
              "mail",
              3_600_000,
            );
            for (const { seq, event } of now.inbox.deliveries) {
              if (taken.has(event.id)) continue;
              taken.add(event.id);
              const ack = () => call(`${url}/v1/ack`, { token, body: { receiver: now.receiver, epoch: now.inbox.epoch, cursor: seq, seqs: [seq] } });
              // What this page has handled is not handled again, only acknowledged.
              const work = known.get(event.id) ?? handle(Number(field(event.data, "n")));
              known.set(event.id, work);
              void (isHasty ? ack() : work.then(ack)).catch(() => {});
            }
          }
        } catch {
          // Not there, or broken: again.
        }
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 1_000));
      }
    };
    void run();
    return {
      drop() {
        isGone = true;
        void stream?.leave();
      },
    };
  },
});

const websocket = withSdk("websocket", "WebSocket (SDK)");
export const HANDOVER: readonly Peer[] = [websocket, withEvents(false), withSdk("poll", "long polling (SDK)")];
/** Mistakes, and in which scenario the table must show a loss for them. */
export const CONTROLS: readonly (readonly [string, Peer])[] = [
  ["handler interrupted", withEvents(true)],
  ["offline for an hour", { ...websocket, title: "Handover, with messages that live 10 minutes", openSender: senderWith({ ttl: 600 }) }],
];
