"""Stand-in for `slicer.packaging`: it keeps what would be installed and installs nothing.

`missing` names the requirements that shall count as not there; `calls` lists what was asked of this module since
`forget`; `installing` may be set to a function that is called instead of pip and may raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

calls: list[tuple[str, tuple[str, ...], dict[str, Any]]] = []
missing: set[str] = set()
installing: Callable[[tuple[str, ...]], None] | None = None


class PackageNotFoundError(Exception):
    """A requirement was not there and the user did not want it."""


def forget() -> None:
    """Start anew: nothing was asked, everything is there."""
    global installing  # noqa: PLW0603
    calls.clear()
    missing.clear()
    installing = None


def _as_list(requirements: str | Iterable[Any]) -> tuple[str, ...]:
    lines = [requirements] if isinstance(requirements, str) else list(requirements)
    return tuple(str(line) for line in lines)


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!~\[;@]", requirement.strip(), maxsplit=1)[0].lower()


def load_requirements(path: str | Path) -> list[str]:
    """Return the requirements of a file."""
    lines = (line.split("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def load_pyproject_dependencies(path: str | Path) -> list[str]:
    """Return the dependencies of a pyproject file."""
    import tomllib

    return list(tomllib.loads(Path(path).read_text(encoding="utf-8"))["project"]["dependencies"])


def pip_check(requirements: str | Iterable[Any], **options: Any) -> bool:
    """Say whether everything is there."""
    names = _as_list(requirements)
    calls.append(("pip_check", names, options))
    return not {_name(requirement) for requirement in names} & missing


def pip_install(requirements: str | Iterable[Any], **options: Any) -> None:
    """Pretend to install: the requirements are there from now on."""
    names = _as_list(requirements)
    calls.append(("pip_install", names, options))
    if installing is not None:
        installing(names)
    missing.difference_update(map(_name, names))
    finished = options.get("completedCallback")
    if finished is not None:
        finished(0)


def pip_ensure(requirements: str | Iterable[Any], **options: Any) -> list[str]:
    """Pretend to ask and to install what is missing; return what was skipped: nothing."""
    names = _as_list(requirements)
    calls.append(("pip_ensure", names, options))
    wanted = [requirement for requirement in names if _name(requirement) in missing]
    if wanted:
        pip_install(wanted)
    return []


def pip_uninstall(requirements: str | Iterable[Any], **options: Any) -> None:
    """Pretend to remove."""
    calls.append(("pip_uninstall", _as_list(requirements), options))
