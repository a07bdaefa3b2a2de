"""Metrics of generated videos that torchmetrics lacks, as torchmetrics has them."""
