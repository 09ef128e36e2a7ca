"""Make a model smaller or faster: passes from Keras to Keras, and the recipes that chain them."""
