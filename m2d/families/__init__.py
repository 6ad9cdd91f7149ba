"""What differs between base models, a package each; the rest of m2d knows no base model by name."""
