"""The ground that everything stands on: settings, memory, standard streams, signals, and when kernels may run."""
