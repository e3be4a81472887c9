"""Pure. How a command ends: the exit codes, and the one exception that carries one with its sentence."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `wiremesh`. From 64 on they are those of sysexits.h."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    INTERNAL = 70
    KEY = 77
    SETTING = 78
    INTERRUPTED = 130
    PIPE = 141


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the request failed",
    Exit.USAGE: "the command line cannot be understood",
    Exit.UNAVAILABLE: "nobody could take the request: no instance, or all of them busy",
    Exit.INTERNAL: "a mistake of ours, or an engine that crashed",
    Exit.KEY: "the mesh key was refused, or one is needed",
    Exit.SETTING: "a setting, or this installation, cannot be used",
    Exit.INTERRUPTED: "interrupted from the keyboard",
    Exit.PIPE: "whoever read our output has gone",
}


class Complaint(Exception):
    """Something that the user can mend: a sentence, and the exit code to leave with."""

    def __init__(self, code: Exit, text: str) -> None:
        super().__init__(text)
        self.code = code
