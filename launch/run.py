"""Shell. `wiremesh run MODULE:COMPONENT`: what `component.run()` does, with flags."""

import argparse
import os

from launch.codes import Complaint, Exit
from launch.loader import load
from mesh.component import serve
from mesh.options import options_of


def main(arguments: argparse.Namespace) -> int:
    """Serve until told to leave; returns the exit code."""
    options = options_of(arguments, os.environ)
    component = load(arguments.target)
    if not component.endpoints:
        raise Complaint(Exit.USAGE, f"{component.name} has no endpoint: decorate a function with @component.endpoint")
    return serve(component, options)
