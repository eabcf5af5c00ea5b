// Shows the vectors to the providers' own SDKs and to independent libraries. Started by judge.py, inside a temporary
// folder that holds node_modules:   node judge.mjs FOLDER-WITH-PROVIDER-JSON   -> one JSON line per judgement.
// No network: `fetch` and `https.get` answer from the vector alone.
import { createRequire, register } from "node:module";
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";

const require = createRequire(import.meta.url);
const folder = process.argv[2];
const packages = JSON.parse(fs.readFileSync("package.json")).dependencies;

// The clock of the vector, for SDKs that read the time themselves.
const RealDate = Date;
let clock = 0;
globalThis.Date = class extends RealDate {
  constructor(...args) { args.length ? super(...args) : super(clock); }
  static now() { return clock; }
};

let documents = {};
const answer = (url) => {
  const text = documents[String(url)];
  if (text === undefined) throw new Error(`no network: ${url}`);
  return text;
};
globalThis.fetch = async (input) => new Response(answer(input?.url ?? input), { status: 200, headers: { "content-type": "application/json" } });
const https = require("https");
https.get = (url, done) => {
  const { EventEmitter } = require("events");
  const response = Object.assign(new EventEmitter(), { statusCode: 200 });
  const text = answer(url);
  setImmediate(() => { done(response); response.emit("data", Buffer.from(text)); response.emit("end"); });
  return new EventEmitter();
};

// Lets a Nuxt module run without Nuxt: its three imports are answered here.
globalThis.__nuxt = {};
const stub = `export const useRuntimeConfig = () => globalThis.__nuxt.config;
export const getRequestHeaders = (e) => e.lower; export const getRequestHeader = (e, n) => e.lower[n];
export const readRawBody = async (e) => e.text; export const getRequestIP = () => "1.179.112.1"; export const createError = (e) => new Error(e.message);
export const snakeCase = (s) => s;`;
register("data:text/javascript," + encodeURIComponent(`const stub = "data:text/javascript," + ${JSON.stringify(encodeURIComponent(stub))};
export async function resolve(name, context, next) {
  if (["h3", "#imports", "scule"].includes(name)) return { url: stub, shortCircuit: true };
  return next(name, context);
}`));

// ---- the judges ----------------------------------------------------------------------------------------------------
// judge(provider, package, function, run, options): run gets the request and answers true, or anything else, or throws.
const judges = [];
const judge = (provider, pkg, fn, run, options = {}) => judges.push({ provider, pkg, fn, run, ...options });
const SKIP = Symbol("not for this SDK");
const ok = (x) => { void x; return true; };
const within = (name) => path.join(process.cwd(), "node_modules", name);
const query = (text) => Object.fromEntries(new URLSearchParams(text));

judge("adyen", "@adyen/api-library", "hmacValidator.validateHMAC", (r) => {
  const V = require("@adyen/api-library").hmacValidator;
  const items = JSON.parse(r.body).notificationItems.map((i) => i.NotificationRequestItem);
  return items.every((i) => new V().validateHMAC(i, r.secret) && new V().calculateHmac(i, r.secret) === i.additionalData.hmacSignature);
}, { schemes: ["standard"], signs: true, flip: (b) => b.replace(/"value":/, '"value":9') });
judge("adyen", "@adyen/api-library", "hmacValidator.validateHMACSignature", (r) =>
  new (require("@adyen/api-library").hmacValidator)().validateHMACSignature(r.secret, r.h("hmacsignature"), r.body), { schemes: ["platform"] });
judge("anthropic", "@anthropic-ai/sdk", "client.beta.webhooks.unwrap", (r) => {
  const A = require("@anthropic-ai/sdk").default;
  return ok(new A({ apiKey: "x" }).beta.webhooks.unwrap(r.body, { headers: r.headers, key: r.secret }));
});
judge("aws-sns", "sns-validator", "MessageValidator.validate", (r) => new Promise((resolve) =>
  new (require("sns-validator"))().validate(r.body, (e) => resolve(!e))), { flip: (b) => b.replace('\\"n\\":1', '\\"n\\":2').replace("You", "you"), skip: (v) => /pinned|unsubscription/.test(v.id) }); // it signs UnsubscribeConfirmation like a Notification; the vendor's documentation does not
