"""Shell. `wiremesh call ENDPOINT [JSON]`: a client from the command line; prints each item as a line of JSON."""

import argparse
import asyncio
import os
import re
import sys
from typing import Any

import msgspec

from launch.codes import Complaint, Exit
from launch.flags import CallFlags
from mesh.client import PARTS, connect
from mesh.endpoint import check_name
from mesh.options import Options, collect, options_of


def main(arguments: argparse.Namespace) -> int:
    """Call an endpoint once; returns the exit code, or raises what `launch.cli` explains."""
    options = options_of(arguments, os.environ)
    flags = collect(CallFlags, vars(arguments), os.environ, "call")
    endpoint: str = arguments.endpoint
    try:
        check_name(endpoint, PARTS)
    except ValueError as error:
        raise Complaint(Exit.USAGE, str(error)) from None
    asyncio.run(_call(endpoint, _payload(arguments.payload), _node(flags.direct), flags, options))
    return Exit.OK


async def _call(endpoint: str, payload: Any, node: int, flags: CallFlags, options: Options) -> None:
    async with connect(options=options) as mesh:
        client = mesh.client(endpoint, policy=flags.policy)
        timeout_s = flags.timeout_s or None
        if node:
            stream = client.direct(payload, node, timeout_s=timeout_s)
        else:
            stream = client.generate(payload, timeout_s=timeout_s)
        async for item in stream:
            print(_line(item), flush=True)


def _payload(text: str) -> Any:
    if text == "-":
        text = sys.stdin.read()
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Complaint(Exit.USAGE, f"the request is not JSON: {error}") from None


def _node(text: str) -> int:
    if text and not re.fullmatch("[0-9a-f]{16}", text):
        raise Complaint(Exit.USAGE, f"--direct is {text!r}: it must be a node id, 16 hexadecimal digits")
    return int(text or "0", 16)


def _line(item: Any) -> str:
    """An item as JSON; what JSON cannot say is shown as Python does."""
    try:
        return msgspec.json.encode(item, enc_hook=repr).decode()
    except (TypeError, ValueError):
        return msgspec.json.encode(repr(item)).decode()
