"""What the GPU kernels compile to, read off their cubins and held to a budget: no GPU is needed. See __main__.py."""
