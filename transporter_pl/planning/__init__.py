"""What a run costs, from configurations alone."""
