"""Hot paths against a ceiling taken in the same run."""
