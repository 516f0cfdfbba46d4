"""Hand-over: what stands in an item's slot while it warms up, from the proxy alone to the ID row alone.

Legend: `d` ID width, `V` vocabulary.
"""

from torch import Tensor

CHOICES = (0, 3, 10, 30, 100)
"""Train events by which an item may have been handed over; 0 is at once."""


def blend(ids: Tensor, proxies: Tensor, events: Tensor, *, until: int) -> Tensor:
    """ID rows `[V, d]` and proxies `[V, d]`, mixed by train events `[V]`.

    The ID row's share grows linearly to all at `until` events, so an item with as many or more is never touched; one
    without any has its proxy whole.

    Args:
        ids: [V, d] OOV where an item has no row of its own.
        proxies: [V, d].
        events: [V].
        until: 0 gives every item with an event its ID row.
    """
    share = (events > 0).float() if until == 0 else (events / until).clamp(max=1)
    # Not `share * ids + ...`: rows that are not mixed keep their bits.
    return proxies.lerp(ids, share.unsqueeze(-1))
