"""Ray Serve: the deployments of a release, their replicas, and how requests reach the gateways."""
