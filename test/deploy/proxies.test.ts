/**
 * A server behind nginx and behind Apache, each as deploy/ has it: TLS, and every transport.
 * @module
 */
import { request } from "node:https";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { call, field, WEBSOCKET, type Wire } from "../../src/testing/wire.ts";
import { LONG_POLLING } from "../../src/testing/wire-poll.ts";
import { SSE } from "../../src/testing/wire-sse.ts";
import { watchLinks } from "../support/held.ts";
import { both, describeWith, OPENSSL } from "../support/needs.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "../support/started.ts";
import { formOf, newName, pollOf } from "../x0/tab.ts";
import { PROXIES, type ProxyServer, startProxy } from "./proxy.ts";

const PATH = "/python/MsgHandler.py";
/** The proxy's. Clients of these tests that shall be somebody else come from another address of this machine. */
const PROXY_ADDRESS = "127.0.0.1";
const CLIENT_ADDRESS = "127.0.0.2";
/** How long a poll is held for here, s; 60 is what the protocol allows. */
const HELD_SECONDS = Number(process.env.PROXY_POLL_SECONDS ?? 2);
const WIRES: readonly Wire[] = [WEBSOCKET, SSE, LONG_POLLING];

const links = watchLinks();

describe.each(["nginx", "apache"] as const)("%s", (name) => {
  describeWith(both(PROXIES[name], OPENSSL), `a server behind ${name}`, () => {
    let started: Started;
    let proxy: ProxyServer;
    beforeAll(async () => {
      started = await start("sqlite", { x0: "demo", trustedProxies: PROXY_ADDRESS });
      proxy = await startProxy(name, started.url);
      setDefaultCACertificates([...getCACertificates("default"), proxy.certificate]);
    });
    afterAll(async () => {
      // First, since Apache waits for what it has asked.
      await started.stop();
      await proxy?.stop();
    });

    it.each(WIRES)("[O1] $kind: what is sent through the proxy is delivered at once, acknowledged, and gone", async (wire) => {
      const user = `${name}-${wire.kind}`;
      const receiver = await wire.openReceiver({ url: proxy.url, token: started.token(user), receiver: "r", epoch: undefined, cursor: 0 });
      for (let n = 0; n < 3; n++) {
        const { status, body } = await call(`${proxy.url}/v1/messages`, {
          token: SERVICE_CREDENTIAL,
          body: { to: { user }, type: "t", data: { n } },
        });
        expect(status).toBe(201);
        await receiver.until(() => receiver.deliveries.length === n + 1, `delivery ${n}`);
        expect(await receiver.ack({ upto: receiver.deliveries[n]?.seq ?? 0 })).toBe(1);
        const state = await call(`${proxy.url}/v1/messages/${field(body, "id")}`, { token: SERVICE_CREDENTIAL });
        expect(field((field(state.body, "recipients") as unknown[])[0], "state")).toBe("acked");
      }
      await receiver.leave();
    });

    it("[O2] a poll without mail is held to its end", { timeout: (HELD_SECONDS + 15) * 1_000 }, async () => {
      const startedMs = performance.now();
      const { status } = await call(`${proxy.url}/v1/poll`, { token: started.token("idle"), body: { receiver: "r", wait: HELD_SECONDS } });
      expect(status).toBe(204);
      expect(performance.now() - startedMs).toBeGreaterThan(HELD_SECONDS * 1_000 - 50);
    });

    // Apache does not look whether its client is still there.
    if (name === "nginx") {
      it("[O2] a poll whose client leaves is let go at the server", async () => {
        const stop = new AbortController();
        const poll = call(`${proxy.url}/v1/poll`, { token: started.token("leaving"), body: { receiver: "r", wait: 60 }, signal: stop.signal });
        await links.opened("leaving", 1);
        stop.abort();
        await expect(poll).rejects.toThrow();
        await links.closed("leaving", 1);
      });
    }

    it("[O3] preflights of x0 reach the server, and its answers the page: header by header as without a proxy", async () => {
      const headers = {
        Origin: "http://x0-app.x0.localnet",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "cache-control,content-type,upgrade-insecure-requests",
      };
      const asked = { method: "OPTIONS", headers };
      const [direct, through] = await Promise.all([started.url, proxy.url].map((url) => call(`${url}${PATH}?a__=1`, asked)));
      expect([direct?.status, through?.status]).toEqual([200, 200]);
      for (const header of ["access-control-allow-origin", "access-control-allow-headers", "content-type", "content-length"]) {
        expect([header, through?.headers.get(header)]).toEqual([header, direct?.headers.get(header)]);
      }
    });

    it("[O4] browsers are told apart by the address from which they reach the proxy, whatever they claim themselves", async () => {
      /** A poll from that address. @returns how long it was held, ms; undefined when it was cut before */
      const poll = (session: string, claimed: string, stop: AbortSignal) =>
        new Promise<number | undefined>((resolve) => {
          const startedMs = performance.now();
          const headers = { "Content-Type": "application/json", "User-Agent": "the same", "X-Forwarded-For": claimed };
          const address = { localAddress: CLIENT_ADDRESS, signal: stop, ca: proxy.certificate };
          const asked = request(`${proxy.url}${PATH}?a__=${newName()}`, { method: "POST", headers, ...address }, (answer) => {
            answer.resume();
            answer.on("end", () => resolve(performance.now() - startedMs));
            answer.on("error", () => resolve(undefined));
          });
          asked.on("error", () => resolve(undefined));
          asked.end(JSON.stringify(pollOf(session)));
        });
      const stop = new AbortController();
      const four = [1, 2, 3, 4].map((n) => poll(`${name}-claims-${n}`, `192.0.2.${n}`, stop.signal));
      for (const n of [1, 2, 3, 4]) await links.opened(`${name}-claims-${n}`, 1);
      expect(await poll(`${name}-claims-5`, "192.0.2.5", stop.signal)).toBeLessThan(5_000);
      stop.abort();
      expect(await Promise.all(four)).toEqual([undefined, undefined, undefined, undefined]);
    });

    it("[O5] what is too large for the server, and cookies of the site that are, are no reason for an answer that x0's page does not know", async () => {
      const large = await call(`${proxy.url}${PATH}?a__=${newName()}`, { body: formOf("a", "large", { text: "x".repeat(3_000_000) }) });
      expect([large.status, field(large.body, "exception_id")]).toEqual([200, "too-large"]);
      const headers = { Cookie: `site=${"x".repeat(6_000)}; more=${"y".repeat(1_500)}` };
      const small = await call(`${proxy.url}${PATH}?a__=${newName()}`, { body: formOf("a", "small", { n: 1 }), headers });
      expect([small.status, field(small.body, "status")]).toEqual([200, "ok"]);
    });
  });
});
