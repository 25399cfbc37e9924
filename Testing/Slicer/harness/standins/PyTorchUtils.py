"""Stand-in for the module PyTorchUtils of the PyTorch extension: it keeps what was asked for and installs nothing."""

from __future__ import annotations

from typing import Any

calls: list[dict[str, Any]] = []
installed = True
agrees = True
"""Whether the user agrees when asked."""


class PyTorchUtilsLogic:
    """The methods that extensions call."""

    def torchInstalled(self) -> bool:
        """Say whether torch is there."""
        return installed

    def installTorch(
        self, askConfirmation: bool = False, forceComputationBackend: str | None = None, **options: Any
    ) -> Any:
        """Pretend to install; return something where torch is there afterwards, or None."""
        global installed  # noqa: PLW0603
        calls.append(
            {"askConfirmation": askConfirmation, "forceComputationBackend": forceComputationBackend, **options}
        )
        if askConfirmation and not agrees:
            return None
        installed = True
        return object()

    def checkTorchVersion(self, requirement: str) -> bool:
        """Say that every version will do."""
        return True

    def uninstallTorch(self) -> None:
        """Pretend to remove."""
        global installed  # noqa: PLW0603
        installed = False


def forget() -> None:
    """Start anew: torch is there, nothing was asked, the user agrees."""
    global installed, agrees  # noqa: PLW0603
    calls.clear()
    installed = agrees = True
