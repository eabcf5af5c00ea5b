"""The Python half of the judges: `python judge_sdks.py FOLDER-WITH-PROVIDER-JSON`, inside the virtual environment that
judge.py makes. Prints one JSON line per judgement. The clock is the vector's (freezegun); nothing is fetched.
"""
import base64
import datetime
import importlib.metadata
import json
import pathlib
import sys
import types
import urllib.parse

import freezegun

# Before the clock is replaced: some libraries build classes from `datetime` when they are loaded.
for name in ("pyairtable.models.webhook coinbase_commerce.webhook discord_interactions githubkit.webhooks gocardless_pro.webhooks "
             "hubspot.utils.signature linebot.v3.webhook livekit.api onfido.webhook_event_verifier openai paypalrestsdk.notifications "
             "plivo.utils plivo.utils.signature_v3 qstash razorpay sendgrid.helpers.eventwebhook slack_sdk.signature standardwebhooks "
             "square.client sinch.domains.authentication.sinch_events.v1.authentication_validation square.utils.webhooks_helper svix.webhooks stripe "
             "square.client twilio.request_validator vonage_jwt.verify_jwt workos.webhooks django.test").split():
    __import__(name)
OUT, sys.stdout = sys.stdout, sys.stderr  # libraries print too
FOLDER = pathlib.Path(sys.argv[1])
JUDGES = []


def judge(provider, package, function, schemes=None, official=True, signs=False, signed_body=True, flip=None, skip=None):
    def register(run):
        JUDGES.append((provider, package, function, schemes, official, signs, signed_body, flip, skip, run))
        return run
    return register


class Multi(dict):
    """Form fields that may repeat, as web frameworks hand them over."""

    def __init__(self, r):
        self.lists = urllib.parse.parse_qs(r.text, keep_blank_values=True)
        super().__init__({k: x[-1] for k, x in self.lists.items()})

    def getlist(self, name):
        return self.lists[name]


class R:
    """One request."""

    def __init__(self, provider, v, raw, secret):
        self.provider, self.scheme, self.raw, self.secret = provider, v["scheme"], raw, secret
        self.text = raw.decode("utf-8", "surrogateescape")
        self.exact = {k: x for k, x in v["request"]["headers"]}
        self.headers = {k.lower(): x for k, x in v["request"]["headers"]}
        self.method, self.target, self.url = v["request"]["method"], v["request"]["target"], v.get("public_url")
        self.secrets, self.params, self.fetched, self.pairs = v["secrets"], v.get("params", {}), v.get("fetched"), v["request"]["headers"]

    def h(self, name):
        return self.headers.get(name)

    def form(self):
        return dict(urllib.parse.parse_qsl(self.text, keep_blank_values=True))

    def groups(self):
        return {k: x[0] if len(x) == 1 else x for k, x in urllib.parse.parse_qs(self.text, keep_blank_values=True).items()}


def _adyen(r):
    from Adyen.util import is_valid_hmac_notification
    items = [i["NotificationRequestItem"] for i in json.loads(r.text)["notificationItems"]]
    return all(is_valid_hmac_notification(i, r.secret) for i in items)


judge("adyen", "Adyen", "util.is_valid_hmac_notification", schemes=["standard"], flip=lambda t: t.replace("\"value\":", "\"value\":9"))(_adyen)


@judge("adyen", "Adyen", "util.is_valid_hmac_payload", schemes=["platform"])
def _(r):
    from Adyen.util import is_valid_hmac_payload
    return is_valid_hmac_payload(r.h("hmacsignature"), r.secret, r.raw)


@judge("braintree", "braintree", "WebhookNotificationGateway.parse", flip=lambda t: t.replace("bt_payload=P", "bt_payload=Q"))
def _(r):
    import braintree
    from braintree.exceptions.invalid_signature_error import InvalidSignatureError
    gateway = braintree.BraintreeGateway(braintree.Configuration(braintree.Environment.Sandbox, merchant_id="m", public_key=r.params["public_key"], private_key=r.secret))
    form = r.form()
    try:
        gateway.webhook_notification.parse(form["bt_signature"], form["bt_payload"])
    except InvalidSignatureError:
        return False
    except Exception:
        return True  # the shape of our invented notification, after the signature held
    return True


