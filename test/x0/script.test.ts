/**
 * x0's page in Chromium with the script line: what it gives beside what the page has without it (page.test.ts).
 * @module
 */
import { setTimeout as pause } from "node:timers/promises";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { call, field } from "../../src/testing/wire.ts";
import { blockAllButPolling } from "../support/browser.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";
import { launchBrowser } from "./app.ts";
import { FIXED, PER_LOAD } from "./mode.ts";
import { eventually, openScene, type Scene, sendTo, stateOf, texts, valuesOf } from "./scripted.ts";
import { pollOf, Tab as WireTab } from "./tab.ts";

/** Waits until these were shown in that order, and looks whether anything was shown twice. */
async function expectShown(
  shown: () => readonly { readonly payload: Readonly<Record<string, unknown>> }[],
  wanted: readonly string[],
): Promise<void> {
  const got = () => shown().map(({ payload }) => payload.Form2);
  await eventually(() => expect(got()).toHaveLength(wanted.length));
  expect(got()).toEqual(wanted);
}

let browser: Browser;
beforeAll(async () => {
  if (CHROMIUM.isThere) browser = await launchBrowser();
});
afterAll(() => browser?.close());

describe.each([
  { mode: FIXED, order: "after" },
  { mode: PER_LOAD, order: "before" },
] as const)("$mode.name, the line $order sysInitOnLoad.js", ({ mode, order }) => {
  describeWith(CHROMIUM, `x0's page with the script line, ${mode.name}`, () => {
    let scene: Scene;
    beforeAll(async () => {
      scene = await openScene(mode, { browser, script: { order } });
    });
    afterAll(() => scene.stop());
    const to = (user: string) => mode.address(user);
    const open = async (user: string) => scene.app.open(await scene.app.person(), user);

    it("[X63] it uses WebSocket, and acknowledges when processMsg has returned, not before", { timeout: 60_000 }, async () => {
      const { app, started } = scene;
      const tab = await open("w1");
      const letGo = await tab.workUntilLetGo();
      const id = await sendTo(started.url, to("w1"), valuesOf("slow"));
      await eventually(() => expect(app.given.filter(({ message }) => (message.payload as { Form2: string }).Form2 === "slow")).toHaveLength(1));
      for (let n = 0; n < 10; n++) {
        expect(await stateOf(started.url, id)).toBe("waiting");
        await pause(20);
      }
      letGo();
      await eventually(async () => expect(await stateOf(started.url, id)).toBe("acked"));
      expect(tab.connections).toEqual(["websocket"]);
      expect((await tab.state()).polls).toBe(0);
      // It leaves nothing behind in the page's names.
      const plain = await app.open(await app.person(), "w0", true);
      const names = async ({ page }: typeof tab) => new Set(await page.evaluate(() => Object.keys(globalThis)));
      expect(await names(tab)).toEqual(await names(plain));
    });

    it("[X64] where WebSocket is blocked it polls, with the same promise", { timeout: 60_000 }, async () => {
      const person = await scene.app.person();
      await blockAllButPolling(person);
      const [one, other] = [await open("b1"), await scene.app.open(person, "b2")];
      for (const text of texts(3, "polled")) expect(await one.send(to("b2"), text)).toBe("successful");
      await expectShown(() => scene.shownTo("b2"), texts(3, "polled"));
      await scene.settled();
      expect(new Set(other.connections)).toEqual(new Set(["poll"]));
      expect((await other.state()).polls).toBe(0);
    });

    it("[X65] two pages, ten rounds both ways: everything is shown once, in order, with its sender", { timeout: 60_000 }, async () => {
      const [one, other] = [await open("r1"), await open("r2")];
      for (let round = 0; round < 10; round++) {
        expect(await one.send(to("r2"), `there ${round}`)).toBe("successful");
        expect(await other.send(to("r1"), `back ${round}`)).toBe("successful");
      }
      for (const [user, prefix, from] of [
        ["r2", "there", "r1"],
        ["r1", "back", "r2"],
      ] as const) {
        await expectShown(() => scene.shownTo(user), texts(10, prefix));
        expect(new Set(scene.shownTo(user).map((shown) => shown.from))).toEqual(new Set([to(from)]));
      }
      await scene.settled();
    });

    it("[X66] after a reload, in a tab that was closed and opened again, with bodies of 100 KiB and thirty that wait, nothing is missing", {
      timeout: 60_000,
    }, async () => {
      const { app } = scene;
      const one = await open("c1");
      const theirs = await app.person();
      let other = await app.open(theirs, "c2");
      await other.reload();
      await one.reload();
      for (const text of texts(3, "reloaded")) expect(await one.send(to("c2"), text)).toBe("successful");
      await expectShown(() => scene.shownTo("c2"), texts(3, "reloaded"));
      await scene.settled();
      await other.page.close();
      const notes = "ä".repeat(51_200);
      for (const text of texts(30, "closed")) {
        const more = text === "closed 3" || text === "closed 17" ? { notes } : {};
        expect(await one.send(to("c2"), text, more)).toBe("successful");
      }
      other = await app.open(theirs, "c2");
      await expectShown(() => scene.shownTo("c2"), [...texts(3, "reloaded"), ...texts(30, "closed")]);
      const { shown } = await other.state();
      expect(shown.find(({ payload }) => payload.Form2 === "closed 17")?.payload.Form4).toBe(notes);
      await scene.settled();
      expect(await one.send(to("c2"), "too large", { notes: "x".repeat(300_000) })).toBe("unsuccessful");
    });

    it("[X67] a message that throws does not hold up the next; it is given again, and the console says so", { timeout: 60_000 }, async () => {
      const { started } = scene;
      const tab = await open("t1");
      const bad = await sendTo(started.url, to("t1"), { ...valuesOf("early"), "dst-object": "NotYetThere" });
      const good = await sendTo(started.url, to("t1"), valuesOf("good"));
      await eventually(async () => expect(await stateOf(started.url, good)).toBe("acked"));
      const givenOf = async (text: string) => (await tab.state()).given.filter(({ payload }) => (payload as { Form2: string }).Form2 === text).length;
      await eventually(async () => expect(await givenOf("early")).toBeGreaterThan(1));
      expect(await stateOf(started.url, bad)).toBe("waiting");
      expect(await givenOf("good")).toBe(1);
      const complaints = tab.console.filter((line) => line.includes("could not process this message"));
      expect(complaints).toHaveLength(1);
      expect(complaints[0]).toContain("no object NotYetThere");
      await tab.page.evaluate("objects.NotYetThere = objects.FormlistExchangeData");
      await expectShown(() => scene.shownTo("t1"), ["good", "early"]);
      await eventually(async () => expect(await stateOf(started.url, bad)).toBe("acked"));
    });

    it("[X67] what has thrown ten times is dead, and its sender can see it", { timeout: 60_000 }, async () => {
      const { started } = scene;
      const token = started.token(to("t2"));
      const id = await sendTo(started.url, to("t2"), { ...valuesOf("hopeless"), "dst-object": "Nowhere" });
      // Nine times by another receiver, which does not take its time.
      for (let n = 0; n < 9; n++) {
        const { body } = await call(`${started.url}/v1/poll`, { token, body: { receiver: `r${n}`, wait: 5 } });
        const [delivery] = field(body, "deliveries") as { seq: number; deliveryCount: number }[];
        expect(delivery?.deliveryCount).toBe(n + 1);
        const nack = { receiver: `r${n}`, epoch: field(body, "epoch"), cursor: delivery?.seq, nack: [{ seq: delivery?.seq }] };
        await call(`${started.url}/v1/ack`, { token, body: nack });
      }
      await open("t2");
      await eventually(async () => expect(await stateOf(started.url, id)).toBe("dead"));
    });

    it("[X68] two tabs of one session, and one beside them without the line, all show every message", { timeout: 60_000 }, async () => {
      const { app } = scene;
      const one = await open("d1");
      const theirs = await app.person();
      const tabs = [await app.open(theirs, "d2"), await app.open(theirs, "d2")];
      for (const text of texts(10, "both")) expect(await one.send(to("d2"), text)).toBe("successful");
      for (const tab of tabs)
        await eventually(async () => expect((await tab.state()).shown.map(({ payload }) => payload.Form2)).toEqual(texts(10, "both")));
      const plain = await app.open(theirs, "d2", true);
      for (const text of texts(10, "mixed")) expect(await one.send(to("d2"), text)).toBe("successful");
      for (const tab of [...tabs, plain]) {
        await eventually(async () =>
          expect(new Set((await tab.state()).shown.map(({ payload }) => payload.Form2))).toEqual(
            new Set(tab === plain ? texts(10, "mixed") : [...texts(10, "both"), ...texts(10, "mixed")]),
          ),
        );
      }
      expect((await plain.state()).polls).toBeGreaterThan(0);
      await scene.settled();
    });

    it("[X69] the indicator of each message that arrives says so, also when several come at once", { timeout: 60_000 }, async () => {
      for (const text of texts(3, "indicated")) await sendTo(scene.started.url, to("i1"), valuesOf(text));
      const tab = await open("i1");
      await expectShown(() => scene.shownTo("i1"), texts(3, "indicated"));
      const indicators = (page: typeof tab.page) =>
        page.locator(".sysIndicatorItem").evaluateAll((boxes) => boxes.map((box) => [box.className, box.querySelector(".text")?.textContent]));
      await eventually(async () =>
        expect(await indicators(tab.page)).toEqual(Array.from({ length: 3 }, () => ["sysIndicatorItem IndicatorSuccess", "Network event received."])),
      );
      // Where x0's indicator is another one, the message is shown all the same.
      await tab.page.evaluate("sysFactory.GlobalAsyncNotifyIndicator.getMsgItemByName = () => ({ setProcessStatus() {} })");
      await sendTo(scene.started.url, to("i1"), valuesOf("without"));
      await expectShown(() => scene.shownTo("i1"), [...texts(3, "indicated"), "without"]);
      await scene.settled();
    });
  });
});

