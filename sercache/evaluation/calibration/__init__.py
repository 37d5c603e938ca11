"""What a probability is worth: calibration, class thresholds, and sets that hold the truth."""
