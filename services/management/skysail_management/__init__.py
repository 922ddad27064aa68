"""The control plane: holds what operators asked for and makes the world match it."""
