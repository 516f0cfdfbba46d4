"""Fills the item store of a release: the rows of its catalog, the items for neighbor searches, facts of its scorer."""

from collections.abc import Iterator
from pathlib import Path

from coldstart.config import UserError
from coldstart.config.recipe import Store
from coldstart.data.item_table import ItemTable, Rows, check_columns
from coldstart.methods.available import find_method
from coldstart.methods.base import ItemAdaptor
from coldstart.rankers.storage import read_item_index
from coldstart.registry import Release
from coldstart.serving.core.scorer_info import ScorerInfo
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.row_layout import adapt_table


def bootstrap_store(release: Release, store_dir: Path, settings: Store) -> None:
    """Fills the store of a release, unless it is filled already.

    Args:
        release: From the registry.
        store_dir: Parent directory of all stores.
        settings: `serving.store` of the recipe.

    Raises:
        UserError: the parts of the release do not read each other's columns, or the store has other columns.
    """
    method = find_method(release.method)
    adaptor = method.load_adaptor(release.paths)
    store = ItemStore(store_dir, release.scorer.fingerprint, adaptor.outputs, settings)
    try:
        item_ids = list(read_item_index(method.catalog_dir(release.paths)))
        store.write_catalog(item_ids, _catalog_rows(release, adaptor, len(item_ids)))
        if not store.neighbors.exists:
            index, vectors = method.neighbor_rows(release.paths)
            store.neighbors.write([item_ids[item - 1] for item in index], vectors)
        if not ScorerInfo.exists(store.directory):
            scorer = method.load_scorer(release.paths)
            check_columns(adaptor.outputs, scorer.inputs, table=f"the adaptor of {release.name}", reader="its scorer")
            ScorerInfo(adaptor.outputs, scorer.reads_history, scorer.id_weight.detach().numpy()).write(store.directory)
    finally:
        store.close()


def open_store(release: Release, store_dir: Path, settings: Store) -> ItemStore:
    """Opens the store of a release.

    Raises:
        UserError: its rows have other columns than the release.
    """
    columns = find_method(release.method).load_adaptor(release.paths).outputs
    return ItemStore(store_dir, release.scorer.fingerprint, columns, settings)


def _catalog_rows(release: Release, adaptor: ItemAdaptor, items: int) -> Iterator[Rows]:
    """Rows of the catalog by item index, row 0 included."""
    table = ItemTable.open(release.items.path)
    check_columns(table.specs, adaptor.inputs, table=f"the item table of {release.name}", reader="its adaptor")
    if len(table) != items + 1:
        raise UserError(
            f"release {release.name}: its item table has {len(table) - 1} items, but its catalog has {items}; run the "
            "stages from the encoder on again"
        )
    for _, columns in table.select(adaptor.inputs).passes():
        yield adapt_table(adaptor, ItemTable(columns))
