"""Adaptation with few labelled images, evaluation, and data sets."""
