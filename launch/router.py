"""Shell. `wiremesh router`: a node that says where requests should go."""

import argparse
import os

from launch.flags_router import RouterFlags
from mesh.options import collect, options_of
from nodes import router, serving
from nodes.routing.placer import Placer


def main(arguments: argparse.Namespace) -> int:
    """Advise until told to leave; returns the exit code."""
    options = options_of(arguments, os.environ)
    flags = collect(RouterFlags, vars(arguments), os.environ, "router")
    policy = flags.policy.replace("-", "_")
    placer = Placer(policy, flags.knobs, flags.splitting)
    return serving.run(options, lambda: router.run(options, policy, placer))
