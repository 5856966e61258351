"""What all other folders build on: settings, memory, standard streams, signals, and when kernels may run."""
