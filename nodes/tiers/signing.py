"""Pure. How a request to an S3-compatible store is signed: AWS Signature Version 4, in headers."""

import hashlib
import hmac

from msgspec import Struct

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"  # over TLS: the bytes have a checksum of their own
SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


class Credentials(Struct, frozen=True):
    """Who asks."""

    key: str
    secret: str
    token: str = ""


def quoted(path: str) -> str:
    """A path as it is sent and signed."""
    return "".join(char if char in SAFE else "".join(f"%{byte:02X}" for byte in char.encode()) for char in path)


def signed(
    method: str, host: str, path: str, payload: str, at: str, region: str, who: Credentials | None
) -> dict[str, str]:
    """The headers of a request. `payload` is its sha256 in hex or UNSIGNED, `at` the time as in 20261121T120000Z."""
    headers = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": at}
    if who is None:
        return headers
    if who.token:
        headers["x-amz-security-token"] = who.token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"{method}\n{path}\n\n{lines}\n{names}\n{payload}"
    scope = f"{at[:8]}/{region}/s3/aws4_request"
    text = f"{ALGORITHM}\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + who.secret.encode()
    for part in (at[:8], region, "s3", "aws4_request"):
        key = _hmac(key, part)
    signature = _hmac(key, text).hex()
    said = f"{ALGORITHM} Credential={who.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": said}


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
