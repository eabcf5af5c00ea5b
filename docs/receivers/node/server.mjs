import { createHash, randomUUID } from "node:crypto";
import { rename, writeFile } from "node:fs/promises";
import { createServer } from "node:http";

const inbox = process.env.INBOX ?? "inbox";

createServer(async (request, response) => {
  try {
    if (!("countersign-verified" in request.headers)) return response.writeHead(403).end();
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const digest = createHash("sha256").update(body).digest("hex");
    const part = `${inbox}/${randomUUID()}.part`;
    await writeFile(part, body, { flush: true });
    await rename(part, `${inbox}/${digest}`);
    console.log(request.headers["countersign-request-id"], digest);
    response.writeHead(204).end();
  } catch (error) {
    console.error(error);
    response.writeHead(500).end();
  }
}).listen(process.env.PORT ?? 3000, "127.0.0.1");
