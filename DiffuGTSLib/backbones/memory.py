"""What frozen networks said of a picture, kept so that the next question about it costs no encoding."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Made = tuple[Tensor, ...]


@dataclass
class _Kept:
    made: Made
    run: int


class WindowMemory:
    """Keeps tensors under the content of the picture that they were made of, within a budget.

    A name is the SHA-256 of the picture's voxels and of how it was looked at, so that another scan, or the same scan on
    another grid, never finds what is not its own; `begin` forgets all that another model has said. What comes back is
    bit for bit what was made. Tensors wait in the memory of the processor, whatever device they come from.

    Args:
        budget_mb: The most that is kept, MB (2^20). What no longer fits is made again each time, and counted.
    """

    def __init__(self, budget_mb: int) -> None:
        self.budget_bytes = budget_mb * 2**20
        self.recalled = self.made = self.not_kept = 0
        self._model: object = None
        self._run = 0
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0

    @property
    def used_mb(self) -> float:
        """What is kept, MB (2^20)."""
        return self._bytes / 2**20

    def begin(self, model: object) -> None:
        """Start a run: counts begin at 0, and what another model has said is forgotten.

        Args:
            model: All that decides what the networks say of a picture; compared for equality.
        """
        if model != self._model:
            self.forget()
        self._model = model
        self._run += 1
        self.recalled = self.made = self.not_kept = 0

    def limit(self, budget_mb: int) -> None:
        """Set another budget; what lies above it is forgotten as a whole."""
        self.budget_bytes = budget_mb * 2**20
        if self._bytes > self.budget_bytes:
            self.forget()

    def summary(self) -> str:
        """Say what the last run found, and what will have to be looked at again."""
        said = f"{self.recalled} looks recalled, {self.made} made; {self.used_mb:.0f} MB are remembered"
        if self.not_kept:
            said += (
                f", {self.not_kept} looks did not fit into {self.budget_bytes / 2**20:.0f} MB and will be made again"
            )
        return f"{said}."

    def forget(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._bytes = 0

    def remembered(self, how: object, picture: Tensor, make: Callable[[], Made]) -> Made:
        """Return what is kept of a picture, or make it and keep it where there is room.

        Room is made by what no look of this run has used: earlier scans go, and a scan larger than the budget keeps
        its first windows instead of losing each just before it is asked for.

        What is returned may be what is kept: it must not be written into.

        Args:
            how: What is asked of it; its `repr` is part of the name.
            picture: What the answer follows from, in the precision that `begin` was told of.
            make: Finds the answer.
        """
        if self.budget_bytes == 0:
            self.made, self.not_kept = self.made + 1, self.not_kept + 1
            return make()
        name = _name(how, picture)
        kept = self._kept.get(name)
        if kept is not None:
            kept.run = self._run
            self.recalled += 1
            return tuple(tensor.to(picture.device) for tensor in kept.made)
        made = make()
        self.made += 1
        size = sum(tensor.nbytes for tensor in made)
        if self._make_room(size):
            self._kept[name] = _Kept(tuple(tensor.detach().cpu() for tensor in made), self._run)
            self._bytes += size
        else:
            self.not_kept += 1
        return made

    def _make_room(self, size: int) -> bool:
        """Let go of what this run has not used, the oldest first, as far as it is needed and helps."""
        unused = [name for name, kept in self._kept.items() if kept.run != self._run]
        free = self.budget_bytes - self._bytes
        if size > free + sum(_size(self._kept[name]) for name in unused):
            return False
        for name in unused:
            if size <= free:
                break
            free += _size(self._kept[name])
            self._bytes -= _size(self._kept.pop(name))
        return True


def _size(kept: _Kept) -> int:
    return sum(tensor.nbytes for tensor in kept.made)


def _name(how: object, picture: Tensor) -> str:
    digest = hashlib.sha256(repr((how, tuple(picture.shape), picture.dtype)).encode())
    digest.update(picture.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
