"""The LightningModules, which step, log and optimise, and the callbacks that watch and guard them."""
