import numpy as np

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.measured import measure
from coldstart.evaluation.protocol import Protocol
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.slices import warm_up_edges
from coldstart.evaluation.summary import Summary, summarise


def scored_rows(
    user: np.ndarray,
    label: np.ndarray,
    train_events: np.ndarray,
    logits: dict[str, np.ndarray],
    appeal: dict[str, np.ndarray] | None = None,
    *,
    item: np.ndarray | None = None,
    age_s: np.ndarray | None = None,
) -> ScoredRows:
    """Rows of which half the train events were clicks; every row has an item of its own unless they are given."""
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
        appeal=appeal or {},
    )


def protocol_of(rows: ScoredRows, settings: Evaluation | None = None) -> Protocol:
    edges = warm_up_edges(rows.train_clicks)
    return Protocol.of(rows.to_table().column_names, settings or Evaluation(), edges=edges)


def summary_of(rows: ScoredRows, *, bootstrap: int = 20, seed: int = 0) -> Summary:
    settings = Evaluation(bootstrap=bootstrap)
    return summarise(measure(rows, protocol_of(rows, settings)), settings, seed=seed)


def drawn_rows() -> ScoredRows:
    """Scored rows. True log-odds are appeal plus taste; `fine` sees both through noise, `coarse` less."""
    rng = np.random.default_rng(1)
    users, items, n = 200, 60, 8000
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    appeal = rng.normal(0, 1, items)[item]
    taste = (rng.normal(0, 1, (users, 4))[user] * rng.normal(0, 0.5, (items, 4))[item]).sum(1)
    truth = appeal + taste
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    events = np.array([0, 0, 0, 4, 40, 400])[item % 6]
    context = rng.normal(0, 0.3, n)
    cold = events == 0
    seen = {
        "oov": np.zeros(n),
        "id": np.where(cold, 0, truth + rng.normal(0, 0.5, n)),
        "mlp_map": 0.3 * truth + rng.normal(0, 1, n),
        "coarse": 0.6 * truth + rng.normal(0, 1, n),
        "fine": truth + rng.normal(0, 0.7, n),
        "release": np.where(cold, truth + rng.normal(0, 0.7, n), truth),
    }
    logits = {name: values + context for name, values in seen.items()}
    logits |= {"content_oracle": truth, "oracle": truth}
    shared = {"coarse": 0.6 * appeal, "fine": appeal, "content_oracle": appeal}
    return scored_rows(user, label, events, logits, shared, item=item + 1, age_s=rng.uniform(0, 400_000, n))