judge("box", "box-node-sdk", "WebhooksManager.validateMessage", async (r) => {
  const { WebhooksManager } = require(within("box-node-sdk/lib/managers/webhooks.js"));
  return WebhooksManager.validateMessage(r.body, r.headers, r.secrets[0], r.secrets[1] ? { secondaryKey: r.secrets[1] } : undefined);
});
judge("braintree", "braintree", "gateway.webhookNotification.validateSignature", async (r) => {
  const b = require("braintree");
  const g = new b.BraintreeGateway({ environment: b.Environment.Sandbox, merchantId: "m", publicKey: r.params.public_key, privateKey: r.secret });
  const f = query(r.body);
  const fault = g.webhookNotification.validateSignature(f.bt_signature, f.bt_payload);
  return fault === null || String(fault);
}, { flip: (b) => b.replace("bt_payload=P", "bt_payload=Q") });
judge("cashfree", "cashfree-pg", "Cashfree.PGVerifyWebhookSignature", (r) => {
  const { Cashfree, CFEnvironment } = require("cashfree-pg");
  return ok(new Cashfree(CFEnvironment?.SANDBOX, "id", r.secret).PGVerifyWebhookSignature(r.h("x-webhook-signature"), r.body, r.h("x-webhook-timestamp")));
});
judge("chargebee", "chargebee", "basicAuthValidator", async (r) => {
  const { basicAuthValidator } = require("chargebee");
  const at = r.secret.indexOf(":");
  await basicAuthValidator((u, p) => u === r.secret.slice(0, at) && p === r.secret.slice(at + 1))(r.headers);
  return true;
}, { unsigned_body: true });
judge("clerk", "@clerk/backend", "verifyWebhook", async (r) => {
  const { verifyWebhook } = await import("@clerk/backend/webhooks");
  return ok(await verifyWebhook(new Request("https://hooks.example.org/", { method: "POST", headers: r.headers, body: r.body }), { signingSecret: r.secret }));
});
judge("cloudinary", "cloudinary", "utils.verifyNotificationSignature", (r) => {
  const c = require("cloudinary").v2;
  c.config({ api_secret: r.secret, cloud_name: "c", api_key: "k" });
  const same = c.utils.webhook_signature(r.body, Number(r.h("x-cld-timestamp"))) === r.h("x-cld-signature");
  return same && c.utils.verifyNotificationSignature(r.body, Number(r.h("x-cld-timestamp")), r.h("x-cld-signature"));
}, { signs: true });
judge("coinbase-commerce", "coinbase-commerce-node", "Webhook.verifySigHeader", (r) => {
  const W = require("coinbase-commerce-node").Webhook;
  W.verifySigHeader(r.body, r.h("x-cc-webhook-signature"), r.secret);
  return true;
});
judge("contentful", "@contentful/node-apps-toolkit", "verifyRequest and signRequest", (r) => {
  const { verifyRequest, signRequest } = require("@contentful/node-apps-toolkit");
  const canonical = { method: r.method, path: r.target, headers: r.headers, body: r.body };
  if (!verifyRequest(r.secret, canonical, 30)) return false;
  const listed = Object.fromEntries(r.h("x-contentful-signed-headers").split(",").filter((n) => !/signed-headers|timestamp/.test(n)).map((n) => [n, r.headers[n]]));
  const signed = signRequest(r.secret, { ...canonical, headers: listed }, Number(r.h("x-contentful-timestamp")));
  return signed["x-contentful-signature"] === r.h("x-contentful-signature");
}, { signs: true });
judge("discord", "discord-interactions", "verifyKey", (r) =>
  require("discord-interactions").verifyKey(r.raw, r.h("x-signature-ed25519"), r.h("x-signature-timestamp"), r.secret));