@judge("easypost", "easypost", "util.validate_webhook")
def _(r):
    from easypost.util import validate_webhook
    return validate_webhook(r.raw, r.exact, r.secret) is not None


@judge("messagebird", "messagebird", "request_validator.RequestValidator.validate_signature", schemes=["jwt"])
def _(r):
    from messagebird.request_validator import RequestValidator
    return bool(RequestValidator(r.secret).validate_signature(r.h("messagebird-signature-jwt"), r.url, r.raw))


@judge("mollie", "mollie-api-py", "utils.webhooks.SignatureValidator.validate")
def _(r):
    from mollie.utils.webhooks import SignatureValidator
    return SignatureValidator.validate(r.text, r.secret, [v for k, v in r.pairs if k.lower() == "x-mollie-signature"])


@judge("pusher", "pusher", "Pusher.validate_webhook", skip=lambda v: "time_ms" not in v["request"]["body"])  # it wants a time in the body
def _(r):
    import pusher
    client = pusher.Pusher(app_id="1", key=r.h("x-pusher-key"), secret=r.secret, cluster="eu")
    return client.validate_webhook(r.h("x-pusher-key"), r.h("x-pusher-signature"), r.text) is not None


@judge("airtable", "pyairtable", "WebhookNotification.from_request", official=False, skip=lambda v: not v["request"]["body"].isascii())  # it takes ASCII alone
def _(r):
    from pyairtable.models.webhook import WebhookNotification
    try:
        WebhookNotification.from_request(r.text, r.h("x-airtable-content-mac"), r.secret)
    except ValueError as e:
        return type(e).__name__ == "ValidationError"  # the shape of our invented body, after the MAC held
    return True


@judge("coinbase-commerce", "coinbase-commerce", "webhook.Webhook.construct_event")
def _(r):
    from coinbase_commerce.webhook import Webhook, WebhookSignature
    WebhookSignature.verify_sig_header(r.text, r.h("x-cc-webhook-signature"), r.secret)
    return True


@judge("discord", "discord-interactions", "verify_key")
def _(r):
    from discord_interactions import verify_key
    return verify_key(r.raw, r.h("x-signature-ed25519"), r.h("x-signature-timestamp"), r.secret)


@judge("github", "githubkit", "webhooks.verify and sign", schemes=["default"], official=False, signs=True)
def _(r):
    from githubkit.webhooks import sign, verify
    return verify(r.secret, r.raw, r.h("x-hub-signature-256")) and sign(r.secret, r.raw, method="sha256") == r.h("x-hub-signature-256")


@judge("github", "githubkit", "webhooks.verify and sign", schemes=["sha1"], official=False, signs=True)
def _(r):
    from githubkit.webhooks import sign, verify
    return verify(r.secret, r.raw, r.h("x-hub-signature")) and sign(r.secret, r.raw, method="sha1") == r.h("x-hub-signature")


@judge("gocardless", "gocardless_pro", "webhooks._verify_signature")
def _(r):
    from gocardless_pro import webhooks
    webhooks._verify_signature(webhooks.to_bytes(r.text), webhooks.to_bytes(r.secret), r.h("webhook-signature"))
    return True


@judge("hubspot", "hubspot-api-client", "utils.signature.Signature.is_valid and get_signature", signs=True, skip=lambda v: "decoded" in v["id"])
def _(r):
    from hubspot.utils.signature import Signature
    v3 = r.scheme == "v3"
    sent = r.h("x-hubspot-signature-v3" if v3 else "x-hubspot-signature")
    args = dict(client_secret=r.secret, request_body=r.text, http_uri=r.url, http_method=r.method, signature_version=r.scheme,
                timestamp=r.h("x-hubspot-request-timestamp") if v3 else None)
    return Signature.is_valid(signature=sent, **args) and Signature.get_signature(**args) == sent


