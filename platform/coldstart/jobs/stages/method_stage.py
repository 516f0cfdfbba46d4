"""A stage of the recipe's method, as a program."""

from functools import partial

from coldstart.config import Artifact, Recipe, UserError
from coldstart.jobs.runner import recipe_arguments, run_program, run_stage
from coldstart.methods.available import find_method
from coldstart.methods.base import Stage


def main(stage: str) -> None:
    """Runs the stage of that name of the recipe's method.

    Raises:
        SystemExit: 2, the method has no such stage.
    """

    def run(recipe: Recipe) -> Artifact:
        return run_stage(stage, _find_stage(recipe, stage).run, recipe)

    description = f"The stage {stage} of the recipe's method."
    run_program(recipe_arguments(stage, description).parse_args(), run, check=partial(_find_stage, stage=stage))


def _find_stage(recipe: Recipe, stage: str) -> Stage:
    stages = {one.name: one for one in find_method(recipe.method.name).stages(recipe)}
    if stage not in stages:
        raise UserError(
            f"the method {recipe.method.name} has no stage {stage} with this recipe; it has {', '.join(stages)}"
        )
    return stages[stage]
