"""Shell. From `MODULE:COMPONENT` on a command line to the component that it names."""

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from launch.codes import Complaint, Exit
from mesh.component import Component


def load(target: str) -> Component:
    """The component that `target` names; the name may be left out where a module has only one."""
    place, _, name = target.partition(":")
    folder, module_name = _place(place)
    module = _import(folder, module_name)
    if place.endswith(".py") and Path(module.__file__ or "").resolve() != Path(place).resolve():
        raise Complaint(Exit.USAGE, f"{place} cannot be imported: there is a module {module_name!r} already; rename it")
    found = {key: value for key, value in vars(module).items() if isinstance(value, Component)}
    if name:
        if name not in found:
            raise Complaint(Exit.USAGE, f"{place} has no component named {name!r}; {_listed(found)}")
        return found[name]
    if len(found) != 1:
        raise Complaint(Exit.USAGE, f"say which component of {place} to run, as {place}:NAME; {_listed(found)}")
    return next(iter(found.values()))


def _place(place: str) -> tuple[str, str]:
    """The folder to import from and the module's name."""
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise Complaint(Exit.USAGE, f"there is no file {place!r}")
        return str(path.resolve().parent), path.stem
    return os.getcwd(), place


def _import(folder: str, name: str) -> ModuleType:
    """Import a user's module. Its own `component.run()` must not serve: we are about to."""
    sys.path.insert(0, folder)
    run = Component.run
    Component.run = lambda self, *words, **options: None  # type: ignore[method-assign]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise Complaint(Exit.USAGE, f"there is no module {name!r} here ({folder}) or installed") from error
        raise Complaint(Exit.USAGE, _blame(name, error)) from error
    except (Exception, SystemExit) as error:  # It is the user's code: whatever it raises is said in one line.
        raise Complaint(Exit.USAGE, _blame(name, error)) from error
    finally:
        Component.run = run  # type: ignore[method-assign]


def _blame(name: str, error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if len(frames) > 1 else ""
    return f"module {name!r} cannot be imported: {type(error).__name__}: {first}{where}"


def _listed(found: dict[str, Component]) -> str:
    return f"it has: {', '.join(sorted(found))}" if found else "it has none"
