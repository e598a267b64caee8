/**
 * A server and an application whose pages have the script line.
 * @module
 */
import { expect, vi } from "vitest";
import type { SettingKey } from "../../src/config.ts";
import { call, field } from "../../src/testing/wire.ts";
import { DEADLINE_MS } from "../support/browser.ts";
import { freePort } from "../support/port.ts";
import { SERVICE_CREDENTIAL, type Started, start } from "../support/started.ts";
import { APP_HOST, App, type AppOptions, type ScriptLine, type Shown } from "./app.ts";
import type { Mode } from "./mode.ts";

export const eventually = (expectation: () => Promise<void> | void) => vi.waitFor(expectation, { timeout: DEADLINE_MS, interval: 20 });

/** Values for the form of a page, with a text to know them by. */
export const valuesOf = (text: string) => ({
  "dst-object": "FormlistExchangeData",
  payload: { Form1: false, Form2: text, Form3: "Value2", Form4: "" },
});

export const texts = (count: number, prefix: string) => Array.from({ length: count }, (_, n) => `${prefix} ${n}`);

/** Sends as a service. @returns the message's id */
export async function sendTo(url: string, user: string, data: object, type = "x0.set-data"): Promise<string> {
  const { status, body } = await call(`${url}/v1/messages`, { token: SERVICE_CREDENTIAL, body: { to: { user }, type, data } });
  expect(status).toBe(201);
  return String(field(body, "id"));
}

/** What became of a message for its one recipient. */
export async function stateOf(url: string, id: string): Promise<unknown> {
  const { body } = await call(`${url}/v1/messages/${id}`, { token: SERVICE_CREDENTIAL });
  return field((field(body, "recipients") as unknown[])[0], "state");
}

/** What a proxy answers in the server's place when it does not reach it (deploy/nginx, deploy/apache). */
export const UNREACHABLE = {
  status: 200,
  headers: { "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*" },
  json: { messages: null, error: true, exception_id: "unreachable", exception: "The message server cannot be reached." },
};

export interface Scene {
  readonly started: Started;
  readonly app: App;
  /** What a user's pages have shown, over all their loads. */
  shownTo(user: string): Shown[];
  /** Waits until nothing waits any more. */
  settled(): Promise<void>;
  stop(): Promise<void>;
}

export interface SceneOptions extends Partial<Omit<AppOptions, "session" | "script">> {
  readonly script?: ScriptLine;
  readonly flags?: Partial<Record<SettingKey, string>>;
}

/** Starts both. What the mode wants in `HANDOVER_ORIGINS` is there. */
export async function openScene(mode: Mode, { flags = {}, ...more }: SceneOptions = {}): Promise<Scene> {
  const port = await freePort();
  const origin = `${more.tls ? "https" : "http"}://${APP_HOST}:${port}`;
  const started = await start("sqlite", { x0: mode.x0, ...(mode.x0 === "registered" ? { origins: origin } : {}), ...flags });
  const users = new Map<string, string>();
  const session = async (user: string) => {
    const value = await mode.session(user, started.url);
    users.set(value, user);
    return value;
  };
  const app = await App.start({ server: started.url, script: { order: "after" }, ...more, port, session });
  return {
    started,
    app,
    shownTo: (user) =>
      app.shown
        .filter((shown) => users.get(shown.session) === user)
        .sort(({ at: [load, word] }, { at: [otherLoad, otherWord] }) => load - otherLoad || word - otherWord),
    settled: () => eventually(async () => expect((await started.server.engine.totals()).unsettled).toBe(0)),
    async stop() {
      await app.stop();
      await started.stop();
    },
  };
}
