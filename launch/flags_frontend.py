"""Pure. The flags of `wiremesh frontend`."""

from math import inf

from msgspec import Struct

from mesh.options import OptionRefused
from mesh.placement import POLICIES
from nodes.frontend import limits
from nodes.frontend.settings import Settings
from nodes.media import guard
from nodes.media.limits import PART_BYTES_DEFAULT, PART_BYTES_MAX
from proto.limits import MIB

CHOICES = tuple(name.replace("_", "-") for name in POLICIES if name != "direct")
PORT = 8000
MIGRATIONS = 3


class FrontendFlags(Struct, frozen=True):
    """What `wiremesh frontend` can be told, besides how to join."""

    host: str = "127.0.0.1"
    port: int = PORT
    policy: str = "least-loaded"
    router: bool = True
    migration_limit: int = MIGRATIONS
    timeout_s: float = limits.TIMEOUT_S_DEFAULT
    grace_s: float = limits.GRACE_S_DEFAULT
    streams_max: int = limits.STREAMS_DEFAULT
    body_bytes_max: int = limits.BODY_BYTES_DEFAULT
    kept_bytes_max: int = limits.KEPT_BYTES_DEFAULT
    api_keys: str = ""
    rate_per_key: float = 0.0
    concurrency_per_key: int = 0
    cors_origin: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    media_bytes_max: int = PART_BYTES_DEFAULT
    media_urls: tuple[str, ...] = ()
    json_pings: bool = False

    def __post_init__(self) -> None:
        if self.policy not in CHOICES:
            raise OptionRefused(f"--policy is {self.policy!r}: it must be one of {', '.join(CHOICES)}")
        _within("--port", self.port, 0, 65_535)
        _within("--migration-limit", self.migration_limit, 0, 1_000)
        _within("--timeout-s", self.timeout_s, 0.001, limits.TIMEOUT_S_MAX)
        _within("--grace-s", self.grace_s, 0.0, 3600.0)
        _within("--streams-max", self.streams_max, 1, 1_000_000)
        _within("--body-bytes-max", self.body_bytes_max, 1, limits.BODY_BYTES_MAX)
        _within("--kept-bytes-max", self.kept_bytes_max, 0, 2**50)
        _within("--media-bytes-max", self.media_bytes_max, 1, PART_BYTES_MAX)
        _within("--concurrency-per-key", self.concurrency_per_key, 0, 1_000_000)
        if not 0 <= self.rate_per_key < inf:
            raise OptionRefused(f"--rate-per-key is {self.rate_per_key}: it must be requests per second, 0 or more")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise OptionRefused("--tls-cert and --tls-key belong together: give both or none")
        for rule in self.media_urls:
            try:
                guard.refuse_rule(rule)
            except ValueError as error:
                raise OptionRefused(f"--media-urls: {error}") from None
        for origin in self.cors_origin:
            if not origin.isascii() or not origin.isprintable() or " " in origin:
                raise OptionRefused(f"--cors-origin is {origin!r}: write https://HOST, or * for all")

    def settings(self) -> Settings:
        """The same for the frontend itself."""
        return Settings(
            policy=self.policy.replace("-", "_"),
            routed=self.router,
            migrations_max=self.migration_limit,
            timeout_s=self.timeout_s,
            grace_s=self.grace_s,
            body_bytes_max=self.body_bytes_max,
            streams_max=self.streams_max,
            kept_bytes_max=self.kept_bytes_max,
            rate_per_key=self.rate_per_key,
            concurrency_per_key=self.concurrency_per_key,
            cors_origins=self.cors_origin,
            media_bytes_max=self.media_bytes_max,
            media_urls=tuple(rule for rule in self.media_urls if rule != guard.OFF),
            json_pings=self.json_pings,
        )


FRONTEND_HELP = {
    "host": "where to listen: an address of this host, or 0.0.0.0 for all (default: 127.0.0.1, this host only)",
    "port": f"the HTTP port; frontends of one user may share it, 0 takes any that is free (default: {PORT})",
    "policy": f"which worker gets a request where no router is asked: {', '.join(CHOICES)} (default: least-loaded)",
    "router": "ask a router first, where there is one (default: yes)",
    "migration_limit": f"how often in a row a request may move without a new token (default: {MIGRATIONS})",
    "timeout_s": f"how long a request may take; its client may want less (default: {limits.TIMEOUT_S_DEFAULT:g})",
    "grace_s": "how long a stream that has a session header or an Idempotency-Key is kept for a client that broke off, "
    f"and after its end (default: {limits.GRACE_S_DEFAULT:g})",
    "streams_max": "sequences in flight; beyond it requests are told to come back later "
    f"(default: {limits.STREAMS_DEFAULT})",
    "body_bytes_max": f"the largest body (default: {limits.BODY_BYTES_DEFAULT // MIB} MiB)",
    "kept_bytes_max": f"events of all kept streams together (default: {limits.KEPT_BYTES_DEFAULT})",
    "api_keys": "a file with one NAME:KEY or KEY on each line, readable only by its owner; requests then need one of "
    "them. SIGHUP reads it again (default: none, everybody may come in)",
    "rate_per_key": "requests per second of each API key (default: 0, any)",
    "concurrency_per_key": "requests at once of each API key (default: 0, any)",
    "cors_origin": "a web page's origin whose scripts may call, or * for all; may be repeated (default: none)",
    "tls_cert": "a PEM file with the certificate chain: serve HTTPS",
    "tls_key": "a PEM file with its private key",
    "media_bytes_max": "the largest picture, sound or clip of a request "
    f"(default: {PART_BYTES_DEFAULT // MIB} MiB); inline ones are bounded by --body-bytes-max too",
    "media_urls": "from where links in requests are fetched: HOST or HOST:PORT, or `public` for every host of the "
    "public Internet; may be repeated. A host that is named may have a private address (default: off, nothing is "
    "fetched)",
    "json_pings": "write spaces before an answer that is not streamed while it is waited for, so that no proxy gives "
    "up; an error is then told after a status of 200",
}


def _within(flag: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise OptionRefused(f"{flag} is {value}: it must be between {least} and {most}")
