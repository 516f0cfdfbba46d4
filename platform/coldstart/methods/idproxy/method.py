"""IDProxy as a method: how its artifacts are loaded and what it registers.

The MLLM stack, training and baselines are imported where they are used: a scorer replica needs none of them, and they
take ten seconds of processor time and 400 MB.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config import Recipe
from coldstart.data.dataset import Dataset
from coldstart.methods.base import SCORER, Diagnostics, ItemAdaptor, ItemEncoder, Method, Parts, Stage, Variant
from coldstart.methods.baselines.similarity_scorer import has_similarity, with_content, with_similarity
from coldstart.methods.idproxy.joint_ranker import load_joint
from coldstart.methods.idproxy.registered import KINDS
from coldstart.methods.idproxy.scorers import (
    PROXY,
    FrozenScorer,
    JointScorer,
    is_joint,
    load_proxies,
)
from coldstart.methods.idproxy.warmup_blend import load_id_weight
from coldstart.rankers import load_ranker
from coldstart.rankers.scorer import Scorer
from coldstart.rankers.storage import load_id_embeddings


class IDProxy(Method):
    """Content to the ID slot of the target; the ranker stays frozen, or is trained further together with proxies."""

    name = "idproxy"
    kinds = KINDS
    encoder_kinds = ("encoder",)

    def catalog_dir(self, parts: Parts) -> Path:
        """The ranker."""
        return parts["ranker"]

    def load_encoder(self, parts: Parts, device: torch.device | str) -> ItemEncoder:
        """The aligned MLLM."""
        from coldstart.encoders import Encoder
        from coldstart.methods.idproxy.proxy_encoder import ProxyEncoder

        return ProxyEncoder(Encoder.load(parts["encoder"], device), device)

    def load_adaptor(self, parts: Parts) -> ItemAdaptor:
        """From coarse proxies and layer states to the scorer's columns."""
        adaptor = load_proxies(parts[SCORER])
        return with_content(adaptor, parts[SCORER]) if has_similarity(parts[SCORER]) else adaptor

    def load_scorer(self, parts: Parts) -> Scorer:
        """The frozen ranker with blended slots, or the joint ranker; with similarities if they were fitted."""
        scorer = self._load_base(parts)
        return with_similarity(scorer, parts[SCORER]) if has_similarity(parts[SCORER]) else scorer

    def _load_base(self, parts: Parts) -> Scorer:
        if is_joint(parts[SCORER]):
            return JointScorer(load_joint(parts[SCORER])).eval()
        ranker = load_ranker(parts["ranker"])
        return FrozenScorer(ranker, load_id_weight(parts[SCORER], ranker.trained)).eval()

    def stages(self, recipe: Recipe) -> tuple[Stage, ...]:
        """Coarse alignment, embedding, fine alignment."""
        from coldstart.methods.idproxy.stages import stages

        return stages(self, recipe)

    def variants(self, recipe: Recipe, dataset: Dataset, parts: Parts) -> list[Variant]:
        """Proxies of each stage, and the served scorer."""
        from coldstart.methods.idproxy.variants import variants

        return variants(self, recipe, dataset, parts)

    def diagnostics(self, recipe: Recipe, dataset: Dataset, parts: Parts) -> Diagnostics:
        """How the layer states predict ID rows, how proxies compare with them, and what the adaptor's gate does."""
        from coldstart.methods.idproxy.variants import diagnostics

        return diagnostics(recipe, dataset, parts)

    def neighbor_column(self, parts: Parts) -> str:
        """Fine proxies."""
        return PROXY

    def neighbor_rows(self, parts: Parts) -> tuple[NDArray[Any], NDArray[Any]]:
        """Items with a trained ID row, and these rows: proxies lie in the same space."""
        ids = load_id_embeddings(parts["ranker"])
        trained = np.flatnonzero(ids.trained.numpy())
        return trained, ids.rows.numpy()[trained]


METHOD = IDProxy()
