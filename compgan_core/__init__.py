"""Comp-GAN: the science. Tensors in, numbers out; knows nothing of clusters, buckets or terminals."""
