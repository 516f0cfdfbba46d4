"""The console: a page, and what it shows beside the models' answers."""

from coldstart.serving.console.samples import Samples, SampleUser

__all__ = ["SampleUser", "Samples"]
