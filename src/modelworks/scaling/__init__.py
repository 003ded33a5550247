"""What to train: laws of loss by size, data and compute, and plans that follow from them."""
