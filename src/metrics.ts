/**
 * The numbers for an operator, in Prometheus' text format. What happens often is a plain counter or one look-up in a histogram; the rest
 * is asked for when somebody reads. No label comes from outside: there are as many lines on a busy day as on the first.
 * docs/metrics.md says what each is.
 * @module
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "@prometheus-io/client";
import type { CommitDone, Ending, Totals } from "./engine.ts";
import { ERRORS, type ErrorCode, type HandoverError } from "./errors.ts";
import type { Delivery, ServerFrame } from "./protocol.ts";
import type { Link } from "./transport.ts";

/** What became of a message that somebody sent. */
export type SendOutcome = "accepted" | "repeated" | ErrorCode;

/** The state of a server at the moment of a reading. */
export interface Snapshot {
  /** Undefined when the store cannot say; the lines that depend on it are left out then, never guessed. */
  readonly totals: Totals | undefined;
  /** Whether messages are taken: what `/readyz` says. */
  readonly isReady: boolean;
  readonly census: Census;
  /** Open TCP connections. */
  readonly connections: number;
  /** Open WebSockets, those that only send included. */
  readonly webSockets: number;
}

/** Who is there, on this node. */
export interface Census {
  /** Mailboxes with receivers. */
  readonly mailboxes: number;
  /** Live receivers, by the transport of their last link. */
  readonly live: Readonly<Record<Link["kind"], number>>;
  /** Connections and held polls of receivers. */
  readonly links: Readonly<Record<Link["kind"], number>>;
}

const ENDINGS: readonly Ending[] = ["acked", "expired", "replaced", "evicted", "dead"];
const OUTCOMES = ["accepted", "repeated", ...Object.keys(ERRORS)] as readonly SendOutcome[];
const TRANSPORTS: readonly Link["kind"][] = ["websocket", "sse", "poll"];
/** Seconds. A commit on a good disk takes a millisecond or less; at five seconds the store counts as failed. */
const STORE_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
/** Seconds: from a live delivery to a receiver that was away for a weekend. */
const DELIVERY_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 60, 3_600, 86_400, 259_200];
const LOOP_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
/** It wakes the process so often: at 10 ms that was most of what a server costs that has nothing to do. Shorter delays are seen less exactly. */
const LOOP_RESOLUTION_MS = 20;
const COMMIT_MESSAGES = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

let ofProcess: Registry | undefined;

/** CPU, memory, event loop: numbers of the process, however many servers it has. Their collectors run for ever, so they begin once. */
function processRegistry(): Registry {
  if (!ofProcess) {
    ofProcess = new Registry();
    // The library's numbers of the event loop begin anew with each reading: two readers spoil each other's, and one that comes at once gets
    // nonsense. They rest, and are left out.
    // How busy the loop is it asks ten times a second, which a server that idles would notice.
    collectDefaultMetrics({ register: ofProcess, eventLoopMonitoringPrecision: 60_000, eventLoopUtilizationTimeout: 1_000 });
    for (const { name } of ofProcess.getMetricsAsArray()) if (name.startsWith("nodejs_eventloop_lag")) ofProcess.removeSingleMetric(name);
    watchEventLoop(ofProcess);
  }
  return ofProcess;
}

function watchEventLoop(registry: Registry): void {
  const delays = new Histogram({
    name: "handover_event_loop_delay_seconds",
    help: "The longest time in each second for which the event loop answered nobody.",
    buckets: LOOP_SECONDS,
    registers: [registry],
  });
  const monitor = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
  monitor.enable();
  let firstMs = 0;
  // The monitor measures from timer to timer, its resolution included; and begins anew with the first one after a start and a reset, so that what
  // comes before that one is measured here.
  const measureFirst = () => {
    const beganAtMs = performance.now();
    setTimeout(() => {
      firstMs = performance.now() - beganAtMs - LOOP_RESOLUTION_MS;
    }, LOOP_RESOLUTION_MS).unref();
  };
  measureFirst();
  let dueAtMs = performance.now() + 1_000;
  setInterval(() => {
    // When this was due in the same moment it may run before the monitor, which would be reset without having seen it.
    const lateMs = performance.now() - dueAtMs;
    dueAtMs = performance.now() + 1_000;
    delays.observe(Math.max(0, firstMs, lateMs, monitor.count > 0 ? monitor.max / 1e6 - LOOP_RESOLUTION_MS : 0) / 1000);
    monitor.reset();
    measureFirst();
  }, 1_000).unref();
}

