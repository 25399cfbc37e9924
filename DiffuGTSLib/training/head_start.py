"""The head that training begins from: a trained one, with another answer or a wider context where these are wished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.weights import load_module
from DiffuGTSLib.errors import ConfigError, WeightsError
from DiffuGTSLib.training.head_options import HeadOptions
from DiffuGTSLib.training.job import Job
from DiffuGTSLib.training.model_folder import other_networks


def started(options: HeadOptions, channels: Sequence[int], text_dim: int, job: Job) -> AovaHead:
    """Return the head that training begins from, which has to be of the kind that is asked for, or narrower.

    Raises:
        WeightsError: If it cannot be read, or belongs to other features or another text model.
        ConfigError: If it is another kind of head.
    """
    folder = Path(options.start)
    folder = folder / "aova" if (folder / "aova").is_dir() else folder
    head: AovaHead = load_module(AovaHead, folder)
    bound = {"feature_channels": list(channels), "text_dim": text_dim}
    for name, wanted in bound.items():
        if _plain(head.config[name]) != wanted:
            raise WeightsError(
                f"start: the head in {folder} has {name} {_plain(head.config[name])}; these networks give {wanted}.",
                hint="a head goes on only on the features and the text model that it was trained on.",
            )
    if options.three_answers and not head.config["elsewhere"]:
        head = with_elsewhere(head)
    if options.adapter == "context" and can_widen(head, options.widths):
        head = widened(head, options.widths, job.plan.seed)
    _require_wished(head, options, folder)
    for name in other_networks(folder.parent, job.base):  # worth less, and may still be wished
        if name == "autoencoder" or head.tap is not None:
            job.report(f"aova: the head in {folder.parent} was trained on another {name}'s features")
    head.requires_grad_(True).train()
    return head


def _require_wished(head: AovaHead, options: HeadOptions, folder: Path) -> None:
    """Refuse a head of another form than the options ask for."""
    wanted_shape: dict[str, Any] = {
        name: getattr(options, name) for name in ("adapter", "alpha", "fuse", "denoiser_timestep")
    }
    wanted_shape["elsewhere"] = options.three_answers
    if options.adapter == "context":
        wanted_shape["context_widths"] = list(options.widths)
    if options.feature_scale:
        wanted_shape["feature_scale"] = options.feature_scale
    for name, wanted in wanted_shape.items():
        given = _plain(head.config[name])
        if given != wanted:
            shown = ",".join(map(str, given)) if isinstance(given, list) else given
            hint = f"say --set {name}={shown}"
            if name == "context_widths":
                hint += ", or whole multiples of these, to which it is widened"
            raise ConfigError(f"start: the head in {folder} has {name} {given}, not {wanted}.", hint=f"{hint}.")


def with_elsewhere(head: AovaHead) -> AovaHead:
    """Return a head of two answers as one that may also answer neither, which it all but never does until it is trained."""
    wider = _rebuilt(head, elsewhere=True)
    wider.load_state_dict({**wider.state_dict(), **head.state_dict()})
    return wider


def can_widen(head: AovaHead, widths: Sequence[int]) -> bool:
    """Whether a head's context pyramid can be made that wide: each level a multiple of itself, in as many norm groups."""
    now = head.config["context_widths"]
    return (
        head.config["adapter"] == "context"
        and len(now) == len(widths)
        and tuple(now) != tuple(widths)
        and all(wide % narrow == 0 and (wide % 8 == 0) == (narrow % 8 == 0) for narrow, wide in zip(now, widths, strict=True))
    )  # fmt: skip


def widened(head: AovaHead, widths: Sequence[int], seed: int = 0) -> AovaHead:
    """Return a head with a wider context pyramid that answers as the narrow one does, and can learn more.

    Net2Net (Chen, Goodfellow, Shlens, ICLR 2016): each channel stands there several times, side by side, so that the
    groups of the norms keep their mean and deviation, and what reads it shares its weight among the copies, in shares
    that are drawn, so that the copies do not learn the same.

    Args:
        head: With a `ContextAdapter`.
        widths: See `can_widen`.
        seed: Of the shares.
    """
    generator = torch.Generator().manual_seed(seed)
    wider = _rebuilt(head, context_widths=tuple(widths))
    shapes = {name: weight.shape for name, weight in wider.state_dict().items()}
    wider.load_state_dict(
        {name: _spread(weight, shapes[name], generator) for name, weight in head.state_dict().items()}
    )
    return wider


def _spread(weight: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return a weight, or a norm's or bias's vector, for so many copies of its outputs and inputs, each side by side."""
    if weight.shape == shape:
        return weight
    weight = weight.repeat_interleave(shape[0] // weight.shape[0], dim=0)
    if weight.ndim == 1:
        return weight
    shares = torch.rand(shape[1] // weight.shape[1], *weight.shape, generator=generator)
    return (weight * shares / shares.sum(dim=0)).movedim(0, 2).flatten(1, 2)


def _rebuilt(head: AovaHead, **changed: Any) -> AovaHead:
    """Return an untrained head of the same form but for what is changed."""
    config = {name: value for name, value in head.config.items() if not name.startswith("_")}
    built: AovaHead = AovaHead(**{**config, **changed})
    return built


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
