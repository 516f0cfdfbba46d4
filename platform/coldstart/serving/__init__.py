"""Serving: a Ray Serve application that ranks known and brand-new items with a release from the registry."""
