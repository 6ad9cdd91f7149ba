"""Where weights live and what a film takes: memory modes, quantization, known cards, predictions."""
