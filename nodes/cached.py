"""Pure. How much of a sequence a worker has in its own cache, and need not fetch: as its engine has told."""

from collections.abc import Callable, Iterable

from nodes.contract.blocks import Digest, chain, root
from nodes.contract.engine import Job

Leading = Callable[[Iterable[int]], int]  # how many leading blocks of these hashes are there


def cached_positions(job: Job, block_tokens: int, leading: Leading, digest: Digest) -> int:
    """Whole blocks of positions. The cache may lose them before the job begins: then it computes them anew."""
    if job.media:
        return 0  # to compute a picture again, should it be gone, takes more than to bring it
    before = [*job.prompt, *job.generated][:-1]  # the last is computed in any case, and its block with it
    return leading(chain(before, block_tokens, root(job.cache_salt, digest), digest)) * block_tokens
