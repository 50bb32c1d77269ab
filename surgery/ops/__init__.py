"""Tensor operations of every model, with their kernels."""
