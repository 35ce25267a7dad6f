"""The paper's ablation on videos we can make: the demo's last training stage, once for each variant and seed."""
