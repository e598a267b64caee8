/**
 * The goals that the project has set itself, beside what this run measured. They are looked at, not asserted: the machine is shared.
 * @module
 */
import { type Bench, short } from "./claim.ts";

type Figure = (claim: string, row: string, column: string) => number;

interface Goal {
  readonly text: string;
  readonly most?: number;
  readonly least?: number;
  readonly unit: string;
  readonly measured: (figure: Figure) => number;
}

const WEBSOCKET = "Handover, WebSocket";
const QUORUM = "RabbitMQ, quorum queues, AMQP";

const cost =
  (row: string): Goal["measured"] =>
  (figure) =>
    figure("delivered", `${row} | ${WEBSOCKET}`, "µs/message");
const ratio =
  (claim: string, row: string, column: string, one: string, other: string): Goal["measured"] =>
  (figure) =>
    figure(claim, `${row} | ${one}`, column) / figure(claim, `${row} | ${other}`, column);
const latency =
  (column: string, who = WEBSOCKET): Goal["measured"] =>
  (figure) =>
    figure("latency", `1,000 a second | ${who}`, column);
const idle =
  (column: string, how: string): Goal["measured"] =>
  (figure) =>
    figure("idle", `Handover, ${how}`, column);
const faster = (other: string) => ratio("delivered", "50 pairs × 64", "messages/s", WEBSOCKET, other);
const cheaper = (row: string) => ratio("delivered", row, "µs/message", QUORUM, WEBSOCKET);
const dearer =
  (row: string, full: string, row2: string, empty: string): Goal["measured"] =>
  (figure) =>
    figure("mailboxes", `${row} | ${full}`, "µs/message") / figure("mailboxes", `${row2} | ${empty}`, "µs/message");
const ONE = "one mailbox × 64, beside";
const MANY = "50 pairs × 64, beside";
const SPREAD = "1,024 in flight, spread";

const GOALS: readonly Goal[] = [
  { text: "500 pairs × 8: server CPU a message", most: 20, unit: "µs", measured: cost("500 pairs × 8") },
  { text: "500 pairs × 8: RabbitMQ quorum's CPU over ours (85 / 20)", least: 4.25, unit: "×", measured: cheaper("500 pairs × 8") },
  { text: "50 pairs × 64: server CPU a message", most: 12, unit: "µs", measured: cost("50 pairs × 64") },
  { text: "50 pairs × 64: RabbitMQ quorum's CPU over ours (47.5 / 12)", least: 3.96, unit: "×", measured: cheaper("50 pairs × 64") },
  { text: "1,000 a second: server CPU a message", most: 220, unit: "µs", measured: latency("µs/message") },
  { text: "1,000 a second: p50", most: 0.6, unit: "ms", measured: latency("p50 ms") },
  { text: "1,000 a second: p99", most: 5, unit: "ms", measured: latency("p99 ms") },
  {
    text: "1,000 a second: p50 of polling less that of WebSocket",
    most: 1,
    unit: "ms",
    measured: (figure) => latency("p50 ms", "Handover, long polling")(figure) - latency("p50 ms")(figure),
  },
  {
    text: "one message a request, 64 in flight: CPU over bare fastify's",
    most: 1.6,
    unit: "×",
    measured: ratio("sends", "64 in flight", "µs/message", "Handover, one POST a message", "bare fastify POST"),
  },
  { text: "50 pairs × 64: messages a second over RabbitMQ quorum's", least: 3, unit: "×", measured: faster(QUORUM) },
  { text: "50 pairs × 64: over JetStream's, synced", least: 20, unit: "×", measured: faster("NATS JetStream, sync_interval always, WebSocket") },
  { text: "50 pairs × 64: over Mosquitto's", least: 1, unit: "×", measured: faster("Mosquitto, MQTT QoS 1, WebSocket") },
  { text: "an idle WebSocket receiver", most: 12, unit: "kB", measured: idle("kB a receiver", "WebSocket") },
  { text: "an idle poll", most: 18, unit: "kB", measured: idle("kB a receiver", "long polling") },
  { text: "an idle SSE receiver", most: 18, unit: "kB", measured: idle("kB a receiver", "SSE") },
  { text: "5,000 idle WebSocket receivers", most: 2, unit: "% of a core", measured: idle("% of a core", "WebSocket") },
  { text: "5,000 idle SSE receivers", most: 2, unit: "% of a core", measured: idle("% of a core", "SSE") },
  { text: "5,000 idle polls of 10 s", most: 2, unit: "% of a core", measured: idle("% of a core", "long polling") },
  {
    text: "CPU a message beside 100,000 waiting over beside none",
    most: 1.5,
    unit: "×",
    measured: dearer(ONE, "100,000 waiting", ONE, "nothing waiting"),
  },
  {
    text: "CPU a message beside 1,000,000 other mailboxes over beside none",
    most: 1.5,
    unit: "×",
    measured: dearer(MANY, "1,000,000 other mailboxes", MANY, "no other mailboxes"),
  },
  {
    text: "CPU a send, spread over 1,000,000 mailboxes over 100",
    most: 1.5,
    unit: "×",
    measured: dearer(SPREAD, "over 1,000,000 mailboxes", SPREAD, "over 100 mailboxes"),
  },
  { text: "ready with 1,000,000 waiting", most: 2_000, unit: "ms", measured: (figure) => figure("restart", "Handover", "ready, ms") },
  {
    text: "the data folder after days of traffic, over the live bytes",
    most: 3,
    unit: "×",
    measured: (figure) => figure("days", "a day later", "times the live bytes"),
  },
];

/** The goals as a table; those that nothing was measured for are left out. */
export function aboutGoals(benches: ReadonlyMap<string, Bench>): string {
  const figure: Figure = (claim, row, column) => benches.get(claim)?.middle(row, column) ?? Number.NaN;
  const lines = GOALS.flatMap(({ text, most, least, unit, measured }) => {
    const value = measured(figure);
    if (Number.isNaN(value)) return [];
    const isReached = value <= (most ?? Number.POSITIVE_INFINITY) && value >= (least ?? Number.NEGATIVE_INFINITY);
    return [
      `| ${text} | ${most === undefined ? `≥ ${least}` : `≤ ${short(most)}`} ${unit} | ${short(value)} ${unit} | ${isReached ? "yes" : "**no**"} |`,
    ];
  });
  return lines.length === 0 ? "" : `## Goals\n\n| | goal | measured | reached |\n| --- | --- | --- | --- |\n${lines.join("\n")}\n`;
}
