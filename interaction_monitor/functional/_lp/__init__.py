"""The linear programs of the sparsest and of the shared interactions, and their solvers."""
