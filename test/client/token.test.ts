import { describe, expect, it, vi } from "vitest";
import type { Transport } from "../../src/client/index.ts";
import { gate, rig, until } from "./rig.ts";

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

describe("a token that is about to end", () => {
  /** Of a session; the same one unless said. */
  const token = (user: string, session: string, seconds: number) => {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const now = Math.floor(Date.now() / 1000);
    return `${part({ alg: "none" })}.${part({ sub: user, sid: session, iat: now, exp: now + seconds })}.${Math.random()}`;
  };

  it("[C62] is replaced on the WebSocket, in band, and nothing else happens", async () => {
    const { server } = test;
    const given: string[] = [];
    const handover = test.connect({
      token: () => {
        given.push(token("ann", "s1", 2));
        return given.at(-1) ?? "";
      },
    });
    await until(() => expect(server.renewals).toHaveLength(2));
    expect(server.renewals).toEqual(given.slice(1, 3));
    expect(server.hellos).toHaveLength(1);
    expect(test.statuses.map(({ state }) => state)).toEqual(["online"]);
    expect(handover.status.state).toBe("online");
  });

  it.each<readonly [Transport, string]>([
    ["sse", "of the same session"],
    ["websocket", "of another session"],
  ])("[C62] over %s, a token %s: another connection takes the place of the old one before that is closed", async (transport, kind) => {
    const { server } = test;
    const got: unknown[] = [];
    let asked = 0;
    const source = () => token("ann", kind === "of the same session" ? "s1" : `s${++asked}`, 2);
    const handover = test.connect({ transports: [transport], token: source });
    handover.on("order", (message) => got.push(message.data));
    let next = 0;
    const sends: Promise<unknown>[] = [];
    const traffic = setInterval(() => {
      server.put("order", next);
      sends.push(handover.send("bob", "order", next++));
    }, 10);
    await until(() => expect(server.asked).toHaveLength(3));
    clearInterval(traffic);
    await Promise.all(sends);
    await until(() => expect(server.entries).toEqual([]));
    expect(got).toEqual(Array.from({ length: next }, (_, index) => index));
    expect(server.stored.size).toBe(next);
    expect(test.statuses.map(({ state }) => state)).toEqual(["online"]);
    expect(new Set(server.asked.map(({ receiver }) => receiver)).size).toBe(3);
  });

  it("[C62] counts by the time that it was given for, where this device's clock is wrong", async () => {
    const { server } = test;
    const now = Date.now();
    const clock = vi.spyOn(Date, "now").mockImplementation(() => now + 86_400_000 + performance.now());
    const source = vi.fn(() => {
      const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
      return `x.${part({ sub: "ann", sid: "s", iat: now / 1000, exp: now / 1000 + 600 })}.x`;
    });
    const handover = test.connect({ token: source, transports: ["poll"], timing: { pollWaitMs: 50 } });
    await until(() => expect(server.polls.length).toBeGreaterThan(3));
    await handover.send("bob", "order");
    clock.mockRestore();
    expect(source).toHaveBeenCalledTimes(1);
  });

  it("[C19] several requests that are refused together ask once", async () => {
    const { server } = test;
    let asked = 0;
    const handover = test.connect({ transports: ["poll"], token: () => `token-${++asked}`, timing: { pollWaitMs: 60_000 } });
    handover.on("order", () => {});
    await until(() => expect(server.heldPolls).toBe(1));
    server.refusedTokens.add("token-1");
    server.put("order", 1);
    await Promise.all([handover.send("bob", "order"), handover.state("known"), handover.state("known")]);
    await until(() => expect(server.entries).toEqual([]));
    expect(asked).toBe(2);
  });

  it.each<Transport>(["websocket", "sse", "poll"])(
    "[C63] over %s, of another user: what waits is refused, and that user's mail begins anew, with nothing of the last one's",
    async (transport) => {
      const { server } = test;
      let user = "ann";
      const got: unknown[] = [];
      const handover = test.connect({
        transports: [transport],
        token: () => token(user, user, user === "ann" ? 2 : 600),
        timing: { pollWaitMs: 300 },
      });
      const work = gate();
      handover.on("order", (message) => {
        got.push(message.data);
        return message.data === "slow" ? work.opened : undefined;
      });
      server.put("order", "same", { id: "to-both" });
      server.put("order", "slow");
      await until(() => expect(got).toEqual(["same", "slow"]));
      await until(() => expect(handover.status.state).toBe("online"));
      server.fateOfSend = () => "mute";
      const waiting = handover.send("bob", "order", "from Ann");
      user = "bob";
      await expect(waiting).rejects.toMatchObject({ code: "user-changed" });
      server.fateOfSend = () => "answer";
      server.acks.length = 0;
      server.renumber("bobs");
      server.put("order", "same", { id: "to-both" });
      await until(() => expect(got).toContain("same"));
      await handover.send("ann", "order", "from Bob");
      work.open();
      await until(() => expect(got.filter((data) => data === "same")).toHaveLength(2));
      expect(server.sends.filter(({ data }) => data === "from Ann")).toHaveLength(1);
      expect(server.acks.every(({ epoch }) => epoch === "bobs")).toBe(true);
    },
  );
});
