"""Pure. The wire of Wiremesh, MESH/1: messages, codec, limits, errors and the lifecycle tables. README.md is its RFC.

Needs msgspec and nothing else. If an import of `proto.messages` fails here, another package named `proto` (Google's
proto-plus installs one) stands before ours: see `launch.cli`.
"""

WIREMESH = True  # how the command tells this package from others of the same name
