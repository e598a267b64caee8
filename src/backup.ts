/**
 * `GET /v1/backup`: a copy of the store while the server goes on, for `handover backup`. A copy is everybody's mail. So it is given to service keys
 * only, who can be any user anyway, and to this machine only: a key that was stolen does not empty the whole store from afar.
 * @module
 */
import type { FastifyInstance } from "fastify";
import { requireService } from "./auth.ts";
import { bearerToken } from "./cookie.ts";
import type { Engine } from "./engine.ts";
import { HandoverError } from "./errors.ts";
import type { Hub } from "./hub.ts";
import { isFromHere } from "./monitoring.ts";

export function backupRoute(app: FastifyInstance, engine: Engine, hub: Hub): void {
  app.get("/v1/backup", async (request, reply) => {
    requireService(await hub.authenticate(bearerToken(request.headers.authorization ?? "")));
    if (!isFromHere(request.raw))
      throw new HandoverError("forbidden", "A backup is given to its own machine only, and not through a proxy: run `handover backup` there.");
    if (!engine.backup) throw new HandoverError("unsupported", `The ${engine.name} engine has no backup of its own.`);
    const { bytes, content } = await engine.backup();
    return reply.type("application/vnd.sqlite3").header("Content-Length", bytes).send(content);
  });
}
