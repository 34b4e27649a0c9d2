"""On a GPU: ours, nn.GRU and cuDNN's persistent kernels called directly, timed by events, over sizes and dtypes."""
