/**
 * `GET /metrics`, and who may read it. The numbers say nothing of users, but how much mail there is and how busy the server is are not
 * everybody's business.
 * @module
 */
import type { IncomingMessage } from "node:http";
import type { FastifyInstance } from "fastify";
import { requireService } from "./auth.ts";
import type { Config } from "./config.ts";
import { bearerToken } from "./cookie.ts";
import type { Engine } from "./engine.ts";
import { HandoverError } from "./errors.ts";
import type { Hub } from "./hub.ts";
import type { Metrics } from "./metrics.ts";

export interface MonitoringOptions {
  readonly access: Config["metrics"];
  readonly metrics: Metrics;
  readonly engine: Engine;
  readonly hub: Hub;
  /** How many WebSockets are open. */
  readonly webSockets: () => number;
  /** Whether the store has not failed. */
  readonly isReady: () => boolean;
}

/** What proxies add: whoever asked them is not on this machine, although they are. */
const PROXY_HEADERS = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];

/** Serves the metrics to those who may read them. */
export function metricsRoute(app: FastifyInstance, options: MonitoringOptions): void {
  const { access, metrics, engine, hub } = options;
  if (access === "off") return;
  app.get("/metrics", async (request, reply) => {
    if (access !== "open" && !(access === "local" && isFromHere(request.raw))) {
      try {
        requireService(await hub.authenticate(bearerToken(request.headers.authorization ?? "")));
      } catch (thrown) {
        if (!(thrown instanceof HandoverError) || thrown.code === "forbidden") throw thrown;
        throw new HandoverError(
          thrown.code,
          "The metrics are read with a service key as bearer token, or from this machine; HANDOVER_METRICS says which.",
        );
      }
    }
    const [connections, totals] = await Promise.all([
      new Promise<number>((resolve) => app.server.getConnections((_error, count) => resolve(count ?? 0))),
      // A store that has failed cannot say; everything else still can be read.
      engine.totals().catch(() => undefined),
    ]);
    const isReady = options.isReady() && !hub.isDraining && !hub.isStoreFull;
    const text = await metrics.text({ totals, isReady, census: hub.census(), connections, webSockets: options.webSockets() });
    return reply.type(metrics.contentType).send(text);
  });
}

/**
 * Whether somebody on this machine asks, and asks us: not a proxy on behalf of others, and not a page in a browser here, which could name
 * this address as its own (DNS rebinding) but sends its name as `Host`.
 */
export function isFromHere({ socket, headers }: IncomingMessage): boolean {
  if (!/^(::ffff:)?127\.|^::1$/.test(socket.remoteAddress ?? "")) return false;
  if (PROXY_HEADERS.some((name) => headers[name] !== undefined)) return false;
  return /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i.test(headers.host ?? "");
}
