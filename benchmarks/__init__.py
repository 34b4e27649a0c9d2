"""Speed of gru_fused beside torch.nn.GRU: ``python -m benchmarks`` (see README.md)."""
