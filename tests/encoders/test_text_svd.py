import numpy as np
import pytest

from coldstart.config import UserError
from coldstart.data.content import Content
from coldstart.encoders.text_svd import TextSvd, text_of

TEXTS = ["red wool coat", "red wool scarf", "blue cotton shirt", "blue cotton trousers", "a b", ""]


def test_texts_with_common_words_are_alike():
    svd = TextSvd.fit(TEXTS, width=4, seed=1)
    red, scarf, blue = svd(["red wool coat", "wool scarf", "blue shirt"])
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    assert cosine(red, scarf) > cosine(red, blue) + 0.2
    assert not svd(["", "unheard of"])[0].any()


def test_saved_vectors_are_the_same(tmp_path):
    svd = TextSvd.fit(TEXTS, width=3, seed=1)
    svd.save(tmp_path)
    assert np.array_equal(TextSvd.load(tmp_path)(TEXTS), svd(TEXTS))
    assert TextSvd.load(tmp_path).width == 3


def test_few_terms_give_fewer_dimensions_and_none_an_error():
    assert TextSvd.fit(["a b", "b"], width=64, seed=1).width < 4
    for texts in (["", ""], ["same", "same"]):
        with pytest.raises(UserError, match="cannot be compared"):
            TextSvd.fit(texts, width=8, seed=1)


def test_title_and_text_are_one_string():
    assert text_of(Content("a", "b", b"image")) == "a b"
    assert text_of(Content()) == ""
