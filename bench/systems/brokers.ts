/**
 * Brokers of Debian's packages, each started with a configuration, a folder and ports of its own.
 * @module
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { freePort } from "../../test/support/port.ts";
import { commandLine, howToHave, isThere, versionSaid } from "../debian.ts";
import { adopt, folder, start } from "../start.ts";
import type { Running, System } from "../system.ts";
import { versionOf } from "../wires/packages.ts";

const absent = (version: string | undefined, name: string) => (version === undefined ? howToHave(name) : undefined);

const mosquittoVersion = versionSaid("mosquitto", "-h");
export const mosquitto: System = {
  name: "mosquitto",
  title: "Mosquitto, MQTT QoS 1",
  version: mosquittoVersion ?? "",
  guarantee:
    "accept: in memory (persistence true: a snapshot every 30 minutes and at the end, no sync; kill -9 loses what came since); acknowledgement: PUBACK, not confirmed",
  missing: absent(mosquittoVersion, "mosquitto"),
  wires: [{ wire: "mqtt", label: "WebSocket" }],
  async start(): Promise<Running> {
    const own = folder("mosquitto");
    const [port, plainPort] = [await freePort(), await freePort()];
    // Version 2.0.11 ends itself when WebSocket is all that it listens for. The limits are raised so that nothing is dropped (max_queued_messages) and nothing waits for its turn (max_inflight_messages).
    const lines = [
      "per_listener_settings false",
      `listener ${plainPort} 127.0.0.1`,
      `listener ${port} 127.0.0.1`,
      "protocol websockets",
      "allow_anonymous true",
      "persistence true",
      `persistence_location ${own.path}/`,
      "max_inflight_messages 0",
      "max_queued_messages 0",
      "user root",
    ];
    writeFileSync(join(own.path, "mosquitto.conf"), `${lines.join("\n")}\n`);
    const program = await start({ ...commandLine("mosquitto", ["-c", join(own.path, "mosquitto.conf")]), port });
    return stopping([program.pid], `ws://127.0.0.1:${port}`, own, program.stop);
  },
};

function stopping(pids: readonly number[], address: string, own: { readonly path: string; remove(): void }, stop: () => Promise<void>): Running {
  return {
    pids,
    address,
    folder: own.path,
    async stop() {
      await stop();
      own.remove();
    },
  };
}

const natsVersion = versionSaid("nats-server", "--version");
const SYNC_SINCE = [2, 10];

function jetStream(isSynced: boolean): System {
  const [major = 0, minor = 0] = natsVersion?.split(".").map(Number) ?? [];
  const canSync = major > (SYNC_SINCE[0] ?? 0) || (major === SYNC_SINCE[0] && minor >= (SYNC_SINCE[1] ?? 0));
  const lacks =
    isSynced && !canSync
      ? `sync_interval came with 2.10, and this is ${natsVersion}; with the brokers of Debian 13 it runs (BROKERS_ROOT, docs/performance.md)`
      : undefined;
  return {
    name: isSynced ? "nats-sync" : "nats",
    title: isSynced ? "NATS JetStream, sync_interval always" : "NATS JetStream, file",
    version: natsVersion ?? "",
    guarantee: isSynced
      ? "accept: synced to disk; acknowledgement: +ACK, not confirmed"
      : "accept: written, not synced (a sync every 2 minutes: a power cut loses what came since); acknowledgement: +ACK, not confirmed",
    missing: absent(natsVersion, "nats-server") ?? lacks,
    wires: [{ wire: "nats", label: "WebSocket" }],
    async start() {
      const own = folder("nats");
      const [port, webSocketPort] = [await freePort(), await freePort()];
      const lines = [
        `listen: "127.0.0.1:${port}"`,
        `jetstream { store_dir: "${own.path}", max_file_store: 10GB${isSynced ? ", sync_interval: always" : ""} }`,
        `websocket { listen: "127.0.0.1:${webSocketPort}", no_tls: true }`,
      ];
      writeFileSync(join(own.path, "nats.conf"), lines.join("\n"));
      const program = await start({ ...commandLine("nats-server", ["-c", join(own.path, "nats.conf")]), port: webSocketPort });
      return stopping([program.pid], `ws://127.0.0.1:${webSocketPort}`, own, program.stop);
    },
  };
}
export const nats = jetStream(false);
export const natsSynced = jetStream(true);

export const RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const rabbitVersion = isThere(RABBITMQ) ? versionSaid("dpkg-query", "-W", "rabbitmq-server") : undefined;

/** A node of its own, as test/support/broker.ts has one. */
export async function startRabbitMq(plugins: readonly string[] = []): Promise<Running & { readonly webSocketPort: number }> {
  const own = folder("rabbitmq");
  const [port, distPort, mqttPort, webSocketPort] = [await freePort(), await freePort(), await freePort(), await freePort()];
  mkdirSync(join(own.path, "log"));
  writeFileSync(join(own.path, "plugins"), `[${plugins.join(",")}].`);
  const mqtt = [
    `mqtt.listeners.tcp.1 = 127.0.0.1:${mqttPort}`,
    `web_mqtt.tcp.ip = 127.0.0.1`,
    `web_mqtt.tcp.port = ${webSocketPort}`,
    "mqtt.prefetch = 1000",
  ];
  writeFileSync(join(own.path, "rabbitmq.conf"), `loopback_users = none\n${plugins.length > 0 ? mqtt.join("\n") : ""}\n`);
  const program = await start({
    ...commandLine(RABBITMQ, []),
    port: plugins.length > 0 ? webSocketPort : port,
    env: {
      PATH: process.env.PATH,
      HOME: own.path,
      RABBITMQ_NODENAME: `bench-${port}@localhost`,
      RABBITMQ_NODE_IP_ADDRESS: "127.0.0.1",
      RABBITMQ_NODE_PORT: String(port),
      RABBITMQ_DIST_PORT: String(distPort),
      RABBITMQ_MNESIA_BASE: join(own.path, "mnesia"),
      RABBITMQ_LOG_BASE: join(own.path, "log"),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(own.path, "plugins"),
      RABBITMQ_CONFIG_FILE: join(own.path, "rabbitmq"),
      RABBITMQ_PID_FILE: join(own.path, "pid"),
      // The broker and its script are one process group's; no crash dump where the data is removed anyway.
      ERL_CRASH_DUMP_SECONDS: "0",
    },
  });
  const pid = Number(readFileSync(join(own.path, "pid"), "utf8"));
  const end = adopt(pid);
  const running = stopping([pid], `amqp://guest:guest@127.0.0.1:${port}`, own, async () => {
    end();
    await program.stop();
  });
  return { ...running, webSocketPort };
}

