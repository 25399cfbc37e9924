"""What may be chosen when the head is trained: each mode means what it says, and nothing contradicts it."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.training.anomalies import Mixture
from DiffuGTSLib.training.head_options import HeadOptions
from DiffuGTSLib.training.head_run import PART


def test_by_default_all_kinds_of_windows_and_all_losses_are_used() -> None:
    options = HeadOptions()
    assert options.mixture == Mixture(further=1)
    assert astuple(options.weights) == (0.2, 0.05, 1.0, 1.0, 0.5)
    assert HeadOptions(elsewhere=False).weights.organ == 0.0, "there is nothing that it could teach"
    assert options.watch == "", "without patience the last weights are kept"


def test_seen_paints_no_tumor() -> None:
    mixture = HeadOptions(mode="seen").mixture
    assert mixture.healthy == 1.0 and mixture.real == 0.5
    assert HeadOptions(mode="seen", real=0.7).mixture.real == 0.7


def test_label_free_draws_no_window_around_a_real_tumor() -> None:
    assert HeadOptions(mode="label-free").mixture.real == 0.0
    assert HeadOptions(mode="label-free", healthy=0.5).mixture.healthy == 0.5


def test_image_labels_turn_the_outline_s_losses_off() -> None:
    options = HeadOptions(mode="image-labels", patience=2)
    assert (options.weights.dice, options.weights.voxel, options.weights.organ) == (0.0, 0.0, 0.0)
    assert not options.three_answers and HeadOptions().three_answers, "nor does a word say where the organ is"
    assert options.weights.anomaly > 0 and options.weights.similarity > 0
    assert options.watch == "score_auroc", "no outline chooses the best either"
    assert HeadOptions(patience=2).watch == "dice"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "label-free", "real": "0.3"}, "mode=label-free and real=0.3 contradict each other"),
        ({"mode": "seen", "real": "0"}, "mode=seen and real=0 contradict each other"),
        ({"mode": "seen", "healthy": "0.5"}, "mode=seen and healthy=0.5 contradict each other"),
        ({"mode": "image-labels", "dice": "1"}, "mode=image-labels and dice=1 contradict each other"),
        ({"mode": "image-labels", "voxel": "0.1"}, "mode=image-labels and voxel=0.1 contradict each other"),
        ({"elsewhere": "no", "organ": "0.5"}, "elsewhere=no and organ=0.5 contradict each other"),
        ({"further": "-1"}, "further: expected 0 to 20, got -1"),
        ({"mode": "image-labels", "organ": "0.5"}, "mode=image-labels and organ=0.5 contradict each other"),
        (
            {"anomaly": "0", "similarity": "0", "dice": "0", "voxel": "0", "organ": "0"},
            "one above 0, got 0, 0, 0, 0, 0",
        ),
        ({"anomaly": "0", "similarity": "0", "mode": "image-labels"}, "one above 0, got 0, 0, 0, 0, 0"),
        ({"real": "1.5"}, "real: expected 0 to 1, got 1.5"),
        ({"dice": "-2"}, "dice: expected 0 to 1e\\+06, got -2"),
        ({"alpha": "nan"}, "alpha: expected 0 to 1, got nan"),
        ({"learning_rate": "0"}, "learning_rate: expected"),
        ({"average": "1"}, "average: expected"),
        ({"validate_every": "0"}, "validate_every: expected"),
        ({"window_voxels": "40"}, "window_voxels: expected 0, or a multiple of 16 from 32, got 40"),
        ({"context_widths": "8,wide"}, "context_widths: expected whole numbers as in 16,32,48,64,96, got '8,wide'"),
        ({"context_widths": "8,0,8"}, "context_widths: expected whole numbers of 1 or more, got '8,0,8'"),
        ({"workers": "two"}, "workers: expected a whole number, got 'two'"),
    ],
)
def test_what_cannot_be_or_contradicts_the_mode_is_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PART.parse_options(values)


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"mode": "labelfree"}, "did you mean 'label-free'?"),
        ({"similarity_form": "symetric"}, "did you mean 'symmetric'?"),
        ({"adapter": "contex"}, "did you mean 'context'?"),
        ({"fuse": "logits"}, "did you mean 'logit'?"),
        ({"learning_rat": "1"}, "did you mean 'learning_rate'?"),
    ],
)
def test_a_misspelled_choice_is_guessed(values: dict[str, str], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PART.parse_options(values)
    assert caught.value.hint == hint
