"""The console, a web page that previews a new item: its files, schemas and sample data."""

from coldstart.serving.console.dataset_samples import DatasetSamples, SampleUser

__all__ = ["DatasetSamples", "SampleUser"]