@judge("line", "line-bot-sdk", "v3.webhook.SignatureValidator.validate")
def _(r):
    from linebot.v3.webhook import SignatureValidator
    return SignatureValidator(r.secret).validate(r.text, r.h("x-line-signature"))


@judge("livekit", "livekit-api", "WebhookReceiver.receive")
def _(r):
    from livekit.api import TokenVerifier, WebhookReceiver
    try:
        WebhookReceiver(TokenVerifier(r.params["api_key"], r.secret)).receive(r.text, r.h("authorization"))
    except Exception as e:
        return type(e).__name__ == "ParseError"  # the shape of our invented body, after token and digest held
    return True


def anymail(view, **settings):
    import django
    from django.conf import settings as django_settings
    if not django_settings.configured:
        django_settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x", INSTALLED_APPS=["anymail"], ANYMAIL={}, DATABASES={})
        django.setup()
    module, name = view.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**settings)


def django_request(r):
    from django.test import RequestFactory
    extra = {"HTTP_" + k.upper().replace("-", "_"): x for k, x in r.headers.items() if k != "content-type"}
    return RequestFactory().generic(r.method, r.target, r.raw, content_type=r.h("content-type") or "", secure=True, **extra)


@judge("mailersend", "django-anymail", "webhooks.mailersend.MailerSendTrackingWebhookView.validate_request", official=False)
def _(r):
    anymail("anymail.webhooks.mailersend.MailerSendTrackingWebhookView", signing_secret=r.secret).validate_request(django_request(r))
    return True


def _hash_flip(text):
    return text.replace("timestamp\":\"1", "timestamp\":\"2").replace("timestamp=1", "timestamp=2")


@judge("mailgun", "django-anymail", "webhooks.mailgun.MailgunTrackingWebhookView.validate_request", official=False, flip=_hash_flip)
def _(r):
    anymail("anymail.webhooks.mailgun.MailgunTrackingWebhookView", webhook_signing_key=r.secret).validate_request(django_request(r))
    return True


@judge("mandrill", "django-anymail", "webhooks.mandrill.MandrillCombinedWebhookView.validate_request", official=False)
def _(r):
    anymail("anymail.webhooks.mandrill.MandrillCombinedWebhookView", webhook_key=r.secret, webhook_url=r.url).validate_request(django_request(r))
    return True


@judge("postal", "django-anymail", "webhooks.postal.PostalTrackingWebhookView.validate_request", official=False)
def _(r):
    anymail("anymail.webhooks.postal.PostalTrackingWebhookView", webhook_key=r.secret).validate_request(django_request(r))
    return True


@judge("postmark", "django-anymail", "webhooks.postmark.PostmarkTrackingWebhookView.validate_request", schemes=["basic"], official=False, signed_body=False,
       skip=lambda v: not v["secrets"][0].isascii())
def _(r):
    anymail("anymail.webhooks.postmark.PostmarkTrackingWebhookView", basic_auth=[r.secret]).validate_request(django_request(r))
    return True


@judge("unisender-go", "django-anymail", "webhooks.unisender_go.UnisenderGoTrackingWebhookView.validate_request", official=False)
def _(r):
    anymail("anymail.webhooks.unisender_go.UnisenderGoTrackingWebhookView", api_key=r.secret).validate_request(django_request(r))
    return True


@judge("onfido", "onfido-python", "WebhookEventVerifier.read_payload")
def _(r):
    from onfido.webhook_event_verifier import OnfidoInvalidSignatureError, WebhookEventVerifier
    try:
        WebhookEventVerifier(r.secret).read_payload(r.text, r.h("x-sha2-signature"))
    except OnfidoInvalidSignatureError:
        return False
    except Exception:
        return True  # the shape of our invented body, after the signature held
    return True


