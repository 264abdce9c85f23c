"""OpenVINO: the choice of compute precision, and quantisation to int8."""
