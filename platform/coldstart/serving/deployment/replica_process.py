"""The process of a replica, before it loads anything."""

from coldstart.ray_compat.serve import listen_on_node_address
from coldstart.serving.core.malloc import limit_heap_growth


def set_up_process() -> None:
    """Limits the heap, and where the process listens. Called first in the constructor of every deployment."""
    limit_heap_growth()
    listen_on_node_address()