/** The metrics of one server. */
export class Metrics {
  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE;
  readonly #registry = new Registry();
  /** Apart, since they can be missing: a counter that reads 0 for once is worse than none. */
  readonly #ofStore = new Registry();
  readonly #sent = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, 0])) as Record<SendOutcome, number>;
  readonly #handedOut: Record<Link["kind"], number> = { websocket: 0, sse: 0, poll: 0 };

  readonly #accept = this.#histogram("handover_accept_duration_seconds", "From a send's arrival to the store's durable answer.");
  readonly #settle = this.#histogram("handover_settle_duration_seconds", "From an acknowledgement's arrival to its being durable.");
  readonly #commit = this.#histogram("handover_commit_duration_seconds", "How long a commit of the store took, its sync to the disk included.");
  readonly #commitMessages = this.#histogram("handover_commit_messages", "Messages that a commit of the store accepted or settled.", COMMIT_MESSAGES);
  readonly #delivery = new Histogram({
    name: "handover_delivery_duration_seconds",
    help: "From a message's acceptance to handing it to a receiver, for the first time: one that was present when it was accepted, or one that came (back) later.",
    labelNames: ["receiver"],
    buckets: DELIVERY_SECONDS,
    registers: [this.#registry],
  });
  readonly #damaged = new Counter({
    name: "handover_store_damaged_total",
    help: "Messages and idempotency keys that the store found damaged on the disk, and gave to nobody.",
    registers: [this.#registry],
  });
  readonly #present = this.#delivery.labels("present");
  readonly #returning = this.#delivery.labels("returning");

  readonly #setOpen: (snapshot: Snapshot) => void;
  readonly #setTotals: (totals: Totals) => void;

  /** @param build  what `handover_build_info` says */
  constructor(build: { readonly version: string; readonly engine: string }) {
    processRegistry();
    this.#delivery.zero({ receiver: "present" });
    this.#delivery.zero({ receiver: "returning" });
    const info = this.#gauge("handover_build_info", "1, with the version of the server and the engine that it uses.", ["version", "engine"]);
    info.set({ ...build }, 1);

    const ready = this.#gauge(
      "handover_ready",
      "1 when messages are taken, as /readyz says; 0 when the store is full or has failed, or the server stops.",
    );
    const mailboxes = this.#gauge("handover_mailboxes", "Mailboxes that have receivers here.");
    const receivers = this.#gauge("handover_receivers", "Live receivers by transport; on polling, those that polled within 30 seconds.", [
      "transport",
    ]);
    const links = this.#gauge("handover_links", "Connections and held polls through which receivers get their mail now.", ["transport"]);
    const connections = this.#gauge("handover_connections", "Open TCP connections, of every kind.");
    const webSockets = this.#gauge("handover_websockets", "Open WebSockets, those that only send included.");
    const sends = this.#counter(
      "handover_sends_total",
      "Messages that were sent, by what became of them: accepted, repeated (an idempotency key that was known), or the code of the refusal.",
      ["outcome"],
    );
    const handedOut = this.#counter("handover_handed_out_total", "Deliveries that were handed to receivers, repeats included.", ["transport"]);
    this.#setOpen = ({ isReady, census, ...open }) => {
      ready.set(isReady ? 1 : 0);
      mailboxes.set(census.mailboxes);
      connections.set(open.connections);
      webSockets.set(open.webSockets);
      sends.reset();
      handedOut.reset();
      for (const outcome of OUTCOMES) sends.inc({ outcome }, this.#sent[outcome]);
      for (const transport of TRANSPORTS) {
        receivers.set({ transport }, census.live[transport]);
        links.set({ transport }, census.links[transport]);
        handedOut.inc({ transport }, this.#handedOut[transport]);
      }
    };

    const registers = [this.#ofStore];
    const accepted = new Counter({
      name: "handover_deliveries_accepted_total",
      help: "Deliveries (a message for one recipient) accepted since the store was made. Always the sum of those that ended and those that are unsettled.",
      registers,
    });
    const ended = new Counter({
      name: "handover_deliveries_ended_total",
      help: "Deliveries that ended since the store was made, each exactly once, by how.",
      labelNames: ["ending"],
      registers,
    });
    const unsettled = new Gauge({ name: "handover_deliveries_unsettled", help: "Deliveries that have not ended: mail that waits.", registers });
    // Each is made anew (reset), so that a reading that is being written meanwhile keeps its own.
    this.#setTotals = (totals) => {
      accepted.reset();
      accepted.inc(totals.accepted);
      ended.reset();
      for (const ending of ENDINGS) ended.inc({ ending }, totals[ending]);
      unsettled.reset();
      unsettled.set(totals.unsettled);
    };
  }

  /** Messages that were sent, whatever became of them. */
  get sentCount(): number {
    return Object.values(this.#sent).reduce((sum, count) => sum + count, 0);
  }

  /** A message that was sent has its outcome. */
  sent(outcome: SendOutcome): void {
    this.#sent[outcome] += 1;
  }

  /** What was accepted is durable. @param durationMs  since it arrived */
  accepted(durationMs: number): void {
    this.#accept.observe(durationMs / 1000);
  }

  /** What was acknowledged is durable. @param durationMs  since it arrived */
  settled(durationMs: number): void {
    this.#settle.observe(durationMs / 1000);
  }

  /** The store has committed. */
  readonly committed = ({ messages, durationMs }: CommitDone): void => {
    this.#commit.observe(durationMs / 1000);
    this.#commitMessages.observe(messages);
  };

  /** The store has found so much damaged. */
  readonly damaged = (count: number): void => {
    this.#damaged.inc(count);
  };

  /** A link that counts what it is handed. @param presentSinceMs  since when its receiver has been there, ms since the Unix epoch */
  counted(link: Link, presentSinceMs: number, now: () => number): Link {
    return new CountedLink(link, (deliveries) => this.#handed(link.kind, deliveries, presentSinceMs, now()));
  }

  #handed(kind: Link["kind"], deliveries: readonly Delivery[], presentSinceMs: number, nowMs: number): void {
    this.#handedOut[kind] += deliveries.length;
    for (const { acceptedAtMs } of deliveries) {
      if (acceptedAtMs === undefined) continue;
      const seconds = Math.max(0, nowMs - acceptedAtMs) / 1000;
      if (acceptedAtMs >= presentSinceMs) this.#present.observe(seconds);
      else this.#returning.observe(seconds);
    }
  }

  /** The text for Prometheus. All lines of the store are of one reading of it. */
  async text(snapshot: Snapshot): Promise<string> {
    const { totals } = snapshot;
    this.#setOpen(snapshot);
    if (totals) this.#setTotals(totals);
    const parts = await Promise.all([totals ? this.#ofStore.metrics() : "", this.#registry.metrics(), processRegistry().metrics()]);
    return parts.filter((part) => part !== "").join("\n");
  }

  #histogram(name: string, help: string, buckets: number[] = STORE_SECONDS): Histogram {
    return new Histogram({ name, help, buckets, registers: [this.#registry] });
  }

  #gauge<L extends string = never>(name: string, help: string, labelNames: L[] = []): Gauge<L> {
    return new Gauge({ name, help, labelNames, registers: [this.#registry] });
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }
}

class CountedLink implements Link {
  readonly kind: Link["kind"];
  readonly #link: Link;
  readonly #handed: (deliveries: readonly Delivery[]) => void;

  constructor(link: Link, handed: (deliveries: readonly Delivery[]) => void) {
    this.kind = link.kind;
    this.#link = link;
    this.#handed = handed;
  }

  send(frame: ServerFrame): boolean {
    if (frame.op === "deliver") this.#handed(frame.deliveries);
    return this.#link.send(frame);
  }

  close(reason: HandoverError): void {
    this.#link.close(reason);
  }
}
