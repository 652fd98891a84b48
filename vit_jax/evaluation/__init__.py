"""Measure how good a model is: losses, accuracy, calibration, few-shot evaluation, reports."""
