import type { Browser, BrowserContext, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import {
  connected,
  type FormValues,
  fillForm,
  launchChromium,
  openContext,
  openTab,
  readForm,
  received,
  sendForm,
  sent,
  takePairPicture,
  takePicture,
} from "../support/browser.ts";
import { type DemoServer, openCaller, startServer } from "../support/demo.ts";
import { CHROMIUM, describeWith } from "../support/needs.ts";

vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000 });

const ORDER: FormValues = {
  urgent: true,
  subject: "Order 4711: two crates of pears",
  state: "Value2",
  notes: "Please call before noon.\nThe gate is on the left.",
};
const CONTROLS = ["second-tab", "become-another", "destination", "form2", "form3", "form1", "form4", "send"];

describeWith(CHROMIUM, "Example 10, the page", () => {
  let browser: Browser;
  let server: DemoServer;
  const contexts: BrowserContext[] = [];

  beforeAll(async () => {
    server = await startServer();
    browser = await launchChromium();
  });
  afterAll(async () => {
    // Either is missing when it could not be started.
    await browser?.close();
    await server?.remove();
  });
  afterEach(async () => {
    await Promise.all(contexts.splice(0).map((context) => context.close()));
  });

  async function person(options?: BrowserContextOptions): Promise<BrowserContext> {
    const context = await openContext(browser, options);
    contexts.push(context);
    return context;
  }

  it("[B10] a tab is a user, shown and not editable, the same after a reload; a second tab is another, and the two have each other chosen to send to; it can become another", async () => {
    const context = await person();
    const first = await openTab(context, server.url);
    const user = await first.page.innerText("#user-id");
    expect(await first.page.locator("#user-id").evaluate((shown) => shown.matches("input, textarea, select, [contenteditable]"))).toBe(false);
    expect(await first.page.locator("#destination option").allInnerTexts()).toHaveLength(2);
    expect(await first.page.locator("#destination option").allInnerTexts()).not.toContain(user);

    await first.page.reload();
    await connected(first.page);
    expect(await first.page.innerText("#user-id")).toBe(user);

    const [second] = await Promise.all([context.waitForEvent("page"), first.page.click("#second-tab")]);
    await connected(second);
    expect(await second.innerText("#user-id")).not.toBe(user);
    expect(await second.inputValue("#destination")).toBe(user);
    expect(await first.page.inputValue("#destination")).toBe(await second.innerText("#user-id"));

    await Promise.all([first.page.waitForEvent("load"), first.page.click("#become-another")]);
    await connected(first.page);
    expect(await first.page.innerText("#user-id")).not.toBe(user);
    expect(first.problems).toEqual([]);
  });

  it("[B20] a new tab is nobody whom another open tab of the browser is, also when the server was just started and knows of none", async () => {
    const context = await person();
    const first = await openTab(context, server.url);
    const user = await first.page.innerText("#user-id");
    let forgetful = 0;
    await context.route("**/demo/session", (route) => {
      if (route.request().postData() !== "{}") return route.continue();
      forgetful += 1;
      return route.continue({ postData: JSON.stringify({ user }) });
    });
    const second = await openTab(context, server.url);
    expect(await second.page.innerText("#user-id")).not.toBe(user);
    expect(forgetful).toBe(1);

    // The user of a tab that was closed is free.
    await first.page.close();
    const third = await openTab(context, server.url);
    expect(await third.page.innerText("#user-id")).toBe(user);
    expect([...second.problems, ...third.problems]).toEqual([]);
  });

  it("[B11] the same page is at x0's address form, and takes nothing from elsewhere", async () => {
    const context = await person();
    const requested: string[] = [];
    context.on("request", (request) => requested.push(request.url()));
    const { page, problems } = await openTab(context, server.url, { path: "/python/Index.py?appid=example10" });
    expect(await page.title()).toContain("Example 10");
    expect(requested.filter((url) => !url.startsWith(`${server.url}/`))).toEqual([]);
    const policy = (await (await page.request.get(server.url)).headersArray()).find(({ name }) => name.toLowerCase() === "content-security-policy");
    expect(policy?.value).toContain("default-src 'self'");
    expect(policy?.value).not.toContain("unsafe-inline");
    expect(problems).toEqual([]);
  });

  it("[B12] what somebody is typing is not overwritten, and what was overwritten comes back", async () => {
    const tab = await openTab(await person(), server.url, { user: "user3" });
    const caller = await openCaller(server.url, "user1");
    const mine: FormValues = { urgent: true, subject: "half a sen", state: "Value3", notes: "mine" };
    const theirs: FormValues = { urgent: false, subject: "theirs", state: "Value1", notes: "" };
    const data = { Form1: theirs.urgent, Form2: theirs.subject, Form3: theirs.state, Form4: theirs.notes };

    await fillForm(tab.page, mine);
    await tab.page.focus("#form2");
    await caller.send("user3", data);
    await received(tab.page, "theirs");
    expect(await readForm(tab.page)).toEqual(mine);
    expect(await tab.page.innerText("#form-note")).toMatch(/^user1 sent values at .*You are typing/s);

    await tab.page.getByRole("button", { name: "Show them" }).click();
    expect(await readForm(tab.page)).toEqual(theirs);
    await tab.page.getByRole("button", { name: "Bring back mine" }).click();
    expect(await readForm(tab.page)).toEqual(mine);

    // The focus is elsewhere: the values are shown, twice over, and what was typed is still one step away.
    await tab.page.focus("#destination");
    await caller.send("user3", data);
    await caller.send("user3", { ...data, Form2: "theirs again" });
    await received(tab.page, "theirs again");
    expect(await readForm(tab.page)).toEqual({ ...theirs, subject: "theirs again" });
    await tab.page.getByRole("button", { name: "Bring back mine" }).click();
    expect(await readForm(tab.page)).toEqual(mine);
    expect(tab.problems).toEqual([]);
  });

  it("[B13] odd data is shown and breaks nothing: what fits the form is filled in, the rest is left alone", async () => {
    const tab = await openTab(await person(), server.url, { user: "user3" });
    const caller = await openCaller(server.url, "user1");
    const before = { ...ORDER };
    await caller.send("user3", { Form1: true, Form2: ORDER.subject, Form3: ORDER.state, Form4: ORDER.notes });
    await received(tab.page, ORDER.subject);
    for (const data of [null, 5, "<b>text</b>", [], {}, { Form1: "false", Form2: 7, Form3: "Value9", Form4: null }]) await caller.send("user3", data);
    await caller.send("user3", { Form2: "only this", more: { unknown: true } });
    await received(tab.page, "only this");
    expect(tab.handled).toHaveLength(8);
    expect(await readForm(tab.page)).toEqual({ ...before, subject: "only this" });
    expect(await tab.page.locator("#received pre").allTextContents()).toEqual(["{}", "[]", '"<b>text</b>"', "5", "null"]);
    expect(tab.problems).toEqual([]);
  });

  it("[B14] the whole of it works by keyboard: in order, visibly, and Enter in the text field sends", async () => {
    const [one, two] = await Promise.all([
      openTab(await person(), server.url, { user: "user1" }),
      openTab(await person(), server.url, { user: "user2" }),
    ]);
    const { page } = one;
    const visited: string[] = [];
    for (const _each of CONTROLS) {
      await page.keyboard.press("Tab");
      const focused = await page.evaluate(() => {
        const current = document.activeElement;
        if (current === null) throw new Error("Nothing has the focus.");
        const { outlineStyle, outlineWidth } = getComputedStyle(current);
        return { id: current.id, isVisible: outlineStyle !== "none" && Number.parseFloat(outlineWidth) >= 2 };
      });
      expect(focused.isVisible, `a visible focus on ${focused.id}`).toBe(true);
      visited.push(focused.id);
      if (focused.id === "destination") await page.keyboard.type("user2");
      if (focused.id === "form2") await page.keyboard.type("no mouse");
      if (focused.id === "form3") await page.keyboard.press("ArrowDown");
      if (focused.id === "form1") await page.keyboard.press("Space");
      if (focused.id === "form4") await page.keyboard.type("two\nlines");
    }
    expect(visited).toEqual(CONTROLS);
    expect(await page.inputValue("#destination")).toBe("user2");
    await page.keyboard.press("Space");
    await received(two.page, "no mouse");
    expect(await readForm(two.page)).toEqual({ urgent: true, subject: "no mouse", state: "Value2", notes: "two\nlines" });
    await sent(page, "acked");

    await page.focus("#form2");
    await page.keyboard.type(", and Enter");
    await page.keyboard.press("Enter");
    await received(two.page, "no mouse, and Enter");
    await page.focus("#form4");
    await page.keyboard.press("Control+Enter");
    await two.page.waitForSelector("#received > li:nth-child(3)");
    expect([...one.problems, ...two.problems]).toEqual([]);
  });

  it("[B15] every control has a name, every change is announced, and the structure is sound", async () => {
    const [one, two] = await Promise.all([
      openTab(await person(), server.url, { user: "user1" }),
      openTab(await person(), server.url, { user: "user2" }),
    ]);
    await sendForm(one.page, "user2", ORDER);
    await received(two.page, ORDER.subject);
    const { page } = two;
    for (const [role, name] of [
      ["combobox", /^User Dst SessionID/],
      ["textbox", /^Subject/],
      ["combobox", /^State/],
      ["checkbox", /^Urgent/],
      ["textbox", /^Notes/],
      ["button", /^Send Data$/],
      ["button", /^Become another user$/],
      ["group", /^Exchange Data$/],
      ["group", /^From whom, to whom$/],
      ["link", /^a second tab$/],
      ["list", /^Received$/],
    ] as const) {
      expect(await page.getByRole(role, { name }).count(), `${role} named ${name}`).toBe(1);
    }
    const unnamed = await page.locator("input, select, textarea, button, a[href], summary, output").evaluateAll((controls) =>
      controls
        .filter((control) => control.checkVisibility())
        .filter((control) => ((control as HTMLInputElement).labels?.[0] ?? control).textContent?.trim() === "")
        .map((control) => control.outerHTML),
    );
    expect(unnamed).toEqual([]);
    const structure = await page.evaluate(() => ({
      lang: document.documentElement.lang,
      repeatedIds: [...document.querySelectorAll("[id]")].map(({ id }) => id).filter((id, index, all) => all.indexOf(id) !== index),
      headings: [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(({ tagName }) => tagName),
      landmarks: ["header", "main"].map((name) => document.querySelectorAll(`body > ${name}`).length),
      unlabelledPictures: document.querySelectorAll('svg:not([aria-hidden="true"]), img:not([alt])').length,
      live: ["connection", "sent-state", "received"].map((id) => {
        const region = document.getElementById(id);
        return region?.getAttribute("role") === "status" || region?.getAttribute("aria-live") === "polite";
      }),
    }));
    expect(structure).toEqual({
      lang: "en",
      repeatedIds: [],
      headings: ["H1", "H2", "H2"],
      landmarks: [1, 1],
      unlabelledPictures: 0,
      live: [true, true, true],
    });
  });

  it.each([320, 390])("[B16] a phone %d px wide shows it without scrolling sideways, with targets for a finger", async (width) => {
    const phone = await person({ viewport: { width, height: 760 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    const tab = await openTab(phone, server.url, { user: "user2" });
    const caller = await openCaller(server.url, "user1");
    await caller.send("user2", { Form2: "unbroken".repeat(40), Form4: "long".repeat(200) });
    await caller.send("user2", { Form1: true, Form2: ORDER.subject, Form3: ORDER.state, Form4: ORDER.notes });
    await received(tab.page, ORDER.subject);
    await tab.page.locator("#received > li:last-child summary").tap();
    expect(await tab.page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
    const small = await tab.page.locator("input, select, textarea, button, summary").evaluateAll((targets) =>
      targets
        .filter((target) => target.checkVisibility())
        .map((target) => ({
          html: target.outerHTML.slice(0, 80),
          box: (target as HTMLInputElement).labels?.[0]?.getBoundingClientRect() ?? target.getBoundingClientRect(),
        }))
        .filter(({ box }) => box.height < 20 || box.width < 24)
        .map(({ html }) => html),
    );
    expect(small).toEqual([]);
    await tab.page.locator("#received > li:last-child summary").tap();
    if (width === 390) await takePicture(tab.page, "example10-phone");
    expect(tab.problems).toEqual([]);
  });

  it.each(["light", "dark"] as const)("[B17] every text can be read against its background, %s", async (colorScheme) => {
    const [one, two] = await Promise.all([
      openTab(await person({ colorScheme }), server.url, { user: "user1" }),
      openTab(await person({ colorScheme }), server.url, { user: "user2" }),
    ]);
    await fillForm(two.page, { ...ORDER, subject: "my own" });
    await two.page.focus("#destination");
    await sendForm(one.page, "user2", { ...ORDER, subject: "Order 4710" });
    await sendForm(one.page, "user2", ORDER);
    await received(two.page, ORDER.subject);
    await sent(one.page, "acked");
    expect(await faint(two.page)).toEqual([]);
    expect(await faint(one.page)).toEqual([]);
    await one.page.locator("#sent-state").evaluate((state) => {
      state.dataset.state = "error";
    });
    expect(await faint(one.page)).toEqual([]);
    await one.page.locator("#sent-state").evaluate((state) => {
      state.dataset.state = "acked";
    });
    await sendForm(two.page, "user1", { urgent: false, subject: "Order 4711 is on its way", state: "Value3", notes: "" });
    await received(one.page, "Order 4711 is on its way");
    await sent(two.page, "acked");
    await takePicture(two.page, `example10-${colorScheme}`);
  });

  it("[B1] the picture of the README: two tabs, one form", async () => {
    const viewport = { width: 620, height: 1060 };
    const [one, two] = await Promise.all([
      openTab(await person({ viewport, colorScheme: "light" }), server.url, { user: "user1" }),
      openTab(await person({ viewport, colorScheme: "dark" }), server.url, { user: "user2" }),
    ]);
    await sendForm(one.page, "user2", ORDER);
    await received(two.page, ORDER.subject);
    await sent(one.page, "acked");
    await one.page.mouse.move(0, 0);
    await takePairPicture(one.page, two.page, "example10");
    expect(await readForm(two.page)).toEqual(await readForm(one.page));
  });

  it("[B18] nothing moves for those who asked for less motion", async () => {
    const context = await person({ reducedMotion: "reduce" });
    const tab = await openTab(context, server.url, { user: "user1" });
    await tab.page.evaluate(() => document.addEventListener("animationstart", () => document.body.setAttribute("data-moved", "")));
    await sendForm(tab.page, "user3", ORDER);
    const caller = await openCaller(server.url, "user3");
    await caller.send("user1", { Form2: "calm" });
    await received(tab.page, "calm");
    expect(await tab.page.evaluate(() => document.getAnimations().length)).toBe(0);
    expect(await tab.page.getAttribute("body", "data-moved")).toBeNull();
  });

  it("[B19] what goes wrong is said in words, and the form keeps what was typed", async () => {
    const own = await startServer();
    try {
      const tab = await openTab(await person(), own.url, { user: "user1" });
      await tab.page.selectOption("#destination", "user2");
      await tab.page.locator("#form4").evaluate((area) => {
        (area as HTMLTextAreaElement).value = "x".repeat(300_000);
      });
      await tab.page.click("#send");
      await sent(tab.page, "error");
      expect(await tab.page.innerText("#sent-state")).toMatch(/^Not sent\. .*\d/);
      expect((await readForm(tab.page)).notes).toHaveLength(300_000);

      await own.kill();
      await tab.page.waitForSelector('#connection:not([data-status="online"])');
      expect(await tab.page.innerText("#connection")).toMatch(/^Offline, reconnecting…$/);
      await tab.page.fill("#form4", "");
      await tab.page.click("#send");
      await sent(tab.page, "sending");
      expect(await tab.page.innerText("#sent-state")).toMatch(/^The server cannot be reached\./);
    } finally {
      await own.remove();
    }
  });
});

/** Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3), with the ratio. */
function faint(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const channels = (color: string) => (color.match(/[\d.]+/g) ?? []).map(Number);
    const luminance = (rgb: readonly number[]) => {
      const [red = 0, green = 0, blue = 0] = rgb.slice(0, 3).map((value) => {
        const part = value / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const background = (start: Element) => {
      for (let element: Element | null = start; element !== null; element = element.parentElement) {
        const color = channels(getComputedStyle(element).backgroundColor);
        if (color.length === 3 || color[3] === 1) return color;
      }
      return [255, 255, 255];
    };
    const found: string[] = [];
    for (const element of document.querySelectorAll("body *")) {
      const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent?.trim() !== "");
      if (!hasText && !element.matches("input[type=text], textarea, select")) continue;
      if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const [one, other] = [luminance(channels(getComputedStyle(element).color)), luminance(background(element))];
      const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
      if (ratio < 4.5) found.push(`${element.tagName} "${element.textContent?.trim().slice(0, 30)}" ${ratio.toFixed(2)}`);
    }
    return found;
  });
}
