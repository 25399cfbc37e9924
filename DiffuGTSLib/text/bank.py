"""A bank of ready sentence vectors, so that the built-in prompts need no text model."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from DiffuGTSLib.backbones.interfaces import TextEncoder
from DiffuGTSLib.errors import PromptError, WeightsError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.text.prompts import sentence_key

_BANK_TENSOR = "embeddings"
_BANK_FORMAT = 1


@final
@dataclass(frozen=True, eq=False)
class PromptBank:
    """Ready vectors of known sentences.

    Attributes:
        sentences: In the order of the rows.
        vectors: Unit rows (n, d), float32.
        model_sha256: Digest of the weights that made them.
        pooling: How token vectors became one.
    """

    sentences: tuple[str, ...]
    vectors: Float[Tensor, "n d"]
    model_sha256: str
    pooling: str
    _rows: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._rows.update((sentence_key(sentence), row) for row, sentence in enumerate(self.sentences))

    def find(self, sentence: str) -> Float[Tensor, " d"] | None:
        """Return the vector of a sentence in any case and spacing, or None where the bank does not hold it.

        The text model reads lower case only, so that case never changes its answer.
        """
        row = self._rows.get(sentence_key(sentence))
        return None if row is None else self.vectors[row].clone()

    def save(self, path: Path) -> None:
        """Write the bank, vectors as float16; the same bank gives the same bytes.

        Half precision turns the bundled vectors by less than 2e-7 in cosine and halves the file.

        Raises:
            StorageError: If the file cannot be written.
        """
        half = self.vectors.to(torch.float16).contiguous()
        record = {
            "format": _BANK_FORMAT,
            "model_sha256": self.model_sha256,
            "pooling": self.pooling,
            "vectors_sha256": _tensor_sha256(half),
            "sentences": list(self.sentences),
        }
        # One metadata entry: safetensors writes several in no fixed order.
        data = safetensors.torch.save({_BANK_TENSOR: half}, metadata={"bank": json.dumps(record, ensure_ascii=False)})
        with whole_file(path) as temporary:
            temporary.write_bytes(data)

    @classmethod
    def load(cls, path: Path, *, model_sha256: str, dim: int) -> "PromptBank":
        """Read a bank strictly.

        Args:
            path: A file that `save` wrote.
            model_sha256: The text model that must have made it.
            dim: The width its vectors must have.

        Raises:
            WeightsError: If the file is missing or damaged, of another format, model or width, or its vectors are
                not finite unit vectors, one a sentence.
        """
        hint = "install DiffuGTS again, or rebuild the bank with python -m DiffuGTSLib.text.encoder."
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                record = json.loads((file.metadata() or {})["bank"])
                half = file.get_tensor(_BANK_TENSOR)
            sentences = tuple(str(sentence) for sentence in record["sentences"])
            found = (record["format"], record["model_sha256"], str(record["pooling"]), record["vectors_sha256"])
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise WeightsError(f"Prompt bank {path} cannot be read: {error!r}.", hint=hint) from error
        checks = (
            ("format", _BANK_FORMAT, found[0]),
            ("text model", model_sha256, found[1]),
            ("shape", [len(sentences), dim], list(half.shape)),
            ("checksum of the vectors", found[3], _tensor_sha256(half)),
        )
        for what, expected, given in checks:
            if expected != given:
                raise WeightsError(f"Prompt bank {path}: {what} should be {expected}, got {given}.", hint=hint)
        vectors = half.to(torch.float32)
        norms = vectors.norm(dim=1)
        if not bool(((norms - 1).abs() < 1e-2).all()):  # also false for NaN
            raise WeightsError(f"Prompt bank {path}: the vectors are not unit vectors.", hint=hint)
        return cls(sentences, vectors / norms[:, None], str(found[1]), found[2])


def require_sentences(sentences: Sequence[str]) -> None:
    """Refuse one sentence in the place of several: its letters would be embedded.

    Raises:
        PromptError: If `sentences` is a string (code "sentences").
    """
    if isinstance(sentences, str):
        raise PromptError(
            f"Expected a list of sentences, got one: '{sentences[:60]}'.",
            hint="put it in brackets: encode(['...']).",
            code="sentences",
        )


@final
class BankedEncoder:
    """Answers from the bank, and loads the text model at the first sentence that the bank does not hold.

    Attributes:
        dim: Width of the embeddings.
        weights: File → SHA-256 of the text model that made the bank, and embeds what is not in it.
    """

    def __init__(self, bank: PromptBank, load_model: Callable[[], TextEncoder]) -> None:
        self._bank = bank
        self._load_model = load_model
        self._model: TextEncoder | None = None
        self.dim = int(bank.vectors.shape[1])
        self.weights = {"model.safetensors": bank.model_sha256}

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Return one L2-normalized embedding a sentence, on the CPU, float32.

        Raises:
            WeightsError: If a sentence is not in the bank and the text model is not installed or damaged.
            PromptError: If a sentence is too long for the text model, or as `require_sentences`.
        """
        require_sentences(sentences)
        found = [self._bank.find(sentence) for sentence in sentences]
        unknown = [sentence for sentence, vector in zip(sentences, found, strict=True) if vector is None]
        fresh = iter(self._encode_unknown(unknown))
        rows = [next(fresh) if vector is None else vector for vector in found]
        return torch.stack(rows) if rows else torch.zeros(0, self.dim)

    def _encode_unknown(self, sentences: list[str]) -> Tensor:
        if not sentences:
            return torch.zeros(0, self.dim)
        if self._model is None:
            try:
                self._model = self._load_model()
            except WeightsError as error:
                message = f"The prompt '{sentences[0]}' is not in the bundled bank. {error.message}"
                raise WeightsError(message, hint=error.hint, code=error.code) from error
        return self._model.encode(sentences)


def _tensor_sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
