/**
 * What becomes of a message on x0's wire: when it counts as processed, and when it comes again.
 * @module
 */
import { setTimeout as pause } from "node:timers/promises";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { call, field } from "../../src/testing/wire.ts";
import { watchLinks } from "../support/held.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "../support/started.ts";
import { directOf, formOf, newName, pollOf, setDataOf, Tab, valuesOf } from "./tab.ts";

const links = watchLinks();
let demo: Started;
let registered: Started;
beforeAll(async () => {
  demo = await start("sqlite", { x0: "demo" });
  registered = await start("sqlite", { x0: "registered" });
});
afterAll(async () => {
  await demo.stop();
  await registered.stop();
});

const tab = () => new Tab(demo.url);

/** Sends as a backend would. @returns the message's id */
async function send(user: string, n: number, server = demo): Promise<string> {
  const answer = await call(`${server.url}/v1/messages`, {
    token: SERVICE_CREDENTIAL,
    body: { to: { user }, type: "x0.set-data", data: { "dst-object": "FormlistExchangeData", payload: { n } } },
  });
  expect(answer.status).toBe(201);
  return String(field(answer.body, "id"));
}

async function stateOf(id: string, server = demo): Promise<unknown> {
  const { body } = await call(`${server.url}/v1/messages/${id}`, { token: SERVICE_CREDENTIAL });
  return field((field(body, "recipients") as unknown[])[0], "state");
}

const becomes = (id: string, state: string, server = demo) =>
  vi.waitFor(async () => expect(await stateOf(id, server)).toBe(state), { timeout: 5_000 });

/** Lets the server learn that this page takes its time, so that a busy machine does not make it late. */
async function slowDown(page: Tab, session: string): Promise<void> {
  await send(session, 0);
  for (let times = 0; times < 3; times++) {
    expect(valuesOf(await page.poll(session))).toEqual([{ n: 0 }]);
    await pause(160);
  }
  const sent = await page.begin(pollOf(session));
  await becomes(await send(session, 0), "waiting");
  await sent.answer;
  await page.post({ type: "DEL", session_src: session });
}

/** A token for one page load of a user, as a backend mints it. */
async function pageLoad(user: string, scope = "receive send:user:* x0:page-load"): Promise<string> {
  const { body } = await call(`${registered.url}/v1/sessions`, { token: SERVICE_CREDENTIAL, body: { user, scope } });
  return String(field(body, "token"));
}

test("[X19] handing out removes nothing; the page's next poll, soon after, does, and the sender sees it", async () => {
  const page = tab();
  await slowDown(page, "next");
  const id = await send("next", 1);
  expect(valuesOf(await page.poll("next"))).toEqual([{ n: 1 }]);
  expect(await stateOf(id)).toBe("waiting");
  const next = await page.begin(pollOf("next"));
  await becomes(id, "acked");
  await send("next", 2);
  expect(valuesOf(await next.answer)).toEqual([{ n: 2 }]);
});

test("[X20] a poll whose connection closes hands nothing away: the page that comes back gets the mail", async () => {
  const page = tab();
  const held = await page.begin(pollOf("closed"));
  await links.opened("closed", 1);
  held.cut();
  const id = await send("closed", 1);
  expect(await stateOf(id)).toBe("waiting");
  expect(valuesOf(await tab().poll("closed"))).toEqual([{ n: 1 }]);
  expect(await stateOf(id)).toBe("waiting");
});

test("[X21] a poll that comes late, or from another browser, or was on its way before the answer, is given everything unsettled again", async () => {
  const id = await send("again", 1);
  const page = tab();
  expect(valuesOf(await page.poll("again"))).toEqual([{ n: 1 }]);
  await pause(120);
  expect(valuesOf(await page.poll("again")), "late").toEqual([{ n: 1 }]);
  expect(valuesOf(await tab().poll("again")), "another browser").toEqual([{ n: 1 }]);
  expect(await stateOf(id)).toBe("waiting");

  const early = await send("early", 1);
  const [one, other] = [tab(), tab()];
  const name = newName();
  await other.ask("OPTIONS", name).answer;
  expect(valuesOf(await one.poll("early"))).toEqual([{ n: 1 }]);
  expect(valuesOf(await other.ask("POST", name, pollOf("early")).answer), "before").toEqual([{ n: 1 }]);
  expect(await stateOf(early)).toBe("waiting");
});

test("[X22] a message answered late three times running counts as processed: a slow page gets past it", async () => {
  const ids = [await send("slow", 1), await send("slow", 2)];
  const page = tab();
  const got: unknown[] = [];
  while (got.length < 4) {
    got.push(...valuesOf(await page.poll("slow")));
    await pause(100);
  }
  // From then on it is known how slow it is.
  expect(got).toEqual([{ n: 1 }, { n: 1 }, { n: 1 }, { n: 2 }]);
  await becomes(String(ids[0]), "acked");
  (await page.begin(pollOf("slow"))).cut();
  await becomes(String(ids[1]), "acked");
});

