/**
 * The cookie: the token of requests that can carry no header, which are EventSource's and sendBeacon's. It counts only for a request of which
 * the browser says that an allowed page makes it; a bearer token wins over it.
 * @module
 */
import type { IncomingHttpHeaders } from "node:http";
import type { FastifyInstance } from "fastify";
import { HandoverError } from "./errors.ts";
import { isAllowedOrigin, isFromAllowedPage, isOwnOrigin } from "./origin.ts";

const NAME = "handover";
/** Browsers throw larger ones away without a word (RFC 6265bis, section 5.6). */
const MAX_BYTES = 4_096;

/** The credential of an `Authorization` header, without `Bearer`; undefined when it is not one. */
export function bearerToken(header: string): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(header)?.[1];
}

/**
 * The token of the cookie; undefined when there is none.
 *
 * A cookie library would take one of two cookies of the same name; here they are refused, since a neighbouring host of the same domain can set the
 * second (RFC 6265, section 8.6).
 * @throws HandoverError bad-request, when it comes twice | token-invalid, when no allowed page makes the request
 */
export function cookieToken(origins: readonly string[], headers: IncomingHttpHeaders): string | undefined {
  const values = (headers.cookie ?? "").split(";").flatMap((pair) => {
    const [name, ...value] = pair.split("=");
    return name?.trim() === NAME ? [value.join("=").trim()] : [];
  });
  if (values.length > 1)
    throw new HandoverError("bad-request", `The cookie ${NAME} comes twice; which of them is meant? Remove both, and ask again.`);
  if (values.length === 1 && !isFromAllowedPage(origins, headers)) {
    throw new HandoverError("token-invalid", "The cookie counts for requests of allowed pages only. Send `Authorization: Bearer <token>`.");
  }
  return values[0];
}

/** `POST /v1/cookie`: keeps the request's bearer token in the browser. For the routes that know who is asking. */
export function cookieRoute(app: FastifyInstance, origins: readonly string[]): void {
  app.post("/v1/cookie", async ({ identity, headers }, reply) => {
    const token = headers.authorization === undefined ? undefined : bearerToken(headers.authorization);
    if (token === undefined) throw new HandoverError("token-invalid", "The cookie is made from a token: send `Authorization: Bearer <token>`.");
    if (identity.kind !== "user") throw new HandoverError("forbidden", "A service key is not for browsers; make a session and use its token.");
    const seconds = Math.max(0, Math.floor((identity.expiresAtMs - Date.now()) / 1000));
    return reply
      .code(204)
      .header("Set-Cookie", writeCookie(origins, headers, token, seconds))
      .send();
  });
}

/** `DELETE /v1/cookie`: needs no token, since a page also takes away what is no longer good. */
export function cookieRemovalRoute(app: FastifyInstance, origins: readonly string[]): void {
  app.delete("/v1/cookie", async ({ headers }, reply) =>
    reply
      .code(204)
      .header("Set-Cookie", writeCookie(origins, headers, "", 0))
      .send(),
  );
}

/**
 * The `Set-Cookie` for the page that asks. `SameSite=Strict` unless the page is of another site: there a browser keeps `SameSite=None` only, and that
 * only over https. Where third-party cookies are blocked it keeps a `Partitioned` one only: it then counts under that page's site and no other.
 * @throws HandoverError forbidden | invalid
 * @see RFC 6265bis, sections 5.5 and 5.6; draft-cutler-httpbis-partitioned-cookies
 */
function writeCookie(origins: readonly string[], headers: IncomingHttpHeaders, token: string, seconds: number): string {
  const { origin, host } = headers;
  if (origin !== undefined && !isAllowedOrigin(origins, origin, host)) {
    throw new HandoverError("forbidden", "Pages of this origin may not use the server; HANDOVER_ORIGINS lists those that may.");
  }
  const isSecure = origin?.startsWith("https://") ?? false;
  const site = headers["sec-fetch-site"];
  const isOtherSite = origin !== undefined && !isOwnOrigin(origin, host) && site !== "same-origin" && site !== "same-site";
  if (isOtherSite && !isSecure && site === "cross-site") {
    throw new HandoverError("invalid", "No browser keeps a cookie for a page of another site that is not served over https. Use the token.");
  }
  const scope = isOtherSite && isSecure ? "SameSite=None; Secure; Partitioned" : `SameSite=Strict${isSecure ? "; Secure" : ""}`;
  const cookie = `${NAME}=${token}; HttpOnly; Path=/v1; Max-Age=${seconds}; ${scope}`;
  if (cookie.length > MAX_BYTES) {
    throw new HandoverError(
      "invalid",
      `The token is too long for a cookie, which browsers keep up to ${MAX_BYTES} bytes of. Leave claims out of it.`,
    );
  }
  return cookie;
}
