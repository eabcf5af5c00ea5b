// Lets the SDKs sign. Started by scripts/check-sdks, inside the folder that judge.py made:
//   node sign.mjs DRAFTS.json   -> one JSON line per signed request.
// A draft is a request without signature: what judge.mjs calls `r`, and a name. The clock is the real one: a gateway reads it.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const require = createRequire(path.join(process.cwd(), "package.json"));
const within = (name) => path.join(process.cwd(), "node_modules", name);
const packages = JSON.parse(fs.readFileSync("package.json")).dependencies;
const drafts = JSON.parse(fs.readFileSync(process.argv[2]));
const query = (text) => Object.fromEntries(new URLSearchParams(text));

// sign(provider, package, function, run, schemes): run gets the draft and answers { headers, body?, target? }; nothing else changes.
const signers = [];
const sign = (provider, pkg, fn, run, schemes = ["default"]) => signers.push({ provider, pkg, fn, run, schemes });
const seconds = () => String(Math.floor(Date.now() / 1000));

sign("adyen", "@adyen/api-library", "hmacValidator.calculateHmac", (r) => {
  const V = require("@adyen/api-library").hmacValidator;
  const event = JSON.parse(r.body);
  for (const { NotificationRequestItem: item } of event.notificationItems) item.additionalData.hmacSignature = new V().calculateHmac(item, r.secret);
  return { headers: {}, body: JSON.stringify(event) };
}, ["standard"]);
sign("adyen", "@adyen/api-library", "hmacValidator.calculateHmac", (r) =>
  ({ headers: { hmacsignature: new (require("@adyen/api-library").hmacValidator)().calculateHmac(r.body, r.secret) } }), ["platform"]);
sign("braintree", "braintree", "gateway.webhookTesting.sampleNotification", async (r) => {
  const b = require("braintree");
  const gateway = new b.BraintreeGateway({ environment: b.Environment.Sandbox, merchantId: "m", publicKey: r.params.public_key, privateKey: r.secret });
  const { bt_signature, bt_payload } = await gateway.webhookTesting.sampleNotification(b.WebhookNotification.Kind.SubscriptionWentPastDue, "id");
  return { headers: {}, body: new URLSearchParams({ bt_signature, bt_payload }).toString() };
});
sign("cloudinary", "cloudinary", "utils.webhook_signature", (r) => {
  const c = require("cloudinary").v2;
  c.config({ api_secret: r.secret, cloud_name: "c", api_key: "k" });
  const time = seconds();
  return { headers: { "x-cld-timestamp": time, "x-cld-signature": c.utils.webhook_signature(r.body, Number(time)) } };
});
sign("coinbase-commerce", "coinbase-commerce-node", "Webhook.computeSignature", (r) =>
  ({ headers: { "x-cc-webhook-signature": require("coinbase-commerce-node").Webhook.computeSignature(r.body, r.secret) } }));
sign("contentful", "@contentful/node-apps-toolkit", "signRequest", (r) =>
  ({ headers: require("@contentful/node-apps-toolkit").signRequest(r.secret, { method: r.method, path: r.target, headers: { "content-type": "application/json" }, body: r.body }) }));
sign("github", "@octokit/webhooks-methods", "sign", async (r) => {
  const { sign } = await import(within("@octokit/webhooks-methods/dist-node/index.js")).catch(() => import(within("@octokit/webhooks-methods/dist-bundle/index.js")));
  return { headers: { "x-hub-signature-256": await sign(r.secret, r.body) } };
});
sign("hubspot", "@hubspot/api-client", "Signature.getSignature", (r) => {
  const { Signature } = require("@hubspot/api-client");
  const time = Date.now();
  const o = { clientSecret: r.secret, requestBody: r.body, url: r.url, method: r.method, timestamp: time };
  const made = Signature.getSignature(r.method, r.scheme, o);
  return { headers: r.scheme === "v3" ? { "x-hubspot-signature-v3": made, "x-hubspot-request-timestamp": String(time) } : { "x-hubspot-signature": made, "x-hubspot-signature-version": r.scheme } };
}, ["v1", "v2", "v3"]);
sign("hygraph", "@hygraph/utils", "generateWebhookSignature", (r) =>
  ({ headers: { "gcms-signature": require("@hygraph/utils").generateWebhookSignature({ rawPayload: r.body, environmentName: "master", secret: r.secret, timestamp: Date.now() }) } }));
