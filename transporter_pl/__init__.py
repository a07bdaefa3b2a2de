"""TRANSPORTER: look inside video vision-language models by turning their logits into video."""

__version__ = "0.1.0"
