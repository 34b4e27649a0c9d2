"""C++ that only the tests build: a program that runs the kernels under sanitizers, and bindings of their insides."""
