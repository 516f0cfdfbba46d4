"""The benchmark of semantic IDs."""

import numpy as np

from workloads.benchmarks import quantizer


def test_both_quantize_the_same_vectors_about_as_well(monkeypatch) -> None:
    monkeypatch.setattr(quantizer, "SIZES", (16, 16))
    vectors = quantizer.clustered_vectors(2000)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    errors = []
    for fit in (quantizer.ours, quantizer.plain):
        codes, decode = fit(vectors)
        assert codes.shape == (2000, 2)
        errors.append(np.square(vectors - decode()).sum() / np.square(vectors - vectors.mean(0)).sum())
    assert abs(errors[0] - errors[1]) < 0.03
    assert max(errors) < 1


def test_the_table_names_the_ratio() -> None:
    text = quantizer.section(10, {"scikit-learn": 2.0, "coldstart": 3.0, "report": 0.1}, {"scikit-learn": 0.5})
    assert "| scikit-learn | 2.0 | 0.5000 |" in text
    assert "1.50 times as long" in text
