import numpy as np

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.protocol.partial_metrics import compute_metrics
from coldstart.evaluation.protocol.protocol import EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import warm_up_edges
from coldstart.evaluation.protocol.summary import Summary, build_summary


def scored_rows(
    user: np.ndarray,
    label: np.ndarray,
    train_events: np.ndarray,
    logits: dict[str, np.ndarray],
    item_effect: dict[str, np.ndarray] | None = None,
    *,
    item: np.ndarray | None = None,
    age_s: np.ndarray | None = None,
) -> ScoredRows:
    """Rows where half of the train events were clicks. Every row has its own item unless `item` is given."""
    n = len(user)
    return ScoredRows(
        user_idx=user,
        item_idx=np.arange(1, n + 1) if item is None else item,
        event=np.arange(n),
        timestamp=np.arange(n),
        label=label,
        train_events=train_events,
        train_clicks=train_events // 2,
        age_s=np.full(n, np.nan) if age_s is None else age_s,
        logits=logits,
        item_effect=item_effect or {},
    )


def protocol_of(rows: ScoredRows, settings: Evaluation | None = None) -> EvaluationProtocol:
    edges = warm_up_edges(rows.train_clicks)
    return EvaluationProtocol.of(rows.to_table().column_names, settings or Evaluation(), edges=edges, headline="fine")


def summary_of(rows: ScoredRows, *, num_resamples: int = 20, seed: int = 0) -> Summary:
    settings = Evaluation(num_resamples=num_resamples)
    return build_summary(compute_metrics(rows, protocol_of(rows, settings)), settings, seed=seed)


def drawn_rows() -> ScoredRows:
    """Scored rows. True log-odds are item effect plus personalization; `fine` has less noise than `coarse`."""
    rng = np.random.default_rng(1)
    users, items, n = 200, 60, 8000
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    item_effect = rng.normal(0, 1, items)[item]
    personalization = (rng.normal(0, 1, (users, 4))[user] * rng.normal(0, 0.5, (items, 4))[item]).sum(1)
    truth = item_effect + personalization
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    events = np.array([0, 0, 0, 4, 40, 400])[item % 6]
    context = rng.normal(0, 0.3, n)
    cold = events == 0
    seen = {
        "oov": np.zeros(n),
        "id": np.where(cold, 0, truth + rng.normal(0, 0.5, n)),
        "content_map": 0.3 * truth + rng.normal(0, 1, n),
        "coarse": 0.6 * truth + rng.normal(0, 1, n),
        "fine": truth + rng.normal(0, 0.7, n),
        "release": np.where(cold, truth + rng.normal(0, 0.7, n), truth),
    }
    logits = {name: values + context for name, values in seen.items()}
    logits |= {"content_oracle": truth, "oracle": truth}
    shared = {"coarse": 0.6 * item_effect, "fine": item_effect, "content_oracle": item_effect}
    return scored_rows(user, label, events, logits, shared, item=item + 1, age_s=rng.uniform(0, 400_000, n))
