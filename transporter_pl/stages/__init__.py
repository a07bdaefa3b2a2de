"""The LightningModules: they step, log and optimise."""
