"""Test-only key pairs as PEM files in keys/. They protect nothing. Missing ones are made; existing ones never change.

ECDSA signatures are made with the nonce of RFC 6979, so a second run gives the same bytes. `--fresh` takes a random nonce.
"""
import base64
import datetime
import json
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.x509.oid import NameOID

FOLDER = pathlib.Path(__file__).parent / "keys"
HASHES = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}
MAKE = {
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "rsa-other": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed25519-other": ed25519.Ed25519PrivateKey.generate,
    "authority": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}
_loaded = {}


def private(name):
    if name not in _loaded:
        path = FOLDER / f"{name}.pem"
        if not path.exists():
            FOLDER.mkdir(exist_ok=True)
            path.write_bytes(MAKE[name]().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        _loaded[name] = serialization.load_pem_private_key(path.read_bytes(), None)
    return _loaded[name]


def ed25519_sign(name, message):
    return private(name).sign(message)


def rsa_sign(name, message, bits):
    return private(name).sign(message, padding.PKCS1v15(), HASHES[bits]())


def ecdsa_sign(name, message, bits, raw=False):
    key = private(name)
    der = key.sign(message, ec.ECDSA(HASHES[bits](), deterministic_signing="--fresh" not in sys.argv))
    if not raw:
        return der
    size = (key.curve.key_size + 7) // 8
    return b"".join(n.to_bytes(size, "big") for n in utils.decode_dss_signature(der))


def public_pem(name):
    return private(name).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def public_pkcs1_pem(name):
    return private(name).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.PKCS1).decode()


def public_der_base64(name):
    return base64.b64encode(private(name).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).decode()


def public_raw(name):
    return private(name).public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _number(value, size=None):
    raw = value.to_bytes(size or (value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def jwk(name, kid=None, alg=None):
    key = private(name).public_key()
    if isinstance(key, rsa.RSAPublicKey):
        n = key.public_numbers()
        out = {"kty": "RSA", "n": _number(n.n), "e": _number(n.e)}
    elif isinstance(key, ec.EllipticCurvePublicKey):
        n, size = key.public_numbers(), (key.curve.key_size + 7) // 8
        curve = {256: "P-256", 521: "P-521"}[key.curve.key_size]
        out = {"kty": "EC", "crv": curve, "x": _number(n.x, size), "y": _number(n.y, size)}
    else:
        out = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(public_raw(name)).decode().rstrip("=")}
    out["use"] = "sig"
    if alg:
        out["alg"] = alg
    if kid:
        out["kid"] = kid
    return out


def jwks(*keys):
    return json.dumps({"keys": list(keys)}, separators=(",", ":"))


def certificate(file, common_name, key="rsa", organisation="Countersign test only"):
    """PEM of a leaf signed by our test authority; made once, then kept, because serial number and times vary."""
    path = FOLDER / file
    if not path.exists():
        authority()
        root = x509.load_pem_x509_certificate((FOLDER / "authority.crt.pem").read_bytes())
        path.write_bytes(_certify(common_name, private(key).public_key(), root.subject, organisation, False))
    return path.read_text()


def authority():
    path = FOLDER / "authority.crt.pem"
    if not path.exists():
        path.write_bytes(_certify("Countersign test authority", private("authority").public_key(), None, "Countersign test only", True))
    return path.read_text()


def _certify(common_name, key, issuer, organisation, is_authority):
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
                         x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key)
               .serial_number(x509.random_serial_number())
               .not_valid_before(datetime.datetime(2025, 1, 1)).not_valid_after(datetime.datetime(2045, 1, 1))
               .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
               .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
               .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(private("authority").public_key()), critical=False)
               .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=is_authority, crl_sign=is_authority,
                                            content_commitment=False, key_encipherment=False, data_encipherment=False,
                                            key_agreement=False, encipher_only=False, decipher_only=False), critical=True))
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
    return builder.sign(private("authority"), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