test("[X22] a page that is late for every answer, on a connection of its own each, gets past every message", { timeout: 30_000 }, async () => {
  for (let n = 0; n < 3; n++) await send("pooled", n);
  const got: unknown[] = [];
  while (got.length < 9) {
    const page = tab();
    got.push(...valuesOf(await page.poll("pooled")));
    page.close();
  }
  expect(got).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2].map((n) => ({ n })));
});

test("[X23] with a token per page load the next poll acknowledges, however late and on whatever connection; another page load gets what was not", async () => {
  const id = await send("loads", 1, registered);
  const page = new Tab(registered.url);
  const token = await pageLoad("loads");
  expect(valuesOf(await page.poll(token))).toEqual([{ n: 1 }]);
  expect(valuesOf(await new Tab(registered.url).poll(await pageLoad("loads"))), "reloaded").toEqual([{ n: 1 }]);
  expect(await stateOf(id, registered)).toBe("waiting");
  await pause(700);
  page.close();
  (await page.begin(pollOf(token))).cut();
  await becomes(id, "acked", registered);
});

test("[X23] without the scope x0:page-load a token is a value that several pages may have", async () => {
  const id = await send("logins", 1, registered);
  const page = new Tab(registered.url);
  const token = await pageLoad("logins", "receive send:user:*");
  expect(valuesOf(await page.poll(token))).toEqual([{ n: 1 }]);
  await pause(150);
  expect(valuesOf(await page.poll(token))).toEqual([{ n: 1 }]);
  expect(await stateOf(id, registered)).toBe("waiting");
});

test("[X24] a poll that the browser sends again by itself gets the same answer again, and settles nothing", async () => {
  for (const [server, value] of [
    [demo, "repeat"],
    [registered, await pageLoad("repeat")],
  ] as const) {
    const id = await send("repeat", 1, server);
    const page = new Tab(server.url);
    const name = newName();
    expect(valuesOf(await page.poll(value, name))).toEqual([{ n: 1 }]);
    page.close();
    expect(valuesOf(await page.ask("POST", name, pollOf(value)).answer)).toEqual([{ n: 1 }]);
    expect(await stateOf(id, server)).toBe("waiting");
    // Held, and sent again while the server has not noticed that the first connection is gone.
    await page.post({ type: "DEL", session_src: value });
    expect(await stateOf(id, server)).toBe("acked");
    const [one, other] = [new Tab(server.url), new Tab(server.url)];
    const first = await one.begin(pollOf(value), "42");
    const second = other.ask("POST", "42", pollOf(value));
    expect((await first.answer).text).toBe('{"messages":null}');
    await send("repeat", 2, server);
    expect(valuesOf(await second.answer)).toEqual([{ n: 2 }]);
  }
});

test("[X25] two tabs with one session both get every message, whichever settles it", { timeout: 60_000 }, async () => {
  const tabs = [tab(), tab()];
  const got: unknown[][] = [[], []];
  const count = 60;
  const polling = tabs.map(async (page, index) => {
    // A message may come twice: then it is not the last one that is missing.
    while (new Set(got[index]?.map((values) => JSON.stringify(values))).size < count) got[index]?.push(...valuesOf(await page.poll("twins")));
  });
  const sender = tab();
  for (let n = 0; n < count; n++) {
    await sender.send("sender", "twins", { n });
    // Some at once, some while both poll again, some when both are waiting.
    if (n % 3 !== 0) await pause(n % 5);
  }
  await Promise.all(polling);
  console.log(`two tabs of one session, ${count} messages: the one was given ${got[0]?.length}, the other ${got[1]?.length}`);
});

test("[X84] of two pages with one session value the quicker one is given the next message when the other has polled again, or has not for a second", async () => {
  const [one, other] = [tab(), tab()];
  await slowDown(one, "in-step");
  const ready = await Promise.all([one.begin(pollOf("in-step")), other.begin(pollOf("in-step"))]);
  const sender = tab();
  await sender.send("sender", "in-step", { n: 1 });
  for (const held of ready) expect(valuesOf(await held.answer)).toEqual([{ n: 1 }]);
  const quick = await one.begin(pollOf("in-step"));
  let isGiven = false;
  const given = quick.answer.then((answer) => {
    isGiven = true;
    return answer;
  });
  await sender.send("sender", "in-step", { n: 2 });
  // Less than what counts as late after slowDown, and much more than an answer takes.
  await pause(100);
  expect(isGiven, "while the other is at the first").toBe(false);
  const slow = await other.begin(pollOf("in-step"));
  for (const answer of [given, slow.answer]) expect(valuesOf(await answer)).toEqual([{ n: 2 }]);
  // This time the other does not come, and is waited for even when it is late (half a second at most, processed.ts).
  const alone = await one.begin(pollOf("in-step"));
  isGiven = false;
  const givenAlone = alone.answer.then((answer) => {
    isGiven = true;
    return answer;
  });
  await sender.send("sender", "in-step", { n: 3 });
  await pause(600);
  expect(isGiven, "while the other may still be at the second").toBe(false);
  expect(valuesOf(await givenAlone)).toEqual([{ n: 3 }]);
});

