"""Shell. The figures of whoever makes embeddings."""

from nodes.media.embedder import Embedder
from nodes.metrics import Family, counter, gauge


def media_families(embedder: Embedder) -> list[Family]:
    """The metrics of whoever makes embeddings."""
    shelf, name = embedder.shelf, "wiremesh_media_"
    looks: dict[str, float] = {"hit": shelf.hits, "miss": shelf.misses}
    parts: dict[str, float] = {**embedder.figures, **embedder.decoder.figures}
    return [
        counter(f"{name}cache_lookups_total", "Embeddings that were looked for in the cache.", looks, "result"),
        gauge(f"{name}cache_bytes", "Bytes of the embedding cache in use.", shelf.used_bytes),
        counter(f"{name}cache_evictions_total", "Embeddings that made room for others.", shelf.evicted),
        counter(f"{name}parts_total", "Parts of requests, by what became of them.", parts, "result"),
        counter(f"{name}encode_seconds_total", "Time spent in the towers.", embedder.encode_s),
    ]
