"""Inference: modulated sampling, and what the VLM says about its videos."""
