// A model, by us, of x0's message server as its wire was observed (the project's founding paper X0): not x0's code. What matters for losses is kept: one
// thread that answers one request after the other; a poll of ten rounds that goes on when its client has left; GET deletes what it hands out; what the
// daemon reads and answers ends after 4,096 bytes; everything is in memory. Its sleeps of 1 s are 20 ms here. test/loss-table.test.ts holds this.
import { createServer, request } from "node:http";

const SLEEP_MS = 20;
const ROUNDS = 10;
const MAX_BYTES = 4_096;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @returns the answer's body as JSON; rejects when there is none */
function ask(url, body, signal) {
  return new Promise((resolve, reject) => {
    const asking = request(
      `${url}/python/MsgHandler.py?a__=${Math.random()}`,
      { method: "POST", agent: false, ...(signal ? { signal } : {}) },
      (answer) => {
        let text = "";
        answer.on("data", (part) => {
          text += part;
        });
        answer.on("error", reject);
        answer.on("end", () => {
          try {
            resolve(JSON.parse(text));
          } catch (error) {
            reject(error);
          }
        });
      },
    );
    asking.on("error", reject);
    asking.end(JSON.stringify(body));
  });
}

export const peers = [
  {
    title: "x0's micro-msg-server: **a model of it, by us**",
    packages: [],
    // Its one thread takes the time of a second for each step of each poll: with more of them it is late before anything goes wrong.
    usersAtOnce: 5,
    processes: (port) => [{ command: process.execPath, args: [import.meta.filename, String(port)], port }],
    async openPage({ url, user, handle }) {
      const gone = new AbortController();
      const poll = async () => {
        while (!gone.signal.aborted) {
          try {
            const answer = await ask(url, { session_src: user, type: "GET", SessionData: { ID: "SYS_SESSION", Value: user } }, gone.signal);
            for (const { payload } of answer.messages ?? []) void handle(payload.n);
          } catch {
            // The genuine page polls no more until somebody loads it anew; somebody does, after half a second.
            await sleep(500);
          }
        }
      };
      void poll();
      return { drop: () => gone.abort() };
    },
    async openSender(url) {
      return {
        // A form, as the genuine page sends it.
        async send(user, message) {
          const RequestData = { FormlistSelectDstUser: { DstUserSession: user }, FormlistExchangeData: message };
          const { status } = await ask(url, { RequestData, ServiceData: {}, SessionData: { ID: "SYS_SESSION", Value: "sender" } });
          if (status !== "ok") throw new Error("unsuccessful");
        },
        close() {},
      };
    },
  },
];

if (process.argv[1] === import.meta.filename) {
  const mailboxes = new Map();
  let turn = Promise.resolve();
  /** The daemon: one request after the other, and each takes its time. @returns what it answers, cut off, in place of what it should be */
  const daemon = (asked, what) => {
    const done = turn.then(async () => {
      if (Buffer.byteLength(asked) > MAX_BYTES) return "";
      await sleep(SLEEP_MS);
      return Buffer.from(JSON.stringify(what())).subarray(0, MAX_BYTES).toString();
    });
    turn = done.then(() => {});
    return done;
  };
  const put = (session, message) => {
    mailboxes.set(session, [...(mailboxes.get(session) ?? []), message]);
    return { messages: null, status: "ok" };
  };
  const take = (session) => {
    const messages = mailboxes.get(session) ?? null;
    mailboxes.delete(session);
    return { messages };
  };
  const server = createServer((request, response) => void answer(request, response).catch(() => response.destroy()));
  server.listen(Number(process.argv[2]), "127.0.0.1");
  async function answer(request, response) {
    let body = "";
    for await (const part of request) body += part;
    let result;
    try {
      const { type, session_src, SessionData, RequestData } = JSON.parse(body);
      const form = RequestData?.FormlistExchangeData;
      if (form) {
        const message = { "msg-type": "net-message", "method-id": "set-data", "dst-object": "FormlistExchangeData", payload: form };
        const session = RequestData.FormlistSelectDstUser.DstUserSession;
        result = JSON.parse(await daemon(body, () => put(session, { ...message, session_src: SessionData.Value })));
      } else if (type === "GET") {
        // It never looks whether the client is still there.
        for (let round = 0; round < ROUNDS && !result?.messages; round++) {
          result = JSON.parse(await daemon(body, () => take(session_src)));
          if (!result.messages) await sleep(SLEEP_MS);
        }
      } else throw new Error("'type'");
    } catch (error) {
      result = { error: true, exception_id: "JSONDecodeError", exception: error.message };
    }
    response.end(JSON.stringify(result));
  }
}
