"""The codebook: one step by hand, idle codes, straight-through gradients, and the same table in every process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.synthesis import codebook as room
from DiffuGTSLib.synthesis.codebook import Codebook

ROOT = Path(__file__).parents[2]


def a_line(*values: float) -> Tensor:
    """Latents of one number each, in a row."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, 1, -1)


def a_seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture
def a_pair() -> Codebook:
    """Two codes, 0 and 10, each used twice a batch so far."""
    codebook = Codebook(n_codes=2, embedding_dim=1)
    codebook.embeddings.copy_(torch.tensor([[0.0], [10.0]]))
    codebook.z_avg.copy_(torch.tensor([[0.0], [20.0]]))
    codebook.N.fill_(2.0)
    return codebook


def test_one_step_of_the_moving_averages_is_the_one_worked_by_hand(a_pair: Codebook) -> None:
    a_pair.train()
    quantized = a_pair(a_line(1, 2, 9), a_seed())
    assert quantized.indices.flatten().tolist() == [0, 0, 1]
    assert quantized.latent.flatten().tolist() == [0, 0, 10], "snapped to the codes before they moved"
    assert a_pair.N.tolist() == pytest.approx([0.99 * 2 + 0.01 * 2, 0.99 * 2 + 0.01])
    assert a_pair.z_avg.flatten().tolist() == pytest.approx([0.01 * 3, 0.99 * 20 + 0.01 * 9])
    assert a_pair.embeddings.flatten().tolist() == pytest.approx([0.03 / 2.0, 19.89 / 1.99], rel=1e-5)


def test_a_code_that_lies_idle_becomes_a_latent_of_the_batch(a_pair: Codebook) -> None:
    a_pair.train()
    a_pair.N.copy_(torch.tensor([2.0, 1.0]))  # 0.99 after a batch without it
    a_pair(a_line(1, 2, 3), a_seed())
    assert float(a_pair.embeddings[1]) in (1.0, 2.0, 3.0)
    assert float(a_pair.N[1]) == pytest.approx(0.99), "the count goes on as it was"


def test_the_gradient_passes_as_if_nothing_had_been_snapped(a_pair: Codebook) -> None:
    latent = a_line(1, 2, 9).requires_grad_()
    weights = a_line(3, -1, 5)
    (a_pair.eval()(latent).latent * weights).sum().backward()
    assert latent.grad is not None and torch.equal(latent.grad, weights)


def test_the_commitment_is_a_quarter_of_the_mean_square(a_pair: Codebook) -> None:
    assert float(a_pair.eval()(a_line(1, 2, 9)).commitment) == pytest.approx(0.25 * (1 + 4 + 1) / 3)


def test_the_perplexity_counts_the_codes_in_use() -> None:
    codebook = Codebook(n_codes=8, embedding_dim=1).eval()
    codebook.embeddings.copy_(torch.arange(8.0)[:, None])
    assert float(codebook(a_line(*range(8))).perplexity) == pytest.approx(8)
    assert float(codebook(a_line(3, 3, 3)).perplexity) == pytest.approx(1)
    assert float(codebook(a_line(0, 1, 1, 0)).perplexity) == pytest.approx(2)


def test_an_empty_table_starts_with_latents_of_the_first_batch() -> None:
    codebook = Codebook(n_codes=4, embedding_dim=1).train()
    assert not codebook.started
    latent = a_line(*range(1, 21))
    codebook(latent, a_seed())
    assert codebook.started
    assert float(codebook.N.sum()) == pytest.approx(0.99 * 4 + 0.01 * 20)
    again = Codebook(n_codes=4, embedding_dim=1).train()
    again(latent, a_seed())
    assert torch.equal(codebook.embeddings, again.embeddings), "the generator decides"


def test_few_latents_are_repeated_with_a_little_noise() -> None:
    codebook = Codebook(n_codes=3000, embedding_dim=4)
    vectors = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]])
    codebook._start(vectors, a_seed())
    distance = torch.minimum(*((codebook.embeddings - vector).abs().amax(1) for vector in vectors))
    assert 0 < float(distance.max()) < 0.05
    near = codebook.embeddings[codebook.embeddings[:, 0] > 0] - vectors[0]
    assert float(near.std()) == pytest.approx(0.01 / 4**0.5, rel=0.1)


def test_in_evaluation_nothing_is_learned(a_pair: Codebook) -> None:
    before = {name: tensor.clone() for name, tensor in a_pair.state_dict().items()}
    a_pair.eval()(a_line(1, 2, 9))
    assert all(torch.equal(tensor, before[name]) for name, tensor in a_pair.state_dict().items())


def test_training_without_a_generator_is_refused(a_pair: Codebook) -> None:
    with pytest.raises(ConfigError, match="needs a torch.Generator"):
        a_pair.train()(a_line(1, 2, 9))


def test_the_nearest_code_is_found_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = Codebook(n_codes=50, embedding_dim=3)
    codebook.embeddings.copy_(torch.randn(50, 3, generator=a_seed()))
    vectors = torch.randn(101, 3, generator=a_seed(1))
    by_distance = torch.cdist(vectors, codebook.embeddings).argmin(dim=1)
    assert torch.equal(codebook.nearest(vectors), by_distance)
    monkeypatch.setattr(room, "_DISTANCES_AT_ONCE", 500)
    assert torch.equal(codebook.nearest(vectors), by_distance)


def test_limits_are_those_of_the_whole_table(a_pair: Codebook) -> None:
    assert a_pair.limits == (0.0, 10.0)


PROCESS = """
import json, os, sys
import torch, torch.distributed
from DiffuGTSLib.synthesis.codebook import Codebook

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
codebook = Codebook(n_codes=3, embedding_dim=1).train()
codebook.embeddings.copy_(torch.tensor([[0.0], [10.0], [500.0]]))
codebook.z_avg.copy_(torch.tensor([[0.0], [20.0], [500.0]]))
codebook.N.copy_(torch.tensor([2.0, 2.0, 1.0]))
latents = ([1.0, 2.0], [9.0, 11.0])[rank]
codebook(torch.tensor(latents).view(1, 1, 1, 1, 2), torch.Generator().manual_seed(rank))
print(json.dumps([codebook.N.tolist(), codebook.embeddings.flatten().tolist()]), flush=True)
torch.distributed.destroy_process_group()
os._exit(0)
"""


def test_two_processes_learn_from_both_batches_and_hold_one_table(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "meeting")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in running)
    assert first == second
    counts, codes = first
    assert counts == pytest.approx([2.0, 2.0, 0.99])
    assert codes[:2] == pytest.approx([0.03 / 2, (0.99 * 20 + 0.2) / 2])
    assert min(abs(codes[2] - 1), abs(codes[2] - 2)) < 0.1, "a latent of the first process, in both"
