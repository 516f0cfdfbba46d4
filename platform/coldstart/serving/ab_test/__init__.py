"""The A/B test of a challenger: which users are in it, and when it is aborted."""