@judge("openai", "openai", "webhooks.verify_signature")
def _(r):
    from openai import OpenAI
    OpenAI(api_key="x").webhooks.verify_signature(r.text, r.headers, secret=r.secret)
    return True


@judge("paypal", "paypalrestsdk", "WebhookEvent._get_expected_sig")
def _(r):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding
    from paypalrestsdk.notifications import WebhookEvent
    text = WebhookEvent._get_expected_sig(r.h("paypal-transmission-id"), r.h("paypal-transmission-time"), r.params["webhook_id"], r.text)
    certificate = x509.load_pem_x509_certificate(PAYPAL.encode())
    certificate.public_key().verify(base64.b64decode(r.h("paypal-transmission-sig")), text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return True


@judge("plivo", "plivo", "utils.validate_v3_signature", schemes=["v3"], flip=lambda t: t.replace("From=", "From=1"))
def _(r):
    from plivo.utils.signature_v3 import validate_v3_signature
    return validate_v3_signature(r.method, r.url, r.h("x-plivo-signature-v3-nonce"), r.secret, r.h("x-plivo-signature-v3"), r.groups() if r.method == "POST" else None)


@judge("plivo", "plivo", "utils.validate_signature", schemes=["v2"], signed_body=False)
def _(r):
    from plivo.utils import validate_signature
    return validate_signature(r.url, r.h("x-plivo-signature-v2-nonce"), r.h("x-plivo-signature-v2"), r.secret)


@judge("qstash", "qstash", "Receiver.verify")
def _(r):
    from qstash import Receiver
    Receiver(r.secrets[0], r.secrets[1]).verify(signature=r.h("upstash-signature"), body=r.text, url=r.url)
    return True


@judge("razorpay", "razorpay", "utility.verify_webhook_signature")
def _(r):
    import razorpay
    return razorpay.Client(auth=("a", "b")).utility.verify_webhook_signature(r.text, r.h("x-razorpay-signature"), r.secret)


@judge("sendgrid", "sendgrid", "EventWebhook.verify_signature")
def _(r):
    from sendgrid.helpers.eventwebhook import EventWebhook
    e = EventWebhook()
    return e.verify_signature(r.text, r.h("x-twilio-email-event-webhook-signature"), r.h("x-twilio-email-event-webhook-timestamp"), e.convert_public_key_to_ecdsa(r.secret))


@judge("sinch", "sinch", "validate_sinch_event_signature_with_nonce")
def _(r):
    from sinch.domains.authentication.sinch_events.v1.authentication_validation import validate_sinch_event_signature_with_nonce
    headers = dict(r.headers)
    headers.setdefault("x-sinch-webhook-signature-algorithm", "HmacSHA256")
    return validate_sinch_event_signature_with_nonce(r.secret, headers, r.text)


@judge("slack", "slack_sdk", "signature.SignatureVerifier.is_valid and generate_signature", signs=True)
def _(r):
    from slack_sdk.signature import SignatureVerifier
    v = SignatureVerifier(r.secret)
    stamp = r.h("x-slack-request-timestamp")
    return v.is_valid(r.text, stamp, r.h("x-slack-signature")) and v.generate_signature(timestamp=stamp, body=r.text) == r.h("x-slack-signature")


@judge("square", "squareup", "utils.webhooks_helper.verify_signature")
def _(r):
    from square.utils.webhooks_helper import verify_signature
    return verify_signature(request_body=r.text, signature_header=r.h("x-square-hmacsha256-signature"), signature_key=r.secret, notification_url=r.url)


def _standard(module, name):
    def run(r):
        trio = next((t for t in ("webhook", "svix") if r.h(f"{t}-signature") and r.h(f"{t}-id")), None)
        secret = base64.b64encode(r.secret.encode()).decode() if r.provider == "polar" else r.secret.removeprefix("v1,")
        hook = importlib.import_module(module).Webhook(secret)
        hook.verify(r.raw, {f"{name}-{k}": r.h(f"{trio}-{k}") for k in ("id", "timestamp", "signature")})
        return True
    return run


def _family(v):
    names = {k.lower(): x for k, x in v["request"]["headers"]}
    lists = [names.get("webhook-signature", ""), names.get("svix-signature", "")]
    return v["scheme"] == "v1a" or not any(any(p.startswith("v1,") for p in x.split(" ")) for x in lists)


judge("*", "standardwebhooks", "Webhook.verify", official="standard-webhooks", skip=_family)(_standard("standardwebhooks", "webhook"))
judge("*", "svix", "Webhook.verify", official="svix", skip=_family)(_standard("svix.webhooks", "svix"))


@judge("stripe", "stripe", "WebhookSignature.verify_header")
def _(r):
    import stripe
    return stripe.WebhookSignature.verify_header(r.text, r.h("stripe-signature"), r.secret, 300)


@judge("twilio", "twilio", "RequestValidator.validate", flip=lambda t: t.replace("To=", "To=1") if "To=" in t else t.replace("e", "x", 1))
def _(r):
    from twilio.request_validator import RequestValidator
    params = r.text if r.scheme == "body" else Multi(r) if r.method == "POST" else {}
    return RequestValidator(r.secret).validate(r.url, params, r.h("x-twilio-signature"))


@judge("vonage", "vonage-jwt", "verify_signature", signed_body=False)
def _(r):
    from vonage_jwt.verify_jwt import verify_signature
    return verify_signature(r.h("authorization")[7:], r.secret)


@judge("workos", "workos", "webhooks.verify_header")
def _(r):
    from workos.webhooks import Webhooks
    hook = Webhooks.__new__(Webhooks)
    hook.verify_header(event_body=r.raw, event_signature=r.h("workos-signature"), secret=r.secret)
    return True


def decide(run, r):
    try:
        x = run(r)
        return bool(x), None if x else str(x)
    except Exception as e:
        return False, f"{type(e).__name__}: {e}"[:200]


def neighbour(raw):
    """One letter inside the text becomes its neighbour."""
    out, at = bytearray(raw), len(raw) >> 1
    while at < len(raw) - 1 and not (97 <= raw[at] < 122 and 97 <= raw[at - 1] < 122):
        at += 1
    out[at] ^= 3 if raw[at] == 97 else 1
    return bytes(out)


for path in sorted(FOLDER.glob("*.json")):
    document = json.loads(path.read_text())
    provider = document["provider"]
    for (of, package, function, schemes, official, signs, signed_body, flip, skip, run) in JUDGES:
        if of not in ("*", provider):
            continue
        for v in document["vectors"]:
            if schemes and v["scheme"] not in schemes or skip and skip(v):
                continue
            if provider == "paypal":
                PAYPAL = (list(v.get("fetched", {}).values()) or v["secrets"])[0]
            raw = base64.b64decode(v["request"]["body_base64"]) if "body_base64" in v["request"] else v["request"]["body"].encode()
            with freezegun.freeze_time(datetime.datetime.fromtimestamp(v["now"], datetime.timezone.utc), ignore=["square"]):
                good, why = False, None
                for secret in list(reversed(v["secrets"])) or [None]:
                    good, why = decide(run, R(provider, v, raw, secret))
                    if good:
                        break
                refused, twin = True, {}
                if good and signed_body and raw:
                    other = flip(raw.decode()).encode() if flip else neighbour(raw)
                    if other != raw:
                        twin = {"changed": base64.b64encode(other).decode()}
                        refused = not decide(run, R(provider, v, other, secret))[0]
                    elif v["request"]["method"] != "GET":
                        refused = False
            print(json.dumps({"provider": provider, "vector": v["id"], "package": f"pypi:{package}@{importlib.metadata.version(package)}", "function": function,
                              "official": official if isinstance(official, bool) else official == provider, "signs": signs, "good": good, "refused": refused,
                              "body_signed": signed_body, **twin, "why": why or (None if refused else "changed body accepted")}), file=OUT)
