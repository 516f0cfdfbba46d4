"""Text vectors without a model: TF-IDF of words, reduced by a truncated SVD (latent semantic analysis).

Deerwester et al. 1990. The vectors are the cheap alternative to an MLLM that every method is compared with.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from coldstart.config import UserError
from coldstart.data.content import Content

MAX_TERMS = 50_000
MIN_TERMS = 2
CONFIG, WEIGHTS = "text_svd.json", "text_svd.safetensors"


class TextSvd:
    """Maps title and text of an item to a vector.

    Args:
        terms: Words and pairs of words, in the order of `idf`.
        idf: [terms] inverse document frequencies.
        components: [terms, D] singular vectors.
    """

    def __init__(self, terms: Sequence[str], idf: NDArray[Any], components: NDArray[Any]) -> None:
        self.terms, self.idf, self.components = list(terms), idf, components.astype(np.float32)
        self._vectorizer = _vectorizer(vocabulary={term: at for at, term in enumerate(terms)})
        self._vectorizer.idf_ = idf

    @property
    def width(self) -> int:
        """`D`."""
        return int(self.components.shape[1])

    @classmethod
    def fit(cls, texts: Iterable[str], *, width: int, seed: int) -> Self:
        """Fits on the texts of a catalog.

        Args:
            texts: One per item.
            width: Largest `D`; a catalog of few terms gets fewer.
            seed: Of the randomized SVD.

        Raises:
            UserError: the texts hold fewer than two terms.
        """
        vectorizer = _vectorizer(max_features=MAX_TERMS)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise UserError(f"the items' texts cannot be compared ({error}); give items a title or a text") from error
        if counts.shape[1] < MIN_TERMS:
            raise UserError("the items' texts hold one term only, so they cannot be compared; give items more text")
        width = min(width, counts.shape[1] - 1, max(counts.shape[0] - 1, 1))
        svd = TruncatedSVD(width, random_state=seed).fit(counts)
        return cls(list(vectorizer.get_feature_names_out()), vectorizer.idf_, svd.components_.T)

    def __call__(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Vectors `[n, D]`, not normalized; a text without a known term gets zeros."""
        vectors: NDArray[np.float32] = (self._vectorizer.transform(texts) @ self.components).astype(np.float32)
        return vectors

    def save(self, directory: Path) -> None:
        """Writes JSON and safetensors into an existing directory."""
        (directory / CONFIG).write_text(json.dumps({"terms": self.terms}))
        save_file({"idf": self.idf, "components": self.components}, directory / WEIGHTS)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Reads what `save` wrote."""
        weights = load_file(directory / WEIGHTS)
        return cls(json.loads((directory / CONFIG).read_text())["terms"], weights["idf"], weights["components"])


def text_of(content: Content) -> str:
    """Title and text of an item as one string."""
    return " ".join(part for part in (content.title, content.text) if part)


def _vectorizer(**options: Any) -> TfidfVectorizer:
    # Words of one character carry meaning in Chinese and Japanese; the default pattern drops them.
    return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), sublinear_tf=True, **options)
