"""The one file that clients and the server run: our agent and the pure-Python packages that it needs, as a zipapp."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roomful.errors import RoomfulError

#: Packages that are copied from where they are installed, without what the agent has no use for.
_PACKAGES = ("redis", "async_timeout")
_LEFT_OUT: tuple[str, ...] = ()
_MAIN = """\
import sys

from roomful.agent.__main__ import main

sys.exit(main())
"""
#: A zip's earliest date: equal contents are equal files, whenever and wherever they are built.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """The agent as one file; two bundles with the same digest are the same, byte for byte."""

    path: Path
    #: SHA-256 of the file, in hexadecimal.
    digest: str


def build_bundle(folder: Path) -> Bundle:
    """Build the bundle from the installed packages into a folder, unless it is there already.

    The file's name carries the digest of its contents, so a bundle of an older version is never taken for this one.
    """
    data = pack(sorted(_sources()))
    digest = hashlib.sha256(data).hexdigest()
    path = folder / f"roomful-{digest[:16]}.pyz"
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    return Bundle(path, digest)


def pack(sources: list[tuple[str, bytes]]) -> bytes:
    """Zip files, given by their names in the archive, with a first line that lets them be executed."""
    out = io.BytesIO()
    out.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sources:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _sources() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN.encode()
    # Not the controller's: the agent's side must not depend on it.
    yield "roomful/__init__.py", b'"""The part of Roomful that runs on clients and on the server."""\n'
    yield from _package("roomful.agent", (".py", ".lua"))
    for name in _PACKAGES:
        yield from _package(name, (".py",))


def _package(name: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RoomfulError(f"the package {name} is not installed", fix=f"install it with: pip install {name}")
    base = Path(next(iter(spec.submodule_search_locations)))
    prefix = name.replace(".", "/")
    for path in sorted(base.rglob("*")):
        inside = f"{prefix}/{path.relative_to(base).as_posix()}"
        if path.suffix in suffixes and path.is_file() and "__pycache__" not in path.parts and inside not in _LEFT_OUT:
            yield inside, path.read_bytes()
