"""Statistics of serving: collected in each gateway, added up over all, exported to Prometheus."""
