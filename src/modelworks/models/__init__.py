"""Model families: one file each, torch modules that train and serve as the reference."""
