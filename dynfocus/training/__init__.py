"""Training: recipes, data, and a run on transformers' Trainer. The command line is `dynfocus train RECIPE.yaml`."""
