"""YAML configurations, layered; one per thing a user may run."""