test("[X26] what one page has settled is still given to a page that was polling within the last seconds, and not to one that comes later", async () => {
  const [one, other] = [tab(), tab()];
  await slowDown(one, "late-twin");
  const before = (await demo.server.engine.totals()).unsettled;
  const ready = await Promise.all([one.begin(pollOf("late-twin")), other.begin(pollOf("late-twin"))]);
  const sender = tab();
  await sender.send("sender", "late-twin", { n: 1 });
  for (const held of ready) expect(valuesOf(await held.answer)).toEqual([{ n: 1 }]);
  // The one goes on at once, as pages do; the other is busy for a while.
  let held = await one.begin(pollOf("late-twin"));
  const going = (async () => {
    for (;;) {
      await held.answer;
      held = await one.begin(pollOf("late-twin"));
    }
  })().catch(() => {});
  await sender.send("sender", "late-twin", { n: 2 });
  await vi.waitFor(async () => expect((await demo.server.engine.totals()).unsettled).toBe(before), { timeout: 5_000 });
  await pause(700);
  // Late, so what it was at is given again first.
  expect(valuesOf(await other.poll("late-twin"))).toEqual([{ n: 1 }]);
  expect(valuesOf(await other.poll("late-twin"))).toEqual([{ n: 2 }]);
  const heldToo = await other.begin(pollOf("late-twin"));
  expect(await tab().glance("late-twin"), "a new page").toBeUndefined();
  held.cut();
  heldToo.cut();
  await going;
});

test("[X27] DEL acknowledges what was handed out, and nothing that was not", async () => {
  const page = tab();
  const ids = [await send("del", 1), await send("del", 2)];
  expect((await page.post({ type: "DEL", session_src: "del" })).text).toBe('{"messages":null}');
  expect(await stateOf(String(ids[0]))).toBe("waiting");
  expect(valuesOf(await page.poll("del"))).toEqual([{ n: 1 }]);
  await page.post({ type: "DEL", session_src: "del", SessionData: { Value: "del" } });
  expect(await stateOf(String(ids[0]))).toBe("acked");
  expect(await stateOf(String(ids[1]))).toBe("waiting");
  await pause(100);
  expect(valuesOf(await page.poll("del"))).toEqual([{ n: 2 }]);
  // Another session settles nothing of it.
  await page.post({ type: "DEL", session_src: "del-2" });
  expect(await stateOf(String(ids[1]))).toBe("waiting");
});

test("[X28] a SET that comes again with the same session, name and body is one message, across a restart too; another name or body is another", async () => {
  const server = await start("sqlite", { x0: "demo" });
  try {
    const page = new Tab(server.url);
    const stored = async () => (await server.server.engine.totals()).accepted;
    const body = formOf("a", "b", { n: 1 });
    // The browser's second try while the first is not on disk yet, and after it.
    const both = await Promise.all([page.ask("POST", "77", body).answer, new Tab(server.url).ask("POST", "77", body).answer]);
    for (const { text } of both) expect(text).toBe('{"messages":null,"status":"ok"}');
    await server.restart();
    page.close();
    expect((await page.ask("POST", "77", body).answer).body).toEqual({ messages: null, status: "ok" });
    expect(await stored()).toBe(1);
    await page.ask("POST", "78", body).answer;
    await page.ask("POST", "77", formOf("a", "b", { n: 2 })).answer;
    await page.ask("POST", "77", formOf("c", "b", { n: 1 })).answer;
    await page.ask("POST", "77", directOf("a", "b", setDataOf({ n: 1 }))).answer;
    expect(await stored()).toBe(5);
    // Without a name every request is a message of its own.
    for (let times = 0; times < 2; times++) await page.ask("POST", undefined, body).answer;
    expect(await stored()).toBe(7);
  } finally {
    await server.stop();
  }
});

test("[X29] ok is answered when the message is on disk: it is there after a restart, with what waited before", async () => {
  const server = await start("sqlite", { x0: "demo" });
  try {
    const page = new Tab(server.url);
    for (let n = 0; n < 5; n++) await page.send("a", "b", { n });
    await server.restart();
    page.close();
    const got: unknown[] = [];
    while (got.length < 5) got.push(...(await page.take("b")));
    expect(got).toEqual([0, 1, 2, 3, 4].map((n) => ({ n })));
  } finally {
    await server.stop();
  }
});

test("[X30] what has expired is not given", async () => {
  await call(`${demo.url}/v1/messages`, {
    token: SERVICE_CREDENTIAL,
    body: { to: { user: "expiring" }, type: "x0.set-data", data: { "dst-object": "F", payload: { n: 1 } }, ttl: 1 },
  });
  await pause(1_100);
  expect(await tab().glance("expiring")).toBeUndefined();
});
