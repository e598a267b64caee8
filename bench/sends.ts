// Claim: how many messages a second are accepted (on disk), delivered and acknowledged, with 64 in flight, over one WebSocket each way;
// and what they cost the server. Run: npm run build && node bench/sends.ts
import { WebSocket } from "ws";
import { cpuMs, median, startServer, token } from "./server.ts";

const IN_FLIGHT = 64;
const WARM_UP_MS = 1_000;
const MEASURED_MS = 4_000;
const ROUNDS = 3;
const data = { name: "x".repeat(60), text: "y".repeat(180), n: 12345, ok: true };

interface Round {
  accepted: number;
  acknowledged: number;
  cpu: number;
}

async function open(url: string, user: string): Promise<WebSocket> {
  const socket = new WebSocket(`${url.replace("http", "ws")}/v1/ws`, "handover.v1.json");
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  socket.send(JSON.stringify({ op: "hello", token: await token(user), window: 1_000 }));
  return socket;
}

async function round(): Promise<Round> {
  const server = await startServer();
  const sender = await open(server.url, "sender");
  const receiver = await open(server.url, "receiver");
  let accepted = 0;
  let acknowledged = 0;
  let expected = 1;
  let next = 0;
  const send = (count: number) => {
    const messages = Array.from({ length: count }, () => ({ ref: next++, to: { user: "receiver" }, type: "bench", data }));
    sender.send(JSON.stringify({ op: "send", messages }));
  };
  receiver.on("message", (text) => {
    const frame = JSON.parse(String(text));
    if (frame.op === "ready") receiver.emit("is-ready", frame.epoch);
    if (frame.op === "acked") acknowledged += frame.acked;
    if (frame.op !== "deliver") return;
    for (const { seq } of frame.deliveries) if (seq !== expected++) throw new Error(`out of order: ${seq} instead of ${expected - 1}`);
    receiver.send(JSON.stringify({ op: "ack", epoch, upto: frame.deliveries.at(-1).seq }));
  });
  const epoch = await new Promise((resolve) => receiver.once("is-ready", resolve));
  sender.on("message", (text) => {
    const frame = JSON.parse(String(text));
    if (frame.op !== "sent") return;
    for (const result of frame.results) if (result.status !== 201) throw new Error(JSON.stringify(result));
    accepted += frame.results.length;
    send(frame.results.length);
  });
  send(IN_FLIGHT);
  await pause(WARM_UP_MS);
  const before = { accepted, acknowledged, cpu: cpuMs(server.pid), at: performance.now() };
  await pause(MEASURED_MS);
  const seconds = (performance.now() - before.at) / 1000;
  const cpu = cpuMs(server.pid) - before.cpu;
  const result = {
    accepted: (accepted - before.accepted) / seconds,
    acknowledged: (acknowledged - before.acknowledged) / seconds,
    cpu: (cpu * 1000) / (acknowledged - before.acknowledged),
  };
  sender.terminate();
  receiver.terminate();
  await server.stop();
  return result;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

const rounds: Round[] = [];
for (let each = 0; each < ROUNDS; each++) rounds.push(await round());
console.log(
  `${IN_FLIGHT} in flight, ${JSON.stringify(data).length} bytes of data, SQLite on disk, median of ${ROUNDS} rounds of ${MEASURED_MS / 1000} s:`,
);
console.log(`  accepted (on disk)       ${Math.round(median(rounds.map((each) => each.accepted)))} a second`);
console.log(`  acknowledged (on disk)   ${Math.round(median(rounds.map((each) => each.acknowledged)))} a second`);
console.log(`  CPU of the server        ${median(rounds.map((each) => each.cpu)).toFixed(1)} µs a message sent, delivered and acknowledged`);
