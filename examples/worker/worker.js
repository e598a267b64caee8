import { connect } from "@handover/client";
import { HandoverService } from "@handover/client/service";

const url = process.env.HANDOVER_URL ?? "http://127.0.0.1:8080";
const service = new HandoverService(url, process.env.HANDOVER_SERVICE_KEY ?? "");

// It has a mailbox like any user: what is sent to it while it is away waits.
const handover = connect(url, { token: async () => (await service.createSession("worker")).token });

handover.on("sum", async (message) => {
  const sum = message.data.numbers.reduce((one, other) => one + other, 0);
  // Acknowledged when the answer is on the server's disk; killed before that, the worker gets the question again.
  await handover.reply(message, { sum });
});

// Finishes what is under way.
process.once("SIGTERM", () => handover.close());
