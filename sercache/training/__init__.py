"""The objective, sampling, the training loop and the ensemble."""
