"""DIN built from FuxiCTR's layers, with its data loader and its `BaseModel.fit`."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block
from fuxictr.pytorch.models import BaseModel
from peer_program import EpochTimer, columns, grouped_auc, run

CONTEXT = ["rate", "seen", "gap"]
CONTEXT_VALUES = 64
MARK_WIDTH = 4


class Din(BaseModel):  # type: ignore[misc]
    """Attention of the target over (history item, mark), then an MLP."""

    def __init__(self, feature_map: FeatureMap, task: dict[str, Any], timer: EpochTimer) -> None:
        super().__init__(
            feature_map,
            monitor="gAUC",
            metrics=["gAUC"],
            early_stop_patience=task["patience"],
            embedding_regularizer=task["l2"],
            reduce_lr_on_plateau=False,
            model_root=task["out"],
            verbose=0,
        )
        self.epoch_timer = timer
        self.metric = grouped_auc(columns(task["rows"], "valid"), timer)
        width = task["embedding_dim"]
        self.embedding = FeatureEmbeddingDict(feature_map, width)
        self.attention = DIN_Attention(width + MARK_WIDTH, attention_units=task["attention"], hidden_activations="Dice")
        self.deep = MLP_Block(
            input_dim=2 * width + MARK_WIDTH + len(CONTEXT) * width,
            hidden_units=task["mlp_units"],
            dropout_rates=task["dropout"],
            output_dim=1,
            output_activation=self.output_activation,
        )
        self.compile("adam", "binary_crossentropy", task["learning_rate"])
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Click probability `[B, 1]` as `y_pred`."""
        values = self.get_inputs(inputs)
        embedded = self.embedding(values)
        target = F.pad(embedded["target"], (0, MARK_WIDTH))
        history = torch.cat([embedded["history"], embedded["mark"]], dim=-1)
        interest = self.attention(target, history, values["history"] > 0)
        context = [embedded[name] for name in CONTEXT]
        return {"y_pred": self.deep(torch.cat([embedded["target"], interest, *context], dim=-1))}

    def train_epoch(self, data_generator: Any) -> None:
        """Times the inherited method."""
        with self.epoch_timer.epoch():
            super().train_epoch(data_generator)

    def eval_step(self) -> None:
        """Pauses the timer; the library calls this method inside `train_epoch`, after the last step."""
        with self.epoch_timer.pause():
            super().eval_step()

    def evaluate_metrics(self, y_true: Any, y_pred: Any, metrics: Any, group_id: Any = None) -> dict[str, float]:
        """Replaces the library's grouped AUC, which starts a pool of processes for every call."""
        return {"gAUC": self.metric(y_true, y_pred)}


class FuxiCtr:
    """The model and its data loaders."""

    def __init__(self, task: dict[str, Any], timer: EpochTimer) -> None:
        self.task = task
        self.features = FeatureMap("rows", task["rows"])
        table = {"vocab_size": task["vocab_size"], "padding_idx": 0}
        sequence = {"type": "sequence", "max_len": task["max_history"], "padding_idx": 0}
        self.features.features = OrderedDict(
            target={"type": "categorical", **table},
            history={**sequence, **table, "share_embedding": "target"},
            mark={**sequence, "vocab_size": 3, "embedding_dim": MARK_WIDTH},
            **{name: {"type": "categorical", "vocab_size": CONTEXT_VALUES} for name in CONTEXT},
        )
        self.features.labels = ["label"]
        self.model = Din(self.features, task, timer)
        Path(self.model.model_dir).mkdir(exist_ok=True)

    def fit(self) -> None:
        """Trains; the library restores the best weights."""
        train, valid = self._load(stage="train")
        self.model.fit(train, epochs=self.task["epochs"], validation_data=valid)

    def score(self) -> Any:
        """Click probabilities of the test rows."""
        return self.model.predict(self._load(stage="test"))

    def _load(self, stage: str) -> Any:
        files = {f"{split}_data": f"{self.task['rows']}/{split}.npz" for split in ("train", "valid", "test")}
        return RankDataLoader(self.features, stage, **files, batch_size=self.task["batch"], num_workers=0)


if __name__ == "__main__":
    run(FuxiCtr)
