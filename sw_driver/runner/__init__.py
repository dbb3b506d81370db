"""Real layers and whole models on the simulated RTL, bit for bit."""
