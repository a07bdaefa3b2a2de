"""Feature visualisation carried over to video VLMs: gradient ascent on pixels, which ours is held against."""
