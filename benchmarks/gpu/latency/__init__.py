"""What one time step's exchange of h, and its arithmetic, cost on a device: the figures behind the choice of kernel.

The sources stand alone, with the few instructions they need: they measured before there was a kernel.
"""