export const rabbitMq: System = {
  name: "rabbitmq",
  title: "RabbitMQ, quorum queues",
  version: rabbitVersion ?? "",
  guarantee: "accept: publisher confirm, synced to disk (group commit); acknowledgement: basic.ack, not confirmed",
  get missing() {
    return absent(rabbitVersion, "rabbitmq-server") ?? (versionOf("amqplib") === undefined ? "amqplib is not installed" : undefined);
  },
  wires: [{ wire: "amqp", label: "AMQP" }],
  start: () => startRabbitMq(),
};

export const webMqtt: System = {
  name: "web-mqtt",
  title: "RabbitMQ, Web-MQTT QoS 1",
  version: rabbitVersion ?? "",
  guarantee:
    "accept: PUBACK, persistent sessions on durable classic queues, written or already consumed, not synced (with quorum queues, mqtt.durable_queue_type, 3.10 delivered nothing here); acknowledgement: PUBACK, not confirmed",
  missing: absent(rabbitVersion, "rabbitmq-server"),
  wires: [{ wire: "mqtt", label: "WebSocket" }],
  async start() {
    const running = await startRabbitMq(["rabbitmq_mqtt", "rabbitmq_web_mqtt"]);
    return { ...running, address: `ws://guest:guest@127.0.0.1:${running.webSocketPort}/ws` };
  },
};
