"""A graphics card that is not there: its tensors say `cuda:0`, their numbers lie in main memory.

What a card does not forgive, this one does not either: a calculation of tensors here and there, numpy on a tensor of
the card, a generator of the CPU for numbers on the card. How fast and how exact a card is it cannot say.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda", 0)
_ANSWERS = {
    "is_available": True, "is_initialized": True, "device_count": 1, "get_device_name": "a pretended card",
    "get_device_capability": (8, 9), "get_arch_list": ["sm_89"], "mem_get_info": (24 * 10**9, 24 * 10**9),
    "memory_reserved": 0, "memory_allocated": 0, "max_memory_allocated": 0, "empty_cache": None, "synchronize": None,
    "reset_peak_memory_stats": None, "set_device": None,
    "get_rng_state": None, "set_rng_state": None,  # what is drawn there is drawn in main memory, whose state is kept
}  # fmt: skip
_FROM_EVERYWHERE = (
    "__getitem__",
    "__setitem__",
    "copy_",
    "__get__",
    "__set__",
    "as_subclass",
    "_has_compatible_shallow_copy_type",
)
"""What takes indices, values or gradients of both; torch's own fields are read and set through `__get__`, `__set__`."""


class OnCard(torch.Tensor):
    """A tensor of the card."""

    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calculate in main memory; what comes of it lies on the card."""
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if name not in _FROM_EVERYWHERE:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if any(not isinstance(tensor, OnCard) and tensor.dim() for tensor in tensors):
                raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")
        with torch._C.DisableTorchFunctionSubclass():
            return tree_map(_on_card, function(*args, **kwargs))

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnCard":
        """Copy the numbers; a parameter's copy is a parameter."""
        copied = _on_card(self.detach().clone()).requires_grad_(self.requires_grad)
        copied.__dict__.update(self.__dict__)
        return copied


class _Road(TorchFunctionMode):
    """What torch would ask the driver for: tensors made on the card, carried there and carried back."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, subject = getattr(function, "__name__", ""), args[0] if args else None
        if name in ("to", "cpu", "cuda") and isinstance(subject, torch.Tensor):
            return _carried(name, subject, args[1:], kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            if kwargs.get("generator") is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            return _on_card(function(*args, **{**kwargs, "device": "cpu"}))
        return function(*args, **kwargs)


@contextlib.contextmanager
def pretended_card() -> Iterator[None]:
    """Let torch have one card, of 24 GB, as long as the context lasts."""
    future, half = torch.__future__, torch.autocast.__init__
    overwrites = future.get_overwrite_module_params_on_conversion()

    def half_here(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        half(self, "cpu", *args, **kwargs)  # type: ignore[misc]

    with contextlib.ExitStack() as stack:
        for name, answer in _ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=answer))
        stack.enter_context(mock.patch.object(torch.autocast, "__init__", half_here))
        stack.enter_context(mock.patch.object(torch, "save", functools.partial(_save, torch.save)))
        stack.enter_context(mock.patch.object(torch, "load", functools.partial(_load, torch.load)))
        stack.callback(future.set_overwrite_module_params_on_conversion, overwrites)
        future.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_Road())
        yield


def _carried(name: str, subject: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Carry a tensor as `Tensor.to` would; what does not move is converted where it is."""
    device, dtype = {"cpu": torch.device("cpu"), "cuda": CARD}.get(name, subject.device), subject.dtype
    for word in (*args, *(kwargs.pop(key, None) for key in ("device", "dtype", "other"))):
        if isinstance(word, torch.Tensor):
            device, dtype = word.device, word.dtype
        elif isinstance(word, (str, torch.device)):
            device = torch.device(word)
        elif isinstance(word, torch.dtype):
            dtype = word
    there = device.type == "cuda"
    copied = kwargs.get("copy", False) or there != isinstance(subject, OnCard)
    moved = subject.as_subclass(torch.Tensor).to(
        dtype, copy=copied, memory_format=kwargs.get("memory_format", torch.preserve_format)
    )
    return _on_card(moved) if there else moved


def _save(save: Callable[..., None], what: Any, *args: Any, **kwargs: Any) -> None:
    save(tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, OnCard) else leaf, what), *args, **kwargs)


def _load(load: Callable[..., Any], file: Any, map_location: Any = None, **kwargs: Any) -> Any:
    there = map_location is not None and torch.device(map_location).type == "cuda"
    read = load(file, map_location="cpu", **kwargs)
    return tree_map(_on_card, read) if there else read


def _on_card(what: Any) -> Any:
    return what.as_subclass(OnCard) if isinstance(what, torch.Tensor) and not isinstance(what, OnCard) else what
