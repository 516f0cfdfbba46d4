"""Embedding of the catalog: the stage of that name of the recipe's method, as a program."""

from workloads.runner import main_of_method

if __name__ == "__main__":
    main_of_method("embed_items", __doc__)
