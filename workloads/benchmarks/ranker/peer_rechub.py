"""DIN and DCNv2 of torch-rechub, with its `CTRTrainer` and `DataGenerator`."""

from typing import Any

from peer_program import EpochTimer, columns, grouped_auc, run
from torch.utils.data import DataLoader
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN, DCNv2
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator, TorchDataset

SEQUENCES, CONTEXT = ["clicked", "skipped"], ["rate", "seen", "gap"]
CONTEXT_VALUES = 64


class TimedTrainer(CTRTrainer):
    """The library's trainer with an epoch timer."""

    epoch_timer: EpochTimer

    def train_one_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """Times the inherited method."""
        with self.epoch_timer.epoch():
            return super().train_one_epoch(*args, **kwargs)


class Rechub:
    """One model, its trainer and its loaders."""

    def __init__(self, task: dict[str, Any], timer: EpochTimer) -> None:
        self.task = task
        width = task["embedding_dim"]
        target = SparseFeature("target", task["vocab_size"], width, padding_idx=0)
        pooling = "concat" if task["model"] == "din" else "mean"
        history = [
            SequenceFeature(name, task["vocab_size"], width, pooling, shared_with="target", padding_idx=0)
            for name in SEQUENCES
        ]
        context = [SparseFeature(name, CONTEXT_VALUES, width) for name in CONTEXT]
        deep = {"dims": task["mlp_units"], "dropout": task["dropout"]}
        if task["model"] == "din":
            # The library's attention needs one target per history.
            model = DIN(context, history, [target] * len(history), deep, {"dims": task["attention"]})
        else:
            model = DCNv2([target, *history, *context], task["cross_layers"], deep, use_low_rank_mixture=False)
        self.model = model
        self.valid = columns(task["rows"], "valid")
        self.trainer = TimedTrainer(
            model,
            optimizer_params={"lr": task["learning_rate"], "weight_decay": task["l2"]},
            n_epoch=task["epochs"],
            earlystop_patience=task["patience"],
            model_path=task["out"],
        )
        self.trainer.epoch_timer = timer
        self.trainer.evaluate_fn = grouped_auc(self.valid, timer)

    def fit(self) -> None:
        """Trains and restores the best weights; the library itself restores them only after an early stop."""
        train = columns(self.task["rows"], "train")
        loaders = DataGenerator(_inputs(train), train["label"]).generate_dataloader(
            _inputs(self.valid),
            self.valid["label"],
            _inputs(self.valid),
            self.valid["label"],
            batch_size=self.task["batch"],
        )
        self.trainer.fit(loaders[0], loaders[1])
        self.model.load_state_dict(self.trainer.early_stopper.best_weights)

    def score(self) -> Any:
        """Click probabilities of the test rows."""
        test = columns(self.task["rows"], "test")
        loader = DataLoader(TorchDataset(_inputs(test), test["label"]), batch_size=self.task["batch"])
        return self.trainer.predict(self.model, loader)


def _inputs(table: dict[str, Any]) -> dict[str, Any]:
    return {name: table[name] for name in ["target", *SEQUENCES, *CONTEXT]}


if __name__ == "__main__":
    run(Rechub)
