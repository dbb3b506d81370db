"""A small language model of the Llama architecture, its text, its training and its weights."""
