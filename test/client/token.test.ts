import { describe, expect, it, vi } from "vitest";
import type { Transport } from "../../src/client/index.ts";
import { rig, until } from "./rig.ts";

const test = rig();

/** A token as the server makes them, unsigned: only the SDK reads it here. */
function jwt(expiresInMs: number): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ sub: "ünä", exp: (Date.now() + expiresInMs) / 1000 })}.x`;
}

describe("tokens", () => {
  it.each<Transport>(["websocket", "sse", "poll"])(
    "[C19] over %s: a refused token is asked for anew, once, and the connection comes back",
    async (transport) => {
      const { server } = test;
      server.refusedTokens.add("old");
      const tokens = ["old", "new"];
      const asked: string[] = [];
      const handover = test.connect({
        transports: [transport],
        token: () => {
          const token = tokens.shift() ?? "none";
          asked.push(token);
          return Promise.resolve(token);
        },
      });
      await until(() => expect(handover.status.state).toBe("online"));
      await handover.send("bob", "order");
      expect(asked).toEqual(["old", "new"]);
    },
  );

  it.each<readonly [readonly Transport[]]>([[["websocket"]], [["sse"]], [["poll"]], [["websocket", "sse", "poll"]]])(
    "[C19] over %s: a token that is refused again stops it, with the error, and no loop",
    async (transports) => {
      const { server } = test;
      server.refusedTokens.add("bad");
      const token = vi.fn(() => "bad");
      const handover = test.connect({ transports, token });
      const sending = handover.send("bob", "order");
      await expect(sending).rejects.toMatchObject({ code: "token-invalid" });
      expect(handover.status).toMatchObject({ state: "closed", error: { code: "token-invalid", retryable: false } });
      expect(token).toHaveBeenCalledTimes(2);
      const said = server.asked.length + server.upgrades;
      await expect(handover.send("bob", "order")).rejects.toMatchObject({ code: "token-invalid" });
      expect(server.asked.length + server.upgrades).toBe(said);
    },
  );

  it("[C19] a session whose token ends while connected asks for a new one and comes back", async () => {
    const { server } = test;
    let asked = 0;
    const handover = test.connect({ token: () => `token-${++asked}` });
    await until(() => expect(handover.status.state).toBe("online"));
    server.refusedTokens.add("token-1");
    server.closeSockets(4401);
    await until(() => expect(server.hellos.at(-1)?.token).toBe("token-2"));
    await until(() => expect(handover.status.state).toBe("online"));
  });

  it("[C19] over polling a send with a token that has just ended is made again with a new one", async () => {
    const { server } = test;
    let asked = 0;
    const handover = test.connect({ transports: ["poll"], token: () => `token-${++asked}`, timing: { pollWaitMs: 60_000 } });
    await until(() => expect(handover.status.state).toBe("online"));
    await until(() => expect(server.heldPolls).toBe(1));
    server.refusedTokens.add("token-1");
    await handover.send("bob", "order");
    expect(server.stored.size).toBe(1);
    expect(asked).toBe(2);
  });

  it("[C19] comes back when token() fails, and says why it is offline", async () => {
    let asked = 0;
    const handover = test.connect({
      token: () => {
        if (++asked < 3) throw new Error("backend is down");
        return "token-1";
      },
    });
    await until(() => expect(handover.status).toMatchObject({ state: "offline", error: { code: "token-failed" } }));
    expect(handover.status.error?.message).toContain("backend is down");
    await until(() => expect(handover.status.state).toBe("online"));
    expect(asked).toBe(3);
  });

  it("[C26] a token is kept until it is about to end", async () => {
    const { server } = test;
    const tokens = [jwt(400), jwt(3_600_000), "never"];
    let asked = 0;
    test.connect({ transports: ["websocket"], token: () => tokens[asked++] ?? "" });
    for (let connections = 1; connections <= 4; connections++) {
      await until(() => expect(server.hellos).toHaveLength(connections));
      // Two thirds of the first one's time.
      if (connections === 1) await new Promise((resolve) => setTimeout(resolve, 270));
      server.cut();
    }
    await until(() => expect(server.hellos).toHaveLength(5));
    expect(server.hellos.map((hello) => tokens.indexOf(hello.token))).toEqual([0, 1, 1, 1, 1]);
    expect(asked).toBe(2);
  });
});
