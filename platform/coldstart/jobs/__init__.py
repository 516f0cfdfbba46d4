"""Jobs: the programs that run on a Ray cluster, one module each. Light: a program is imported when it is run."""

from importlib import import_module

PROGRAMS = {
    name: f"{__name__}.{module}"
    for name, module in {
        "pipeline": "pipeline",
        "demo": "demo",
        "doctor": "doctor",
        "prepare": "stages.prepare",
        "train_ranker": "stages.train_ranker",
        "train_oracle": "stages.train_oracle",
        "import_ranker": "stages.import_ranker",
        "register": "stages.register",
        "update": "stages.update",
        "evaluate": "analysis.evaluate",
        "compare": "analysis.compare",
        "compare_releases": "analysis.compare_releases",
        "serve": "serving.serve",
        "refresh": "serving.refresh",
    }.items()
}
"""Job -> its module. The stages of a method are jobs, too: `stages.method_stage` runs them."""
UNCHECKED = ("doctor", "serve", "refresh", "register", "compare_releases")
"""Jobs that do not ask the nodes first whether they can run the recipe: they train nothing, or ask by themselves."""


def run_job(name: str) -> None:
    """Runs a job, or the stage of that name of the recipe's method, with the arguments of this process."""
    if name in PROGRAMS:
        import_module(PROGRAMS[name]).main()
    else:
        import_module(f"{__name__}.stages.method_stage").main(name)
