/**
 * Whose pages may use the server: the one rule for WebSocket upgrades, cookies and CORS.
 * @module
 */
import type { IncomingHttpHeaders } from "node:http";
import type { FastifyCorsOptions, FastifyCorsOptionsDelegateCallback } from "@fastify/cors";

/**
 * Whether pages of this origin may use the server.
 * @param origins  the exact allow-list; empty: only pages that the server's own host serves
 */
export function isAllowedOrigin(origins: readonly string[], origin: string, host: string | undefined): boolean {
  if (origins.length > 0) return origins.includes(origin);
  return isOwnOrigin(origin, host);
}

/** Where an open server answers pages of every origin: with a token of their own, never with the cookie. */
export function isOpenPath(url: string | undefined): boolean {
  return url?.startsWith("/v1/") ?? false;
}

/**
 * What `@fastify/cors` is told; undefined: nobody but the server's own pages may read its answers.
 * @param isOpen  without a list, pages of every origin may use {@link isOpenPath}
 */
export function corsOptions(
  origins: readonly string[],
  isOpen: boolean,
): FastifyCorsOptions | { delegator: FastifyCorsOptionsDelegateCallback } | undefined {
  const common: FastifyCorsOptions = {
    methods: ["GET", "POST", "DELETE"],
    allowedHeaders: ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "TTL", "Topic", "Urgency"],
    exposedHeaders: ["Location", "Retry-After"],
    maxAge: 7_200,
  };
  if (origins.length > 0) {
    // Credentials are allowed to those of the list only, and never with `*`.
    return { ...common, credentials: true, origin: (origin, done) => done(null, origin !== undefined && origins.includes(origin) ? origin : false) };
  }
  if (!isOpen) return undefined;
  return { delegator: (request, done) => done(null, { ...common, origin: isOpenPath(request.url) ? "*" : false }) };
}

/** Whether this is the origin of the server itself, under the name it was asked by; TLS may have ended at a proxy. */
export function isOwnOrigin(origin: string, host: string | undefined): boolean {
  return origin === `http://${host}` || origin === `https://${host}`;
}

/**
 * Whether a browser says that a page which may use the server makes this request. Scripts can set none of these headers.
 *
 * A browser leaves `Origin` out where it asks its own origin by GET (EventSource does); then `Sec-Fetch-Site` says so, and where the connection
 * is not secure, and it leaves that out too, `Referer`.
 * @see W3C Fetch Metadata, section 2.3; RFC 6454, section 7
 */
export function isFromAllowedPage(origins: readonly string[], headers: IncomingHttpHeaders): boolean {
  const { origin, host, referer } = headers;
  if (origin !== undefined) return isAllowedOrigin(origins, origin, host);
  const site = headers["sec-fetch-site"];
  if (site !== undefined) return site === "same-origin";
  return referer !== undefined && URL.canParse(referer) && isAllowedOrigin(origins, new URL(referer).origin, host);
}
