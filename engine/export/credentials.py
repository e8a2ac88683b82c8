"""C2PA manifests (Content Credentials): signed statements in the image's own bytes that say how it was made.

Source: C2PA specification 2.2; `c2pa-python` writes them. A manifest says `created` with IPTC's digital source type, and carries
the image's recipe id. Thumbnails are off: with one, a manifest is larger than a small image by far.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import __version__
from engine.export.rows import suffix_of
from engine.export.xmp import COMPOSITE, Provenance

MIME_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
RECIPE_LABEL = "org.imagefoundry.recipe"
SETTINGS = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
MISSING = (
    "C2PA manifests need the packages of imagefoundry[export]; install them with pip install 'imagefoundry[export]'"
)


class Signer:
    """Signs images with one key. Use it in the process that made it, from any thread."""

    def __init__(self, key_pem: bytes, chain_pem: bytes) -> None:
        """`key_pem`: PKCS#8 of an EC key on P-256. `chain_pem`: its certificate, then those that vouch for it.

        Raises ValueError if c2pa-python is missing or refuses the key or the chain.
        """
        try:
            import c2pa
        except ImportError:
            raise ValueError(MISSING) from None
        self._c2pa: Any = c2pa
        try:
            self._context = c2pa.Context.from_dict(SETTINGS)
            self._signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", chain_pem, key_pem, None))
        except c2pa.C2paError as error:
            raise ValueError(
                f"the C2PA key or its chain is refused ({_first_line(error)}); give an EC P-256 key as PKCS#8 PEM and its "
                "certificate chain as PEM, leaf first"
            ) from None

    @classmethod
    def from_files(cls, key: Path, chain: Path) -> "Signer":
        """Raises ValueError if a file cannot be read, or as the constructor."""
        contents = []
        for path in (key, chain):
            try:
                contents.append(path.expanduser().read_bytes())
            except OSError as error:
                raise ValueError(f"{path} cannot be read ({error.strerror}); give the path of a PEM file") from None
        return cls(*contents)

    def sign(self, image: bytes, provenance: Provenance, recipe: Mapping[str, str]) -> bytes:
        """The encoded image with a manifest in it; its pixels are the same. Raises ValueError if it cannot be signed."""
        c2pa = self._c2pa
        source = c2pa.C2paDigitalSourceType
        is_composite = provenance.source_type == COMPOSITE
        kind = source.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA if is_composite else source.TRAINED_ALGORITHMIC_MEDIA
        definition = {
            "claim_generator_info": [{"name": "imagefoundry", "version": __version__}],
            "assertions": [{"label": RECIPE_LABEL, "data": dict(recipe)}],
        }
        signed = io.BytesIO()
        try:
            builder = c2pa.Builder(definition, context=self._context)
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, kind)
            builder.sign(self._signer, MIME_TYPES[suffix_of(image)], io.BytesIO(image), signed)
        except c2pa.C2paError as error:
            raise ValueError(
                f"a C2PA manifest cannot be signed ({_first_line(error)}); check the key and its chain"
            ) from None
        return signed.getvalue()

    def check(self, image: bytes) -> None:
        """Raises ValueError if the manifest of a signed image does not verify; signing itself lets bad settings pass."""
        reader = self._c2pa.Reader(MIME_TYPES[suffix_of(image)], io.BytesIO(image))
        if (state := reader.get_validation_state()) not in ("Valid", "Trusted"):
            raise ValueError(
                f"a C2PA manifest reads back as {state}; check that the certificate is in date and meant for signing"
            )


def make_test_credential() -> tuple[bytes, bytes]:
    """Key and chain (PEM) of a new credential that nobody trusts: readers show its manifests as valid, by an unknown signer.

    Raises ValueError if the package cryptography is missing.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise ValueError(MISSING) from None
    from datetime import UTC, datetime, timedelta

    def named(text: str) -> "x509.Name":
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "imagefoundry test credential, not trusted")
        return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)

    def certificate(subject: str, own: Any, days: int, is_root: bool) -> "x509.Certificate":
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("test root"))
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, **usage), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        )
        if not is_root:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(root_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    leaf, root = certificate("test signer", key, 365, False), certificate("test root", root_key, 366, True)
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret, leaf.public_bytes(pem) + root.public_bytes(pem)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
