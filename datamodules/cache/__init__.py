"""The latent cache: what the frozen backbones say about every clip, written once, read by many."""
