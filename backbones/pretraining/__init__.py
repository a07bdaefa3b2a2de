"""Recipes that train the small shipped backbones."""