sign("inngest", "inngest", "signDataWithKey", async (r) => {
  const net = require(within("inngest/helpers/net.cjs"));
  const time = seconds();
  const made = await net.signDataWithKey(JSON.parse(r.body), r.secret, time, { warn() {}, debug() {}, error() {}, info() {} });
  return { headers: { "x-inngest-signature": `t=${time}&s=${made}` } };
});
sign("livekit", "livekit-server-sdk", "AccessToken.toJwt", async (r) => {
  const { AccessToken } = await import(within("livekit-server-sdk/dist/index.js"));
  const token = new AccessToken(r.params.api_key, r.secret, { ttl: 300 });
  token.sha256 = require("node:crypto").createHash("sha256").update(r.body).digest("base64");
  return { headers: { authorization: await token.toJwt() } };
});
sign("modern-treasury", "modern-treasury", "client.webhooks.getSignature", (r) => {
  const M = require("modern-treasury").default;
  return { headers: { "x-signature": new M({ apiKey: "x", organizationID: "y", webhookKey: r.secret }).webhooks.getSignature(r.body) } };
});
sign("notion", "@notionhq/client", "signWebhookPayload", async (r) =>
  ({ headers: { "x-notion-signature": await require("@notionhq/client").signWebhookPayload({ body: r.body, verificationToken: r.secret }) } }));
sign("pusher", "pusher", "Token.sign", (r) => {
  const Token = require(within("pusher/lib/token.js"));
  return { headers: { "x-pusher-key": "key", "x-pusher-signature": new Token("key", r.secret).sign(r.body) } };
});
sign("retell", "retell-sdk", "Retell.sign", async (r) => ({ headers: { "x-retell-signature": await require(within("retell-sdk/lib/webhook_auth.js")).sign(r.body, r.secret) } }));
sign("sanity", "@sanity/webhook", "encodeSignatureHeader", async (r) =>
  ({ headers: { "sanity-webhook-signature": await require("@sanity/webhook").encodeSignatureHeader(r.body, Date.now(), r.secret) } }));
sign("shopify", "@shopify/shopify-api", "createSHA256HMAC", async (r) => {
  require("@shopify/shopify-api/adapters/node");
  const { createSHA256HMAC } = require(within("@shopify/shopify-api/dist/cjs/runtime/crypto/utils.js"));
  return { headers: { "x-shopify-hmac-sha256": await createSHA256HMAC(r.secret, r.body) } };
});
for (const [provider, pkg, name] of [["standard-webhooks", "standardwebhooks", "webhook"], ["svix", "svix", "svix"]])
  sign(provider, pkg, "Webhook.sign", (r) => {
    const { Webhook } = require(pkg);
    const now = new Date();
    const id = `msg_${now.getTime()}`;
    return { headers: { [`${name}-id`]: id, [`${name}-timestamp`]: String(Math.floor(now / 1000)), [`${name}-signature`]: new Webhook(r.secret).sign(id, now, r.body) } };
  });
sign("stripe", "stripe", "webhooks.generateTestHeaderString", (r) => {
  const S = require("stripe");
  return { headers: { "stripe-signature": new S("sk_x").webhooks.generateTestHeaderString({ payload: r.body, secret: r.secret }) } };
});
sign("truelayer", "truelayer-signing", "sign", (r) => {
  const time = new Date().toISOString();
  const headers = { "X-Tl-Webhook-Timestamp": time };
  const made = require("truelayer-signing").sign({ kid: r.kid, privateKeyPem: r.private_key, method: r.method, path: r.target, headers, body: r.body });
  return { headers: { ...headers, "tl-signature": made } };
});
sign("twilio", "twilio", "getExpectedTwilioSignature", (r) => {
  const groups = {};
  for (const [k, v] of new URLSearchParams(r.body)) k in groups ? groups[k].push(v) : groups[k] = [v];
  const params = Object.fromEntries(Object.entries(groups).map(([k, v]) => [k, v.length > 1 ? v : v[0]]));
  return { headers: { "x-twilio-signature": require("twilio").getExpectedTwilioSignature(r.secret, r.url, params) } };
}, ["form"]);
sign("twilio", "twilio", "getExpectedBodyHash and getExpectedTwilioSignature", (r) => {
  const t = require("twilio");
  const more = `?bodySHA256=${t.getExpectedBodyHash(r.body)}`;
  return { headers: { "x-twilio-signature": t.getExpectedTwilioSignature(r.secret, r.url + more, {}) }, target: r.target + more };
}, ["body"]);
sign("workos", "@workos-inc/node", "workos.webhooks.computeSignature", async (r) => {
  const { WorkOS } = require("@workos-inc/node");
  const w = new WorkOS("sk_x", { clientId: "c" }).webhooks;
  const time = Date.now();
  return { headers: { "workos-signature": `t=${time}, v1=${await w.computeSignature(time, JSON.parse(r.body), r.secret)}` }, body: JSON.stringify(JSON.parse(r.body)) };
});

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
console.log = console.error = console.warn = console.info = () => {};
for (const s of signers)
  for (const r of drafts.filter((d) => d.provider === s.provider && s.schemes.includes(d.scheme))) {
    const by = { name: r.name, provider: r.provider, scheme: r.scheme, package: `npm:${s.pkg}@${packages[s.pkg]}`, function: s.fn };
    try { say({ ...by, ...(await s.run(r)) }); }
    catch (e) { say({ ...by, error: `${e?.constructor?.name}: ${e?.message}`.slice(0, 300) }); }
  }
process.exit(0);
