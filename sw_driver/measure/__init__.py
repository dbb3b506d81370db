"""What cores and formats cost: errors on real layers, areas and energies side by side."""
