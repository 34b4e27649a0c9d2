"""Other GRUs to compare with, one file each, imported only where their packages are installed."""

import sys

# OpenVINO, when imported, forks a process that reports the use to its makers; without this package it does not.
sys.modules["openvino_telemetry"] = None
