"""Shell. `wiremesh frontend`: OpenAI's interface over the mesh."""

import argparse
import os

from launch import VERSION
from launch.codes import Complaint, Exit
from launch.flags_frontend import FrontendFlags
from mesh.options import collect, options_of
from nodes import serving
from nodes.frontend import node
from nodes.frontend.keys import KeysRefused
from nodes.frontend.server import Listener


def main(arguments: argparse.Namespace) -> int:
    """Serve until told to leave; returns the exit code."""
    options = options_of(arguments, os.environ)
    flags = collect(FrontendFlags, vars(arguments), os.environ, "frontend")
    listener = Listener(flags.host, flags.port)
    try:
        return serving.run(
            options,
            lambda: node.run(
                options, flags.settings(), VERSION, listener, flags.api_keys, flags.tls_cert, flags.tls_key
            ),
        )
    except KeysRefused as refused:
        raise Complaint(Exit.SETTING, str(refused)) from None
    finally:
        listener.socket.close()
