"""Opening packs safely and turning their files into named tensors."""
