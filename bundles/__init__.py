"""MONAI bundles: configs that name the parts, metadata, docs and weights."""
