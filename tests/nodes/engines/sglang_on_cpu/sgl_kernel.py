"""For tests only: lets SGLang's PyTorch path be imported where there is neither a GPU nor the wheel of its kernels.

Every kernel is there and none works: one that is really called raises. On a CPU, a Llama or a Qwen in `torch_native`
calls none. With this folder in PYTHONPATH it stands in for the package `sgl_kernel`.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__path__: list[str] = []  # a package: its modules are found by `_Modules`
__version__ = "0.4.10"


class Kernel:
    """One that is not there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any, **more: Any) -> None:
        raise NotImplementedError(f"{self._name} needs a GPU")

    def __getattr__(self, name: str) -> "Kernel":
        return Kernel(_ordinary(self._name, name))


class _Module(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Kernel:
        return Kernel(_ordinary(self.__name__, name))


class _Modules:
    """Finds every module below `sgl_kernel`."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith("sgl_kernel."):
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It is empty."""


def _ordinary(owner: str, name: str) -> str:
    if name.startswith("__"):
        raise AttributeError(name)
    return f"{owner}.{name}"


def __getattr__(name: str) -> Kernel:
    return Kernel(_ordinary("sgl_kernel", name))


sys.meta_path.append(_Modules())  # type: ignore[arg-type]
