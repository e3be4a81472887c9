"""Shell. `wiremesh keygen`: make the key of a mesh, once, and copy it to every host of it."""

import argparse
import os
from pathlib import Path

from launch.flags import KeygenFlags
from mesh.options import collect, options_of
from mesh.security import create_key, default_key_path


def main(arguments: argparse.Namespace) -> int:
    """Create the key file; print where it is and the tag by which nodes tell meshes of one name apart."""
    mesh = options_of(arguments, os.environ).mesh
    flags = collect(KeygenFlags, vars(arguments), os.environ, "keygen")
    path = Path(flags.path) if flags.path else default_key_path(mesh)
    key = create_key(path, mesh, force=flags.force)
    print(f"key of mesh {mesh!r}: {path}")
    print(f"tag: {key.tag.hex()}")
    print("Copy it to every host of this mesh (mode 0600), and keep it secret: who has it, belongs to the mesh.")
    return 0
