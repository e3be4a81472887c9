"""Shell. Is the package `proto` ours? Google's proto-plus installs a package of that name too.

Must run before anything imports `proto.messages`, so it imports nothing of Wiremesh but what needs no `proto`.
"""

import importlib

from launch.codes import Complaint, Exit

CURE = (
    "Give Wiremesh a virtual environment of its own, or: "
    "pip uninstall -y proto-plus && pip install --force-reinstall --no-deps wiremesh"
)


def check_proto() -> None:
    """Raise a Complaint unless `import proto` finds Wiremesh's."""
    try:
        package = importlib.import_module("proto")
    except Exception as error:  # A foreign package may fail in any way it likes: all of them mean the same to us.
        raise Complaint(
            Exit.SETTING, f"the package 'proto' of Wiremesh cannot be imported ({error!r}). {CURE}"
        ) from error
    if not getattr(package, "WIREMESH", False):
        where = getattr(package, "__file__", None) or next(iter(package.__path__), "nowhere")
        raise Complaint(Exit.SETTING, f"another package named 'proto' stands before Wiremesh's: {where}. {CURE}")
