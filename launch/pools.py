"""Shell. `wiremesh pools`: a router that chooses a pool of workers first, and then a worker of that pool."""

import argparse
import os
from pathlib import Path

from launch.flags_pools import PoolsFlags, table_of
from mesh.options import OptionRefused, collect, options_of
from nodes import router, serving
from nodes.engine_options import POOL_FORM
from nodes.names import is_pool
from nodes.routing.placer import Placer
from nodes.routing.pooling import Pools, Promise


def main(arguments: argparse.Namespace) -> int:
    """Advise until told to leave; returns the exit code."""
    options = options_of(arguments, os.environ)
    flags = collect(PoolsFlags, vars(arguments), os.environ, "pools")
    pools = pools_of(flags)
    return serving.run(options, lambda: router.run(options, flags.policy.replace("-", "_"), pools))


def pools_of(flags: PoolsFlags) -> Pools:
    """What its flags and its table make of it. Raises OptionRefused."""
    try:
        content = Path(flags.table).read_bytes()
    except OSError as error:
        raise OptionRefused(f"--table {flags.table}: {error.strerror}") from None
    table = table_of(content, flags.table)
    for pool in table.pools:
        if not is_pool(pool.name):
            raise OptionRefused(f"--table {flags.table}: a pool is called {pool.name!r}: it must have {POOL_FORM}")
    policy = flags.policy.replace("-", "_")
    placers = {pool.name: Placer(policy, flags.knobs, flags.splitting) for pool in table.pools}
    return Pools(table, placers, Promise(flags.first_token_ms, flags.next_token_ms))