describeWith(CHROMIUM, "what x0's page with the script line is given", () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await openScene(FIXED, { browser, flags: { x0AnyKind: "true" } });
  });
  afterAll(() => scene.stop());

  it("[X70] each message is to processMsg what x0's wire gives, whoever sent it and whatever it is", { timeout: 60_000 }, async () => {
    const { app, started } = scene;
    const kinds = [
      valuesOf("plain"),
      { ...valuesOf("more"), "fire-events": ["Event1"], session_src: "mallory", "msg-type": "net-phone" },
      { ...valuesOf("empty"), payload: {} },
      { "dst-object": "FormlistExchangeData", payload: { Form2: "-0 and ünïcode \u2028", n: -0, nested: { a: [1, null] } } },
    ];
    const messages = [
      { "msg-type": "net-phone", "phonenr-src": "<b>123</b>" },
      { "msg-type": "net-message", "txt-id": "TXT.SOME" },
      { "msg-type": "sys-indicator", "notify-id": "x", "notify-status": "SUCCESS" },
      { "msg-type": "unheard-of", session_src: "mallory" },
      {},
    ];
    // Not x0's, whatever their type says: given to neither.
    const none = [null, "text", [], { "dst-object": 1, payload: {} }, { "dst-object": "F" }];
    const senders = ["plain-sender", "ä sender", "x".repeat(200)];
    const wire = new WireTab(started.url);
    const tab = await app.open(await app.person(), "same");
    const polled: unknown[] = [];
    const held = await wire.begin(pollOf("sess-same"));
    const processed = () => wire.post({ type: "DEL", session_src: "sess-same" });
    for (const data of none) await sendTo(started.url, "sess-same", data as object);
    for (const data of kinds) await sendTo(started.url, "sess-same", data);
    for (const data of messages) await sendTo(started.url, "sess-same", data, "x0.message");
    for (const sender of senders) expect((await new WireTab(started.url).send(sender, "sess-same", { Form2: sender })).body.status).toBe("ok");
    const count = kinds.length + messages.length + senders.length;
    for (let answer = await held.answer; ; answer = await wire.poll("sess-same")) {
      polled.push(...(answer.body.messages ?? []));
      await processed();
      if (polled.length >= count) break;
    }
    await eventually(async () => expect((await tab.state()).given).toHaveLength(count));
    const given = await tab.page.evaluate(() => JSON.stringify((globalThis as unknown as { x0: { given: unknown } }).x0.given));
    expect(JSON.parse(given)).toEqual(polled);
    expect(polled.slice(-3).map((message) => field(message, "session_src"))).toEqual(senders);
  });

  it("[X71] mail of other types is held: it stays for other receivers, and stops nothing", { timeout: 60_000 }, async () => {
    const { app, started } = scene;
    const ids: string[] = [];
    // More than a window.
    for (let n = 0; n < 40; n++) ids.push(await sendTo(started.url, "sess-mixed", { n }, "form.data"));
    await sendTo(started.url, "sess-mixed", valuesOf("x0's"));
    const tab = await app.open(await app.person(), "mixed");
    await eventually(async () => expect((await tab.state()).shown.map(({ payload }) => payload.Form2)).toEqual(["x0's"]));
    for (const id of [ids[0], ids.at(-1)]) expect(await stateOf(started.url, id ?? "")).toBe("waiting");
    const { body } = await call(`${started.url}/v1/poll`, { token: started.token("sess-mixed"), body: { receiver: "other", wait: 0, max: 100 } });
    expect(field(body, "deliveries")).toHaveLength(40);
  });
});
