"""Building transformers models from a checkpoint or a pack."""
