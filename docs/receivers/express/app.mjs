import { createHash, randomUUID } from "node:crypto";
import { rename, writeFile } from "node:fs/promises";
import express from "express";

const inbox = process.env.INBOX ?? "inbox";
const app = express();

app.use((req, res, next) => (req.get("Countersign-Verified") ? next() : res.status(403).end()));
app.use(express.raw({ type: () => true, limit: "64mb" }));

app.post("/webhooks/carevalidate", async (req, res, next) => {
  try {
    const body = req.body; // a Buffer: the sender's bytes
    const digest = createHash("sha256").update(body).digest("hex");
    const part = `${inbox}/${randomUUID()}.part`;
    await writeFile(part, body, { flush: true });
    await rename(part, `${inbox}/${digest}`);
    console.log(req.get("Countersign-Request-Id"), digest);
    res.status(204).end();
  } catch (error) {
    next(error); // 500: the sender tries again
  }
});
app.listen(process.env.PORT ?? 3000, "127.0.0.1");
