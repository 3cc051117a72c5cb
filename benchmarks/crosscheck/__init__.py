"""The same measurement by other people's software: plain transformers, lm-evaluation-harness, llama.cpp."""
