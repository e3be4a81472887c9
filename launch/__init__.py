"""Pure. What starts Wiremesh: the `wiremesh` command, the scripts, the examples; and its version."""

VERSION = "0.1.0"
