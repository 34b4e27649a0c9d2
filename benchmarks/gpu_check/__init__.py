"""All that a machine with a GPU has to say about this project, in one command: ``make gpu-check OUT=dir``.

Stages (stages.py) run one after the other, each under its own time limit (runner.py). The runner needs Python
alone, so that it can still report where torch is missing or the build has failed.
"""