judge("dodo-payments", "dodopayments", "client.webhooks.unwrap", (r) => {
  const D = require("dodopayments").default;
  return ok(new D({ bearerToken: "x" }).webhooks.unwrap(r.body, { headers: r.headers, key: r.secret }));
});
judge("dropbox-sign", "@dropbox/sign", "EventCallbackHelper.isValid", (r) => {
  const { EventCallbackHelper, EventCallbackRequest } = require("@dropbox/sign");
  const text = r.body.split('name="json"\r\n\r\n')[1].split("\r\n--")[0];
  return EventCallbackHelper.isValid(r.secret, EventCallbackRequest.init(JSON.parse(text)));
}, { flip: (b) => b.replace(/"event_time": "1/, '"event_time": "2') });
judge("easypost", "@easypost/api", "client.Utils.validateWebhook", (r) => {
  const E = require("@easypost/api");
  return ok(new (E.default ?? E)("key").Utils.validateWebhook(r.raw, r.headers_exact, r.secret));
});
judge("elevenlabs", "@elevenlabs/elevenlabs-js", "client.webhooks.constructEvent", async (r) => {
  const { ElevenLabsClient } = require("@elevenlabs/elevenlabs-js");
  return ok(await new ElevenLabsClient({ apiKey: "x" }).webhooks.constructEvent(r.body, r.h("elevenlabs-signature"), r.secret));
});
judge("finch", "@tryfinch/finch-api", "client.webhooks.verifySignature", (r) => {
  const F = require("@tryfinch/finch-api").default;
  new F({ accessToken: "x" }).webhooks.verifySignature(r.body, r.headers, r.secret);
  return true;
});
judge("github", "@octokit/webhooks-methods", "verify and sign", async (r) => {
  const { verify, sign } = await import("@octokit/webhooks-methods");
  return (await verify(r.secret, r.body, r.h("x-hub-signature-256"))) && (await sign(r.secret, r.body)) === r.h("x-hub-signature-256");
}, { schemes: ["default"], signs: true });
judge("gocardless", "gocardless-nodejs", "webhooks.verifySignature", async (r) => {
  const w = require("gocardless-nodejs/webhooks");
  w.verifySignature(r.body, r.secret, r.h("webhook-signature"));
  return true;
});
judge("google-pubsub", "google-auth-library", "OAuth2Client.verifySignedJwtWithCertsAsync", async (r) => {
  const { OAuth2Client } = require("google-auth-library");
  const keys = JSON.parse(r.fetched?.["https://www.googleapis.com/oauth2/v3/certs"] ?? r.secret).keys;
  const certs = Object.fromEntries(keys.map((k) => [k.kid, crypto.createPublicKey({ key: k, format: "jwk" }).export({ type: "spki", format: "pem" })]));
  const ticket = await new OAuth2Client().verifySignedJwtWithCertsAsync(r.h("authorization").slice(7), certs, r.params.audience, ["https://accounts.google.com"]);
  return ticket.getPayload().email === r.params.email && ticket.getPayload().email_verified === true;
}, { unsigned_body: true });
judge("hubspot", "@hubspot/api-client", "Signature.isValid and getSignature", (r) => {
  const { Signature } = require("@hubspot/api-client");
  const version = r.scheme;
  const o = { clientSecret: r.secret, requestBody: r.body, url: r.signed_url ?? r.url, method: r.method, timestamp: version === "v3" ? Number(r.h("x-hubspot-request-timestamp")) : undefined };
  const sent = r.h(version === "v3" ? "x-hubspot-signature-v3" : "x-hubspot-signature");
  return Signature.isValid({ ...o, signatureVersion: version, signature: sent }) && Signature.getSignature(r.method, version, o) === sent;
}, { signs: true, skip: (v) => /decoded/.test(v.id) }); // it leaves the decoding of the URL to its caller
judge("hygraph", "@hygraph/utils", "verifyWebhookSignature", (r) =>
  require("@hygraph/utils").verifyWebhookSignature({ rawPayload: r.body, signature: r.h("gcms-signature"), secret: r.secret }));
judge("inngest", "inngest", "signDataWithKey", async (r) => {
  const net = require(within("inngest/helpers/net.cjs"));
  const q = new URLSearchParams(r.h("x-inngest-signature"));
  for (const secret of r.secrets) {
    const made = await net.signDataWithKey(JSON.parse(r.body), secret, q.get("t"), { warn() {}, debug() {}, error() {}, info() {} });
    if (made === q.get("s")) return true;
  }
  return false;
}, { signs: true, flip: (b) => b.replace("01H08S", "01H08T") });
judge("kinde", "@kinde/webhooks", "decodeWebhook", async (r) => {
  const { decodeWebhook } = await import("@kinde/webhooks");
  return Boolean(await decodeWebhook(r.body, "https://countersign-test.kinde.com"));
}, { skip: (v) => /pinned/.test(v.id), flip: (b) => b.slice(0, -3) + (b.at(-3) === "A" ? "B" : "A") + b.slice(-2) });
judge("kontent-ai", "@kontent-ai/webhook-helper", "signatureHelper.isValidSignatureFromString", (r) =>
  require("@kontent-ai/webhook-helper").signatureHelper.isValidSignatureFromString(r.body, r.secret, r.h("x-kontent-ai-signature") ?? r.h("x-kc-signature")));
judge("line", "@line/bot-sdk", "validateSignature", (r) => require("@line/bot-sdk").validateSignature(r.raw, r.secret, r.h("x-line-signature")));
judge("linear", "@linear/sdk", "LinearWebhookClient.verify", async (r) => {
  const { LinearWebhookClient } = await import("@linear/sdk/webhooks");
  return new LinearWebhookClient(r.secret).verify(r.raw, r.h("linear-signature"), JSON.parse(r.body).webhookTimestamp);
});
judge("lithic", "lithic", "client.webhooks.unwrap", (r) => {
  const L = require("lithic").default;
  return ok(new L({ apiKey: "x" }).webhooks.unwrap(r.body, r.headers, r.secret));
});
judge("liveblocks", "@liveblocks/node", "WebhookHandler.verifyRequest", (r) => {
  const { WebhookHandler } = require("@liveblocks/node");
  try { return ok(new WebhookHandler(r.secret).verifyRequest({ headers: r.headers, rawBody: r.body })); }
  catch (e) { if (/Unknown event type/i.test(e.message)) return true; throw e; } // only after the signature held
});
judge("livekit", "livekit-server-sdk", "WebhookReceiver.receive", async (r) => {
  const { WebhookReceiver } = await import("livekit-server-sdk");
  return ok(await new WebhookReceiver(r.params.api_key, r.secret).receive(r.body, r.h("authorization")));
});
judge("mercado-pago", "mercadopago", "WebhookSignatureValidator.validate", (r) => {
  const { WebhookSignatureValidator } = require("mercadopago");
  const q = query(r.target.split("?")[1]);
  WebhookSignatureValidator.validate({ xSignature: r.h("x-signature"), xRequestId: r.h("x-request-id"), dataId: q["data.id"], secret: r.secret });
  return true;
}, { unsigned_body: true, skip: (v) => /mixed-case/.test(v.id) }); // it leaves lower-casing of the id to its caller
judge("messagebird", "messagebird", "webhook-signature-jwt.verify", async (r) => {
  const m = require(within("messagebird/lib/webhook-signature-jwt.js"));
  const options = new m.VerifyOptions(true, true, { issuer: "MessageBird", algorithms: ["HS256", "HS384", "HS512"], clockTolerance: 5, currentDate: new RealDate(clock) });
  await m.verify(r.url, r.raw, r.h("messagebird-signature-jwt"), crypto.createSecretKey(Buffer.from(r.secret)), options);
  return true;
}, { schemes: ["jwt"] });
judge("messagebird", "messagebird", "signature.validate", (r) => {
  return require(within("messagebird/lib/signature.js")).validate({ headers: r.headers, query: query(r.target.split("?")[1] ?? ""), body: r.raw }, r.secret);
}, { schemes: ["hmac"] });
judge("modern-treasury", "modern-treasury", "client.webhooks.validateSignature and getSignature", (r) => {
  const M = require("modern-treasury").default;
  const w = new M({ apiKey: "x", organizationID: "y", webhookKey: r.secret }).webhooks;
  return w.validateSignature(r.body, r.headers) && w.getSignature(r.body) === r.h("x-signature");
}, { signs: true });
let moralis;
judge("moralis", "@moralisweb3/streams", "Streams.verifySignature", async (r) => {
  if (!moralis) {
    const core = require("@moralisweb3/common-core").Core.create();
    const { Streams } = require("@moralisweb3/streams");
    moralis = { core, streams: Streams.create(core) };
    core.registerModules?.([moralis.streams]);
  }
  moralis.core.config.set("streamsSecret", r.secret);
  return moralis.streams.verifySignature({ body: JSON.parse(r.body), signature: r.h("x-signature") });
}, { flip: (b) => b.replace("0x1", "0x2") });
judge("moralis", "@noble/hashes", "keccak_256", async (r) => {
  const { keccak_256 } = await import("@noble/hashes/sha3.js");
  return "0x" + Buffer.from(keccak_256(Buffer.concat([r.raw, Buffer.from(r.secret)]))).toString("hex") === r.h("x-signature");
}, { official: false, signs: true });
judge("mux", "@mux/mux-node", "mux.webhooks.verifySignature", async (r) => {
  const M = require("@mux/mux-node").default;
  const w = new M({ tokenId: "a", tokenSecret: "b", webhookSecret: r.secret }).webhooks;
  await (w.verifySignature ? w.verifySignature(r.body, r.headers, r.secret) : w.unwrap(r.body, r.headers, r.secret));
  return true;
});
judge("notion", "@notionhq/client", "verifyWebhookSignature and signWebhookPayload", async (r) => {
  const n = require("@notionhq/client");
  const good = await n.verifyWebhookSignature({ body: r.body, signature: r.h("x-notion-signature"), verificationToken: r.secret });
  return good && (await n.signWebhookPayload({ body: r.body, verificationToken: r.secret })) === r.h("x-notion-signature");
}, { signs: true });
judge("onfido", "@onfido/api", "WebhookEventVerifier.readPayload", (r) => {
  const { WebhookEventVerifier } = require("@onfido/api");
  try { return ok(new WebhookEventVerifier(r.secret).readPayload(r.raw, r.h("x-sha2-signature"))); }
  catch (e) { if (e instanceof TypeError) return true; throw e; } // the shape of our invented body, after the signature held
});
judge("openai", "openai", "client.webhooks.verifySignature", async (r) => {
  const O = require("openai").default;
  await new O({ apiKey: "x" }).webhooks.verifySignature(r.body, r.headers, r.secret);
  return true;
});
judge("opennode", "opennode", "client.verifySignature", (r) => {
  const { OpenNodeClient } = require(within("opennode/dist/client.js"));
  return new OpenNodeClient(r.secret, "dev").verifySignature(query(r.body));
}, { flip: (b) => b.replace("id=47", "id=48") });
judge("paddle", "@paddle/paddle-node-sdk", "paddle.webhooks.isSignatureValid", async (r) => {
  const { Paddle } = require("@paddle/paddle-node-sdk");
  return new Paddle("x").webhooks.isSignatureValid(r.body, r.secret, r.h("paddle-signature"));
});
judge("plivo", "plivo", "validateV3Signature", (r) => {
  const p = require("plivo");
  const groups = {};
  for (const [k, v] of new URLSearchParams(r.method === "POST" ? r.body : "")) k in groups ? groups[k].push(v) : groups[k] = [v];
  const params = Object.fromEntries(Object.entries(groups).map(([k, v]) => [k, v.length > 1 ? v : v[0]]));
  return p.validateV3Signature(r.method, r.url, r.h("x-plivo-signature-v3-nonce"), r.secret, r.h("x-plivo-signature-v3"), params);
}, { schemes: ["v3"], flip: (b) => b.replace("From=", "From=1") });
judge("plivo", "plivo", "validateSignature", (r) => require("plivo").validateSignature(r.url, r.h("x-plivo-signature-v2-nonce"), r.h("x-plivo-signature-v2"), r.secret),
  { schemes: ["v2"], unsigned_body: true });
judge("polar", "@polar-sh/sdk", "validateEvent", async (r) => {
  const { validateEvent, WebhookVerificationError } = await import("@polar-sh/sdk/webhooks");
  try { return ok(validateEvent(r.body, r.headers, r.secret)); }
  catch (e) { if (e instanceof WebhookVerificationError) throw e; return true; } // an event type of our own invention
});
judge("pusher", "pusher", "pusher.webhook(request).isValid", (r) => {
  const P = require("pusher");
  const p = new P({ appId: "1", key: r.h("x-pusher-key"), secret: r.secret, cluster: "eu" });
  return p.webhook({ headers: r.headers, rawBody: r.body }).isValid();
});
judge("qstash", "@upstash/qstash", "Receiver.verify", async (r) => {
  const { Receiver } = require("@upstash/qstash");
  return new Receiver({ currentSigningKey: r.secrets[0], nextSigningKey: r.secrets[1] }).verify({ signature: r.h("upstash-signature"), body: r.body, url: r.url });
});
judge("razorpay", "razorpay", "validateWebhookSignature", (r) => require(within("razorpay/dist/utils/razorpay-utils.js")).validateWebhookSignature(r.body, r.h("x-razorpay-signature"), r.secret));
judge("replicate", "replicate", "validateWebhook", (r) => require("replicate").validateWebhook({ headers: r.headers, body: r.body }, r.secret));
judge("resend", "resend", "resend.webhooks.verify", (r) => {
  const { Resend } = require("resend");
  return ok(new Resend("re_x").webhooks.verify({ payload: r.body, headers: { id: r.h("svix-id"), timestamp: r.h("svix-timestamp"), signature: r.h("svix-signature") }, webhookSecret: r.secret }));
});
judge("retell", "retell-sdk", "Retell.verify", (r) => require(within("retell-sdk/lib/webhook_auth.js")).verify(r.body, r.secret, r.h("x-retell-signature")));
judge("sanity", "@sanity/webhook", "isValidSignature and encodeSignatureHeader", async (r) => {
  const s = require("@sanity/webhook");
  const header = r.h("sanity-webhook-signature");
  return (await s.isValidSignature(r.body, header, r.secret)) && (await s.encodeSignatureHeader(r.body, Number(/t=(\d+)/.exec(header)[1]), r.secret)) === header;
}, { signs: true });
judge("seam", "@seamapi/webhook", "SeamWebhook.verify", async (r) => {
  const { SeamWebhook } = await import("@seamapi/webhook");
  return ok(new SeamWebhook(r.secret).verify(r.body, r.headers));
});
judge("sendgrid", "@sendgrid/eventwebhook", "EventWebhook.verifySignature", (r) => {
  const { EventWebhook } = require("@sendgrid/eventwebhook");
  const e = new EventWebhook();
  return e.verifySignature(e.convertPublicKeyToECDSA(r.secret), r.raw, r.h("x-twilio-email-event-webhook-signature"), r.h("x-twilio-email-event-webhook-timestamp"));
});
judge("shopify", "@shopify/shopify-api", "shopify.webhooks.validate", async (r) => {
  require("@shopify/shopify-api/adapters/node");
  const { shopifyApi, LATEST_API_VERSION, ApiVersion } = require("@shopify/shopify-api");
  const s = shopifyApi({ apiKey: "k", apiSecretKey: r.secret, scopes: [], hostName: "hooks.example.org", apiVersion: LATEST_API_VERSION ?? Object.values(ApiVersion).at(-1), isEmbeddedApp: false });
  const extra = { "x-shopify-topic": "orders/create", "x-shopify-api-version": "2025-10", "x-shopify-shop-domain": "a.myshopify.com", "x-shopify-webhook-id": "w" };
  const events = { "shopify-topic": "orders/create", "shopify-api-version": "2025-10", "shopify-shop-domain": "a.myshopify.com", "shopify-webhook-id": "w", "shopify-event-id": "e", "shopify-handle": "h", "shopify-action": "create", "shopify-resource-id": "1" };
  const headers = { ...(r.scheme === "events" ? events : extra), ...r.headers };
  const answer = await s.webhooks.validate({ rawBody: r.body, rawRequest: { method: "POST", url: "/", headers }, rawResponse: {} });
  return answer.valid === true;
});
judge("slack", "@slack/bolt", "isValidSlackRequest", (r) => require(within("@slack/bolt/dist/receivers/verify-request.js")).isValidSlackRequest({ signingSecret: r.secret, body: r.body,
  headers: { "x-slack-signature": r.h("x-slack-signature"), "x-slack-request-timestamp": Number(r.h("x-slack-request-timestamp")) } }));
judge("square", "square", "WebhooksHelper.verifySignature", async (r) => require("square").WebhooksHelper.verifySignature({ requestBody: r.body, signatureHeader: r.h("x-square-hmacsha256-signature"), signatureKey: r.secret, notificationUrl: r.url }));
judge("stream", "stream-chat", "StreamChat.verifyAndParseWebhook", (r) => {
  const { StreamChat } = require("stream-chat");
  return Boolean(new StreamChat("key", r.secret).verifyAndParseWebhook(r.raw, r.h("x-signature")));
});
judge("stripe", "stripe", "webhooks.constructEvent and generateTestHeaderString", (r) => {
  const S = require("stripe");
  const s = new S("sk_x");
  s.webhooks.constructEvent(r.body, r.h("stripe-signature"), r.secret, 300, undefined, clock);
  const made = s.webhooks.generateTestHeaderString({ payload: r.body, secret: r.secret, timestamp: Number(/t=(\d+)/.exec(r.h("stripe-signature"))[1]) });
  return made === r.h("stripe-signature") || r.h("stripe-signature").endsWith(made.split(",")[1]) || r.h("stripe-signature").includes(made.split(",")[1]);
}, { signs: true });
for (const provider of ["telnyx"]) judge(provider, "telnyx", "TelnyxWebhook.verify", async (r) => {
  const { TelnyxWebhook } = require(within("telnyx/lib/webhooks.js"));
  await new TelnyxWebhook(r.secret).verify(r.body, r.headers);
  return true;
});
judge("telegram", "grammy", "webhookCallback", async (r) => {
  const { Bot, webhookCallback } = require("grammy");
  const bot = new Bot("1:x", { botInfo: { id: 1, is_bot: true, first_name: "b", username: "b", can_join_groups: true, can_read_all_group_messages: false, supports_inline_queries: false, can_connect_to_business: false, has_main_web_app: false } });
  const handler = webhookCallback(bot, "std/http", { secretToken: r.secret });
  const answer = await handler(new Request("https://hooks.example.org/", { method: "POST", headers: r.headers, body: r.body }));
  return answer.status === 200;
}, { official: false, unsigned_body: true });
judge("transloadit", "@transloadit/utils", "verifyWebhookSignature", async (r) => {
  const { verifyWebhookSignature } = await import("@transloadit/utils");
  const f = query(r.body);
  return verifyWebhookSignature({ rawBody: f.transloadit, signatureHeader: f.signature, authSecret: r.secret });
}, { flip: (b) => b.replace("ASSEMBLY", "ASSEMBLI") });
judge("truelayer", "truelayer-signing", "verify", (r) => {
  const t = require("truelayer-signing");
  const jwks = r.fetched ? Object.values(r.fetched)[0] : r.secret;
  t.verify({ jwks, signature: r.h("tl-signature"), method: r.method, path: r.target, headers: r.headers, body: r.body });
  return true;
});
judge("twilio", "twilio", "validateRequest", (r) => {
  const t = require("twilio");
  const groups = {};
  for (const [k, v] of new URLSearchParams(r.method === "POST" ? r.body : "")) k in groups ? groups[k].push(v) : groups[k] = [v];
  return t.validateRequest(r.secret, r.h("x-twilio-signature"), r.url, Object.fromEntries(Object.entries(groups).map(([k, v]) => [k, v.length > 1 ? v : v[0]])));
}, { schemes: ["form"], flip: (b) => b.replace("To=", "To=1"), });
judge("twilio", "twilio", "validateRequestWithBody", (r) => require("twilio").validateRequestWithBody(r.secret, r.h("x-twilio-signature"), r.url, r.body), { schemes: ["body"] });
judge("vonage", "@vonage/jwt", "verifySignature", (r) => require("@vonage/jwt").verifySignature(r.h("authorization").slice(7), r.secret), { unsigned_body: true });
judge("whatsapp", "whatsapp-api-js", "WhatsAppAPI.post", async (r) => {
  const { WhatsAppAPI } = await import("whatsapp-api-js");
  const w = new WhatsAppAPI({ token: "t", appSecret: r.secret, webhookVerifyToken: "v", v: "v20.0", ponyfill: { fetch: globalThis.fetch, subtle: crypto.webcrypto.subtle } });
  try { await w.post(JSON.parse(r.body), r.body, r.h("x-hub-signature-256")); return true; }
  catch (e) { const name = e?.constructor?.name ?? ""; if (/Signature|AppSecret|RawBody|FailedToVerify/i.test(name + e?.message)) return false; if (/UnexpectedError|TypeError/.test(name)) return true; throw e; }
}, { official: false, schemes: ["default"] });
judge("workos", "@workos-inc/node", "workos.webhooks.verifyHeader", async (r) => {
  const { WorkOS } = require("@workos-inc/node");
  const w = new WorkOS("sk_x", { clientId: "c" }).webhooks;
  return w.verifyHeader({ payload: JSON.parse(r.body), sigHeader: r.h("workos-signature"), secret: r.secret });
}, { flip: (b) => b.replace('"event":', '"evenT":').replace('"type":', '"typE":').replace('"status":', '"statuS":'), skip: (v) => JSON.stringify(JSON.parse(v.request.body)) !== v.request.body });

// Standard Webhooks and Svix verify the whole family.
for (const [pkg, name] of [["standardwebhooks", "webhook"], ["svix", "svix"]]) {
  const { Webhook } = require(pkg);
  judge("*", pkg, "Webhook.verify and sign", (r) => {
    const trio = ["webhook", "svix"].find((t) => r.h(`${t}-signature`) && r.h(`${t}-id`));
    if (!trio) return SKIP;
    const secret = r.provider === "polar" ? Buffer.from(r.secret).toString("base64") : r.secret.replace(/^v1,/, "");
    const w = new Webhook(secret);
    const headers = { [`${name}-id`]: r.h(`${trio}-id`), [`${name}-timestamp`]: r.h(`${trio}-timestamp`), [`${name}-signature`]: r.h(`${trio}-signature`) };
    w.verify(r.body, headers);
    return r.h(`${trio}-signature`).includes(w.sign(r.h(`${trio}-id`), new RealDate(Number(r.h(`${trio}-timestamp`)) * 1000), r.body));
  }, { family: true, signs: true, official: (p) => p === (pkg === "svix" ? "svix" : "standard-webhooks") });
}

// One library of many validators.
const nuxt = (provider, file, fn, config, options = {}) => judge(provider, "nuxt-webhook-validators", fn, async (r) => {
  const m = await import(within(`nuxt-webhook-validators/dist/runtime/server/lib/validators/${file}.js`));
  globalThis.__nuxt.config = { webhook: { [file.split(".")[0]]: config(r) } };
  return (await m[fn]({ lower: r.headers, text: r.body })) === true;
}, { official: false, ...options });
const key = (r) => ({ secretKey: r.secret });
nuxt("bitbucket", "bitbucket", "isValidBitbucketWebhook", key);
nuxt("cal-com", "calcom.post", "isValidCalcomWebhook", key);
nuxt("discord", "discord", "isValidDiscordWebhook", (r) => ({ publicKey: r.secret }));
nuxt("docusign", "docusign", "isValidDocusignWebhook", key, { schemes: ["default"] });
nuxt("dropbox", "dropbox", "isValidDropboxWebhook", (r) => ({ appSecret: r.secret }));
nuxt("fourthwall", "fourthwall", "isValidFourthwallWebhook", key);
nuxt("github", "github", "isValidGitHubWebhook", key, { schemes: ["default"] });
nuxt("gitlab", "gitlab", "isValidGitLabWebhook", (r) => ({ secretToken: r.secret }), { schemes: ["secret-token"], unsigned_body: true });
nuxt("heroku", "heroku", "isValidHerokuWebhook", key, { schemes: ["default"] });
nuxt("hygraph", "hygraph", "isValidHygraphWebhook", key);
nuxt("kick", "kick", "isValidKickWebhook", (r) => ({ publicKey: r.secret }));
nuxt("mailchannels", "mailchannels", "isValidMailChannelsWebhook", () => ({ publicKey: JSON.parse(fs.readFileSync(path.join(folder, "mailchannels.json"))).vectors.find((v) => /pinned/.test(v.id)).secrets[0] }));
nuxt("meta", "meta", "isValidMetaWebhook", (r) => ({ appSecret: r.secret }), { schemes: ["default"] });
nuxt("netlify", "netlify", "isValidNetlifyWebhook", key);
nuxt("paddle", "paddle", "isValidPaddleWebhook", (r) => ({ webhookId: r.secret }));
nuxt("polar", "polar", "isValidPolarWebhook", key, { skip: (v) => /rotation/.test(v.id) }); // it reads one signature
nuxt("shopify", "shopify", "isValidShopifyWebhook", key, { schemes: ["default"] });
nuxt("slack", "slack", "isValidSlackWebhook", key);
nuxt("stripe", "stripe", "isValidStripeWebhook", key);
nuxt("twitch", "twitch", "isValidTwitchWebhook", key);
nuxt("vercel", "vercel", "isValidVercelWebhook", key);
nuxt("brevo", "brevo", "isValidBrevoWebhook", (r) => ({ token: r.secret }), { schemes: ["bearer"], unsigned_body: true });

// Another one. Its `vercel` is left out: it takes SHA-256, everybody else SHA-1.
for (const [provider, platform, schemes] of [["github", "github", ["default"]], ["stripe"], ["clerk"], ["dodo-payments", "dodopayments"], ["shopify", "shopify", ["default"]], ["polar"],
  ["paddle"], ["razorpay"], ["lemon-squeezy", "lemonsqueezy"], ["workos"], ["woocommerce"], ["replicate", "replicateai"], ["fal", "falai"], ["grafana", "grafana", ["body-only"]], ["doppler"],
  ["gitlab", "gitlab", ["secret-token"]]])
  judge(provider, "@hookflo/tern", `verifyWithPlatformConfig ${platform ?? provider}`, async (r) => {
    const { WebhookVerificationService } = require("@hookflo/tern");
    const answer = await WebhookVerificationService.verifyWithPlatformConfig(new Request("https://hooks.example.org/", { method: "POST", headers: r.headers, body: r.raw }), platform ?? provider, r.secret ?? "", 300);
    return answer.isValid === true || String(answer.error);
  }, { official: false, schemes, unsigned_body: provider === "gitlab", skip: (v) => provider === "fal" && /pinned/.test(v.id) });

// jose for the JWT and JWS of providers without a library here; claims and digests are compared by hand.
const sha = (x, how, bits = "sha256") => crypto.createHash(bits).update(x).digest(how);
const keyset = (r) => {
  const text = r.fetched ? Object.values(r.fetched)[0] : r.secret;
  if (text.startsWith("-----")) return crypto.createPublicKey(text);
  if (!text.startsWith("{")) return crypto.createSecretKey(Buffer.from(text));
  const document = JSON.parse(text);
  return { keys: document.keys ?? [document.key ?? document] };
};
const josejwt = (provider, take, check, options = {}) => judge(provider, "jose", "jwtVerify", async (r) => {
  const jose = await import("jose");
  const keys = keyset(r);
  for (const token of [].concat(take(r))) {
    const settings = { currentDate: new RealDate(clock), clockTolerance: 10 };
    const { payload } = await jose.jwtVerify(token, keys.keys ? jose.createLocalJWKSet(keys) : keys, settings);
    if (check(r, payload) !== true) return false;
  }
  return true;
}, { official: false, ...options });
const auth = (r) => r.h("authorization").replace(/^Bearer /, "");
josejwt("monday", auth, () => true, { unsigned_body: true });
josejwt("netlify", (r) => r.h("x-webhook-signature"), (r, c) => c.sha256 === sha(r.raw, "hex") && c.iss === "netlify");
josejwt("gong", auth, (r, c) => c.body_sha256 === sha(r.raw, "hex") && c.webhook_url === r.url);
josejwt("fusionauth", (r) => r.h("x-fusionauth-signature-jwt"), (r, c) => c.request_body_sha256 === sha(r.raw, "base64"));
josejwt("plaid", (r) => r.h("plaid-verification"), (r, c) => c.request_body_sha256 === sha(r.raw, "hex"));
josejwt("azure-event-grid", auth, (r, c) => c.aud === r.params.audience && c.iss === r.params.issuer, { schemes: ["entra-jwt"], unsigned_body: true });
josejwt("microsoft-graph", (r) => JSON.parse(r.body).validationTokens, (r, c) => c.aud === r.params.app_id && (c.appid ?? c.azp) === "0bf30f3b-4a52-48df-9a82-234910c4a086", { schemes: ["validation-tokens"], unsigned_body: true });
josejwt("zoho-desk", (r) => r.h("x-zdesk-jwt"), (r, c) => c.aud === r.params.audience && c.iss === r.params.issuer, { unsigned_body: true });
josejwt("vonage", auth, (r, c) => c.payload_hash === undefined || c.payload_hash === sha(r.raw, "hex"), { skip: (v) => /without/.test(v.id) });
josejwt("kinde", (r) => r.body, () => true, { flip: (b) => b.slice(0, -3) + (b.at(-3) === "A" ? "B" : "A") + b.slice(-2) });
judge("fireblocks", "jose", "flattenedVerify", async (r) => {
  const jose = await import("jose");
  const [head, , signature] = r.h("fireblocks-webhook-signature").split(".");
  await jose.flattenedVerify({ protected: head, payload: r.raw.toString("base64url"), signature }, jose.createLocalJWKSet(keyset(r)));
  return true;
}, { official: false, schemes: ["v2"] });
judge("saleor", "jose", "flattenedVerify (b64 = false)", async (r) => {
  const jose = await import("jose");
  const [head, , signature] = r.h("saleor-signature").split(".");
  await jose.flattenedVerify({ protected: head, payload: r.raw, signature }, jose.createLocalJWKSet(keyset(r)), { crit: { b64: true } });
  return true;
}, { official: false });
judge("mailchannels", "mailchannels-sdk", "webhooks.verify", async (r) => {
  const { MailChannels } = await import("mailchannels-sdk");
  const publicKey = r.fetched ? JSON.parse(Object.values(r.fetched)[0]).key : r.secret;
  return new MailChannels("x").webhooks.verify({ payload: r.body, headers: r.headers, publicKey });
}, { official: false });
judge("mailchannels", "http-message-signatures", "httpbis.verifyMessage", async (r) => {
  const { httpbis } = require("http-message-signatures");
  const text = r.fetched ? JSON.parse(Object.values(r.fetched)[0]).key : r.secret;
  const pub = crypto.createPublicKey({ key: Buffer.from(text, "base64"), format: "der", type: "spki" });
  const good = await httpbis.verifyMessage({ keyLookup: async () => ({ id: "mckey", algs: ["ed25519"], verify: async (data, sig) => crypto.verify(null, data, pub, sig) }) },
    { method: r.method, url: "https://hooks.example.org/", headers: r.headers_exact });
  return good === true && r.h("content-digest") === `sha-256=:${sha(r.raw, "base64")}:`;
}, { official: false });

// ---- the run -------------------------------------------------------------------------------------------------------
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
console.log = console.error = console.warn = console.info = () => {};
const nothing = { SKIP };

async function decide(run, r) {
  try { const x = await run(r); return x === SKIP ? nothing : x === true ? { yes: true } : { yes: false, why: String(x) }; }
  catch (e) { return { yes: false, why: `${e?.constructor?.name}: ${e?.message}`.slice(0, 200) }; }
}

function request(provider, v, raw) {
  const headers = {}, exact = {};
  for (const [k, x] of v.request.headers) { headers[k.toLowerCase()] = x; exact[k] = x; }
  return { provider, scheme: v.scheme, method: v.request.method, target: v.request.target, url: v.public_url, headers, headers_exact: exact, h: (n) => headers[n], raw, body: raw.toString("utf8"),
    secrets: v.secrets, secret: v.secrets.at(-1), params: v.params ?? {}, fetched: v.fetched };
}

for (const file of fs.readdirSync(folder).sort()) {
  const { provider, vectors } = JSON.parse(fs.readFileSync(path.join(folder, file)));
  for (const j of judges) {
    if (j.provider !== provider && j.provider !== "*") continue;
    for (const v of vectors) {
      if (j.schemes && !j.schemes.includes(v.scheme)) continue;
      if (j.family && !v.request.headers.some(([k, x]) => /^(webhook|svix)-signature$/i.test(k) && /(^| )v1,/.test(x))) continue;
      if (j.family && v.scheme === "v1a") continue;
      if (j.skip?.(v)) continue;
      if (/not-utf8/.test(v.id)) continue; // all judges of that provider take the body as a string
      clock = v.now * 1000;
      documents = v.fetched ?? {};
      const raw = v.request.body_base64 !== undefined ? Buffer.from(v.request.body_base64, "base64") : Buffer.from(v.request.body);
      let base = request(provider, v, raw);
      let good = nothing;
      for (const secret of v.secrets.length ? [...v.secrets].reverse() : [undefined]) {
        base = { ...base, secret };
        good = await decide(j.run, base);
        if (good.yes || good.SKIP) break;
      }
      if (good.SKIP) continue;
      let bad = { yes: false }, twin;
      if (!j.unsigned_body && good.yes && raw.length) {
        let other;
        if (j.flip) other = Buffer.from(j.flip(raw.toString("utf8")));
        else { // one letter inside the text becomes its neighbour
          other = Buffer.from(raw);
          let at = raw.length >> 1;
          while (at < raw.length - 1 && !(raw[at] >= 97 && raw[at] < 122 && raw[at - 1] >= 97 && raw[at - 1] < 122)) at++;
          other[at] ^= raw[at] === 97 ? 3 : 1;
        }
        if (!other.equals(raw)) twin = other.toString("base64");
        bad = twin ? await decide(j.run, { ...base, raw: other, body: other.toString("utf8") }) : { yes: v.request.method === "GET" ? false : "unchanged" };
      }
      const official = typeof j.official === "function" ? j.official(provider) : j.official ?? true;
      say({ provider, vector: v.id, package: `npm:${j.pkg}@${packages[j.pkg]}`, function: j.fn, official, signs: Boolean(j.signs), good: good.yes, refused: bad.yes === false, body_signed: !j.unsigned_body, changed: twin, why: good.why ?? (bad.yes !== false ? `changed body: ${bad.yes}` : undefined) });
    }
  }
}
process.exit(0);
