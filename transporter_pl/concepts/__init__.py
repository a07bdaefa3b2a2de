"""Stage 2: pairs of words, the divergence between their readings, and the bank of concept vectors Q."""
