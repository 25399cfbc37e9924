"""The stages that `bench --full` times: what is counted, what is measured, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import refused, run

from DiffuGTSLib.cli.benchmarking_stages import matmul_tflops, parse_shape, random_networks
from DiffuGTSLib.errors import ConfigError


@pytest.mark.parametrize(("text", "shape"), [("64", (64, 64, 64)), (" 256X256x128", (256, 256, 128))])
def test_a_size_is_one_side_or_three(text: str, shape: tuple[int, int, int]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "60", "0", "64x64", "64x64x", "big", "-64", "64x64x65"])
def test_another_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected one side or three, as in 128 or 256x256x128, multiples of 32"):
        parse_shape(text)


def test_the_weights_of_two_processes_are_the_same_and_none_is_zero() -> None:
    (first, unet), (second, _) = random_networks("tiny"), random_networks("tiny")
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))
    assert all(weight.any() for weight in unet.parameters() if weight.dim() > 1)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    done = run("bench-stages", "ours", "32", tmp_path, "--model", "tyni")
    refused(done, 2, "Unknown model 'tyni'", "tiny")


def test_both_ways_put_out_the_same_and_say_what_it_cost(tmp_path: Path) -> None:
    found = {}
    for way in ("ours", "monai"):
        (tmp_path / way).mkdir()
        done = run("bench-stages", way, "64", tmp_path / way, "--model", "tiny", "--device", "cpu")
        assert done.exit_code == 0, done.stderr
        found[way] = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    assert set(found["ours"]) - set(found["monai"]) == {"attend", "decode box"}, "MONAI has neither"
    for stage, theirs in found["monai"].items():
        ours = found["ours"][stage]
        assert (ours["windows"], theirs["windows"]) == (1, 1)
        assert ours["tflop"] == theirs["tflop"] > 0
        assert ours["seconds"] > 0 and ours["cpu_seconds"] > 0
        one, other = (np.load(tmp_path / way / f"{stage}.npy") for way in ("ours", "monai"))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * float(other.std()))


def test_operations_are_those_worked_by_hand_for_a_product() -> None:
    """Of a rate only the sense can be tested: it is positive, and no processor does 10^17 a second."""
    rates = matmul_tflops(torch.device("cpu"), half=False)
    assert all(0 < rate < 1e5 for rate in rates.values())
