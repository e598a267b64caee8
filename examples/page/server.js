import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { HandoverService } from "@handover/client/service";

const handover = new HandoverService(process.env.HANDOVER_URL ?? "http://127.0.0.1:8080", process.env.HANDOVER_SERVICE_KEY ?? "");
const page = await readFile(new URL("index.html", import.meta.url), "utf8");

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  try {
    if (request.method === "POST" && pathname === "/token") {
      // In earnest: whoever has logged in to your application, and never what the page says.
      const user = searchParams.get("user") ?? "ann";
      response.end((await handover.createSession(user)).token);
    } else
      response
        .setHeader("Content-Type", "text/html")
        .end(page.replaceAll("http://127.0.0.1:8080", process.env.HANDOVER_URL ?? "http://127.0.0.1:8080"));
  } catch (error) {
    response.writeHead(502).end(String(error));
  }
});
server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/?user=ann`));
