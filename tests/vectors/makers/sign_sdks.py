"""The Python half of sign.mjs: `python sign_sdks.py DRAFTS.json`, inside the virtual environment that judge.py makes."""
import datetime
import importlib.metadata
import json
import sys
import time
import types
import urllib.parse

OUT, sys.stdout = sys.stdout, sys.stderr  # libraries print too
SIGNERS = []


def sign(provider, package, function, schemes=("default",)):
    def register(run):
        SIGNERS.append((provider, package, function, schemes, run))
        return run
    return register


@sign("adyen", "Adyen", "util.generate_notification_sig", schemes=("standard",))
def _(r):
    from Adyen.util import generate_notification_sig
    event = json.loads(r.body)
    for item in event["notificationItems"]:
        item = item["NotificationRequestItem"]
        item["additionalData"]["hmacSignature"] = generate_notification_sig(item, r.secret).decode()
    return {"headers": {}, "body": json.dumps(event)}


@sign("adyen", "Adyen", "util.generate_payload_sig", schemes=("platform",))
def _(r):
    from Adyen.util import generate_payload_sig
    made = generate_payload_sig(r.body.encode(), r.secret)
    return {"headers": {"hmacsignature": made.decode() if isinstance(made, bytes) else made}}


@sign("braintree", "braintree", "webhook_testing.sample_notification")
def _(r):
    import braintree
    gateway = braintree.BraintreeGateway(braintree.Configuration(braintree.Environment.Sandbox, merchant_id="m", public_key=r.params["public_key"], private_key=r.secret))
    made = gateway.webhook_testing.sample_notification(braintree.WebhookNotification.Kind.SubscriptionWentPastDue, "id")
    text = {k: x.decode() if isinstance(x, bytes) else x for k, x in made.items()}
    return {"headers": {}, "body": urllib.parse.urlencode(text)}


@sign("coinbase-commerce", "coinbase-commerce", "webhook.WebhookSignature._compute_signature")
def _(r):
    from coinbase_commerce.webhook import WebhookSignature
    return {"headers": {"x-cc-webhook-signature": WebhookSignature._compute_signature(r.body, r.secret)}}


@sign("hubspot", "hubspot-api-client", "utils.signature.Signature.get_signature", schemes=("v1", "v2", "v3"))
def _(r):
    from hubspot.utils.signature import Signature
    now = str(int(time.time() * 1000))
    made = Signature.get_signature(client_secret=r.secret, request_body=r.body, http_uri=r.url, http_method=r.method,
                                   signature_version=r.scheme, timestamp=now if r.scheme == "v3" else None)
    if r.scheme == "v3":
        return {"headers": {"x-hubspot-signature-v3": made, "x-hubspot-request-timestamp": now}}
    return {"headers": {"x-hubspot-signature": made, "x-hubspot-signature-version": r.scheme}}


@sign("livekit", "livekit-api", "AccessToken.to_jwt")
def _(r):
    import base64
    import hashlib
    from livekit.api import AccessToken
    digest = base64.b64encode(hashlib.sha256(r.body.encode()).digest()).decode()
    return {"headers": {"authorization": AccessToken(r.params["api_key"], r.secret).with_ttl(datetime.timedelta(minutes=5)).with_sha256(digest).to_jwt()}}


@sign("plivo", "plivo", "utils.signature_v3.get_signature_v3", schemes=("v3",))
def _(r):
    from plivo.utils.signature_v3 import construct_post_url, get_signature_v3
    groups = {k: x[0] if len(x) == 1 else x for k, x in urllib.parse.parse_qs(r.body, keep_blank_values=True).items()}
    nonce = str(time.time_ns())
    made = get_signature_v3(r.secret, construct_post_url(r.url, groups), nonce)
    return {"headers": {"x-plivo-signature-v3-nonce": nonce, "x-plivo-signature-v3": made.decode() if isinstance(made, bytes) else made}}


@sign("pusher", "pusher", "signature.sign")
def _(r):
    from pusher.signature import sign as signed
    return {"headers": {"x-pusher-key": "key", "x-pusher-signature": signed(r.secret, r.body)}}


@sign("sinch", "sinch", "calculate_sinch_event_signature")
def _(r):
    from sinch.domains.authentication.sinch_events.v1 import authentication_validation as a
    now, nonce = str(int(time.time())), str(time.time_ns())
    made = a.calculate_sinch_event_signature(a.compute_signed_data(r.body, nonce, now), r.secret)
    return {"headers": {"x-sinch-webhook-signature": made, "x-sinch-webhook-signature-nonce": nonce, "x-sinch-webhook-signature-timestamp": now,
                        "x-sinch-webhook-signature-algorithm": "HmacSHA256"}}


@sign("slack", "slack_sdk", "signature.SignatureVerifier.generate_signature")
def _(r):
    from slack_sdk.signature import SignatureVerifier
    now = str(int(time.time()))
    return {"headers": {"x-slack-request-timestamp": now, "x-slack-signature": SignatureVerifier(r.secret).generate_signature(timestamp=now, body=r.body)}}


def _standard(module, name):
    def run(r):
        now = datetime.datetime.now(tz=datetime.timezone.utc)
        hook = importlib.import_module(module).Webhook(r.secret)
        return {"headers": {f"{name}-id": "msg_1", f"{name}-timestamp": str(int(now.timestamp())), f"{name}-signature": hook.sign("msg_1", now, r.body)}}
    return run


sign("standard-webhooks", "standardwebhooks", "Webhook.sign")(_standard("standardwebhooks", "webhook"))
sign("svix", "svix", "Webhook.sign")(_standard("svix.webhooks", "svix"))


@sign("stripe", "stripe", "WebhookSignature.generate_signature_header")
def _(r):
    import stripe
    return {"headers": {"stripe-signature": stripe.WebhookSignature.generate_signature_header(r.body, r.secret)}}


@sign("twilio", "twilio", "RequestValidator.compute_signature", schemes=("form",))
def _(r):
    from twilio.request_validator import RequestValidator
    groups = {k: x[0] if len(x) == 1 else x for k, x in urllib.parse.parse_qs(r.body, keep_blank_values=True).items()}

    class Multi(dict):
        def getlist(self, name):
            return self[name] if isinstance(self[name], list) else [self[name]]
    return {"headers": {"x-twilio-signature": RequestValidator(r.secret).compute_signature(r.url, Multi(groups))}}


for draft in json.load(open(sys.argv[1])):
    r = types.SimpleNamespace(**draft)
    for provider, package, function, schemes, run in SIGNERS:
        if provider != r.provider or r.scheme not in schemes:
            continue
        by = {"name": r.name, "provider": provider, "scheme": r.scheme, "package": f"pypi:{package}@{importlib.metadata.version(package)}", "function": function}
        try:
            print(json.dumps({**by, **run(r)}), file=OUT)
        except Exception as e:
            print(json.dumps({**by, "error": f"{type(e).__name__}: {e}"[:300]}), file=OUT)
