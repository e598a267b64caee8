/**
 * Empty pages of other origins on this machine, over http and https; `*.localhost` is the browser's own machine under any name, and each such name
 * is a site of its own.
 * @module
 */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Pages {
  readonly port: number;
  /** The server to which everything under `/v1/` goes, as a proxy in front of it would pass it on. */
  target: string | undefined;
  stop(): Promise<void>;
}

/** Serves an empty page at `/page.html`. @param protocol  with `https`, under a certificate made by openssl that no browser trusts by itself */
export async function startPages(protocol: "http" | "https"): Promise<Pages> {
  const handle = (asked: IncomingMessage, response: ServerResponse) => {
    if (!pages.target || !asked.url?.startsWith("/v1/")) {
      response.setHeader("Content-Type", "text/html").end("<!doctype html><title>page</title>");
      return;
    }
    const onwards = request(pages.target + asked.url, { method: asked.method, headers: asked.headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    onwards.on("error", () => response.destroy());
    response.on("close", () => onwards.destroy());
    asked.pipe(onwards);
  };
  const server: Server = protocol === "http" ? createServer(handle) : createTlsServer(makeCertificate(), handle);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const pages: Pages = {
    port: (server.address() as AddressInfo).port,
    target: undefined,
    async stop() {
      server.close();
      server.closeAllConnections();
      if (server.listening) await once(server, "close");
    },
  };
  return pages;
}

/** A key and a certificate made by openssl, which no browser trusts by itself. */
export function makeCertificate(): { key: string; cert: string } {
  const folder = mkdtempSync(join(tmpdir(), "handover-tls-"));
  const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  const made = spawnSync(
    "openssl",
    ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", cert],
    { encoding: "utf8" },
  );
  if (made.status !== 0) throw new Error(`openssl made no certificate: ${made.stderr}`);
  const pair = { key: readFileSync(key, "utf8"), cert: readFileSync(cert, "utf8") };
  rmSync(folder, { recursive: true });
  return pair;
}
