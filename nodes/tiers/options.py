"""Pure. What a worker's flags say of its tiers."""

import re

from msgspec import Struct

HOST_BYTES = 256 << 20  # where it is only there to pass blocks on to a disk or a store
USES = 2  # a prompt that nobody asks twice wears a disk out for nothing
USES_MAX = 255
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DISK_FORM = "DIR:BYTES, as in /scratch/kv:100G"
STORE_FORM = "dir:PATH or s3://BUCKET/PREFIX, and perhaps ?endpoint=URL&region=REGION"
REGION = "us-east-1"
_BYTES = re.compile(r"(\d{1,15})([KMGT]?)(?:i?B)?")
_STORE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/[A-Za-z0-9._/-]*)?(?:\?([^?#]*))?")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+")


class TierRefused(ValueError):
    """A tier cannot be had as it was asked for. The text says why."""


class BucketAt(Struct, frozen=True):
    """A place in an S3-compatible store."""

    bucket: str
    prefix: str
    endpoint: str  # scheme://host[:port]; the bucket is in the path there, else in the host
    region: str
    is_in_path: bool


class Asked(Struct, frozen=True):
    """The tiers that are wanted."""

    host_bytes: int
    disk: str = ""
    disk_bytes: int = 0
    directory: str = ""
    bucket: BucketAt | None = None
    uses: int = USES


def read(host_bytes: int, disk: str = "", store: str = "", uses: int = USES) -> Asked | None:
    """What the flags ask for; None: nothing. Raises TierRefused."""
    if not (host_bytes or disk or store):
        return None
    path, size = disk_of(disk) if disk else ("", 0)
    directory, bucket = store_of(store) if store else ("", None)
    return Asked(host_bytes or HOST_BYTES, path, size, directory, bucket, uses)


def disk_of(text: str) -> tuple[str, int]:
    """DIR:BYTES. Raises TierRefused."""
    path, _, size = text.rpartition(":")
    found = _BYTES.fullmatch(size)
    if not path or found is None or not int(found[1]):
        raise TierRefused(f"it must be {DISK_FORM}")
    return path, int(found[1]) * UNITS[found[2]]


def store_of(text: str) -> tuple[str, BucketAt | None]:
    """dir:PATH or s3://... Raises TierRefused."""
    if text.startswith("dir:") and len(text) > 4:
        return text[4:], None
    if not text.startswith("s3://"):
        raise TierRefused(f"it must be {STORE_FORM}")
    found = _STORE.fullmatch(text)
    said = dict(part.split("=", 1) for part in (found[3] or "").split("&") if "=" in part) if found else {}
    if found is None or not said.keys() <= {"endpoint", "region"}:
        raise TierRefused(f"it must be {STORE_FORM}")
    bucket, prefix = found[1], (found[2] or "").strip("/")
    region = said.get("region", REGION)
    endpoint = said.get("endpoint", f"https://{bucket}.s3.{region}.amazonaws.com").rstrip("/")
    if not _ENDPOINT.fullmatch(endpoint):
        raise TierRefused(f"its endpoint {endpoint!r} must be http://HOST:PORT or https://HOST:PORT")
    return "", BucketAt(bucket, prefix, endpoint, region, "endpoint" in said)
