"""The only place that uses private APIs of Ray; `tests/ray_compat` checks every name in the installed version.

`core` is light; `serve` and `train` import Ray Serve and Ray Train.
"""
