"""Statistics of the adaptor on cold items: how open its gate is, and the length and spread of its proxies.

Legend: `n` items, `d` ID width, `G` layer groups, `D` MLLM width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coldstart.methods.idproxy.adaptor import Adaptor

OPEN, CLOSED = 0.9, 0.1
"""A gate value above the first passes the layer states; one below the second blocks them."""


@torch.inference_mode()
def adaptor_stats(adaptor: Adaptor, coarse: Tensor, states: Tensor, ids: Tensor) -> dict[str, Any]:
    """Statistics over cold items, since their proxies are the ones that are served.

    Args:
        adaptor: In eval mode.
        coarse: [n, d] coarse proxies.
        states: [n, G, D] layer states.
        ids: [m, d] mature ID rows, for comparison.

    Returns:
        `gate` (mean, the shares `open` and `closed` of all gate values, the numbers `directions_open` and
        `directions_closed` by their mean over items, and `by_direction` [d]), None without a gate; `scale`; the median
        lengths `length` of the proxies and `id_length`; and `spread` and `id_spread`, the root mean square distance
        from the mean vector.
    """
    gates: list[Tensor] = []
    gate = getattr(adaptor, "gate", None)
    hook = gate.register_forward_hook(lambda _, inputs, output: gates.append(output)) if gate is not None else None
    try:
        fine = adaptor(coarse, states)
    finally:
        if hook is not None:
            hook.remove()
    return {
        "items": len(fine),
        "gate": _gate(torch.sigmoid(gates[-1])) if gates else None,
        "scale": float(adaptor.log_scale.exp()),
        "length": float(fine.norm(dim=-1).median()),
        "id_length": float(ids.norm(dim=-1).median()),
        "spread": _spread(fine),
        "id_spread": _spread(ids),
    }


def adaptor_text(stats: Mapping[str, Any]) -> str:
    """The paragraph of the report, from `adaptor_stats`."""
    length, spread, gate = stats["length"] / stats["id_length"], stats["spread"] / stats["id_spread"], stats["gate"]
    texts = []
    if gate:
        saturated = gate["open"] + gate["closed"]
        texts.append(
            f"Over {stats['items']:,} cold items, the gate passes {gate['mean']:.0%} of the contribution of the layer "
            f"states ({min(gate['by_direction']):.0%} to {max(gate['by_direction']):.0%} by direction). "
            f"{gate['open']:.0%} of the gate values are open and {gate['closed']:.0%} closed"
            + (", so the gate mixes the two sources rather than selecting one." if saturated < 0.1 else ".")
        )
    texts.append(
        f"Fine proxies of cold items have {length:.0%} of the length of mature ID rows and {spread:.0%} of their "
        "spread around the mean"
        + (": cold items differ less from each other than trained ones." if spread < 0.8 else ".")
    )
    return " ".join(texts)


def _gate(gate: Tensor) -> dict[str, Any]:
    mean = gate.mean(0)
    return {
        "mean": float(gate.mean()),
        "open": float((gate > OPEN).float().mean()),
        "closed": float((gate < CLOSED).float().mean()),
        "directions_open": int((mean > OPEN).sum()),
        "directions_closed": int((mean < CLOSED).sum()),
        "by_direction": mean.tolist(),
    }


def _spread(rows: Tensor) -> float:
    return float((rows - rows.mean(0)).square().sum(-1).mean().sqrt())
