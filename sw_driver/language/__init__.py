"""Language models in the formats of cores: perplexity, and text from the RTL."""
