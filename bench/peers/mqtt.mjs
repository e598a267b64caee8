// MQTT: Mosquitto over WebSocket with MQTT.js. QoS 1, a persistent session, a client id that a tab keeps over a reload, the broker's file
// written after every change, and the acknowledgement (PUBACK) only when the application's work is done.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import mqtt from "mqtt";

/** @param seconds  how long a session lives after its client has gone */
const peer = (title, seconds) => {
  const session = { clean: false, protocolVersion: 5, properties: { sessionExpiryInterval: seconds } };
  return {
    title,
    packages: ["mqtt"],
    programs: [["mosquitto", "-h"]],
    processes(port, dir) {
      const file = join(dir, "mosquitto.conf");
      const lines = [`listener ${port} 127.0.0.1`, "protocol websockets", "allow_anonymous true", "user root"];
      // Without a listener that speaks plain MQTT it does not start.
      lines.push(`listener 0 ${join(dir, "mosquitto.sock")}`);
      lines.push("persistence true", `persistence_location ${dir}/`, "autosave_on_changes true", "autosave_interval 1");
      writeFileSync(file, `${lines.join("\n")}\n`);
      return [{ command: "mosquitto", args: ["-c", file], port }];
    },
    async openPage({ url, user, tab, handle }) {
      const client = mqtt.connect(url.replace("http", "ws"), { clientId: `${user}-${tab}`, ...session });
      client.on("error", () => {});
      // Called for one message after the other; the acknowledgement goes out when `done` is called.
      client.handleMessage = ({ payload }, done) => void handle(JSON.parse(payload.toString()).n).then(() => done());
      client.on("connect", () => client.subscribe(`users/${user}`, { qos: 1 }, () => {}));
      return { drop: () => client.end(true) };
    },
    async openSender(url) {
      const client = mqtt.connect(url.replace("http", "ws"), { clientId: "sender", ...session });
      client.on("error", () => {});
      return {
        send: (user, message) => client.publishAsync(`users/${user}`, JSON.stringify(message), { qos: 1 }),
        close: () => client.end(true),
      };
    },
  };
};
export const peers = [peer("Mosquitto over WebSocket, MQTT.js, QoS 1, persistent session", 7 * 86_400)];
/** Its clock has moved if this one loses everything. */
export const control = peer("Mosquitto, with sessions of 10 minutes", 600);
